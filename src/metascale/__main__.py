"""``python -m metascale`` is the command ``metascale``."""

from metascale.cli.main import main

main()
