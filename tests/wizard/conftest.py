"""The wizard in a terminal, in a folder with the tensors of twelve songs, with settings of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .terminal import Terminal


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "sidestep"


@pytest.fixture
def terminal(config: Path) -> Iterator[Terminal]:
    Path("my_tensors").mkdir()
    for number in range(12):
        Path("my_tensors", f"{number}.pt").touch()
    opened = Terminal()
    yield opened
    opened.process.close(force=True)
