"""Nouns that every room shares: types, tree arithmetic, named randomness, canonical ids, durable files, errors."""
