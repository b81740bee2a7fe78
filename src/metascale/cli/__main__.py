"""``python -m metascale.cli`` is the command ``metascale``."""

from metascale.cli.main import main

main()
