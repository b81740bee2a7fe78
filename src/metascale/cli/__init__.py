"""The command line: arguments in, one call, words out. It is used from a shell and offers no names to Python."""

__all__: list[str] = []
