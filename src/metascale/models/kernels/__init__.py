"""Operations with derivatives of their own, for speed or memory. Private to the models."""
