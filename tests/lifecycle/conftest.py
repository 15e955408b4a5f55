"""Commits that something happens at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.writer import Writer


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Has something done before each commit, by its step."""
    original = Writer.commit

    def before(do: Callable[[int], None]) -> None:
        def commit(self: Writer, folder: Path, name: str, step: int, *rest: Any) -> Any:
            do(step)
            return original(self, folder, name, step, *rest)

        monkeypatch.setattr(Writer, "commit", commit)

    return before
