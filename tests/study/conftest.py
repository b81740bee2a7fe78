from __future__ import annotations

import threading

import pytest

from metascale.study.store.index import Index


@pytest.fixture(autouse=True)
def _indexes_are_closed(monkeypatch):
    """Close what a test left open: an unclosed connection is a warning, and warnings are errors."""
    opened = []
    initialize = Index.__init__

    def remember(self, *arguments, **options):
        initialize(self, *arguments, **options)
        if threading.current_thread() is threading.main_thread():
            opened.append(self)

    monkeypatch.setattr(Index, "__init__", remember)
    yield
    for index in opened:
        index.close()
