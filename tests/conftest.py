"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets, where the machine has one."""
    named = os.environ.get("METASCALE_DATA")
    if not named:
        pytest.skip("METASCALE_DATA is not set: the real data sets are absent")
    return Path(named)
