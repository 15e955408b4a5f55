"""Songs that need no sound: the dataset's readers only look at listings."""

from collections.abc import Callable
from pathlib import Path

import pytest

PlaceFiles = Callable[..., Path]


@pytest.fixture
def place_files(tmp_path: Path) -> PlaceFiles:
    """Writes small files below tmp_path and gives that folder."""

    def place(*paths: str, content: bytes = b"x") -> Path:
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return tmp_path

    return place
