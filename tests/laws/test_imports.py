from __future__ import annotations

import subprocess
import sys


def test_the_room_loads_no_torch_and_no_plotting():
    code = (
        "import sys, pkgutil, importlib, metascale.laws as room, metascale.cli.laws\n"
        "[importlib.import_module(f'metascale.laws.{found.name}') for found in pkgutil.iter_modules(room.__path__)]\n"
        "heavy = ('torch', 'matplotlib', 'pandas', 'rich', 'scipy.stats')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("[]", "['rich']")  # typer itself may bring rich


def test_the_commands_load_nothing_heavy():
    code = (
        "import sys, metascale.cli.laws\nprint([name for name in ('numpy', 'scipy', 'torch') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
