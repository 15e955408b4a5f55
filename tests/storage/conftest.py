from pathlib import Path

import pytest

from sidestep.runtime import atomic


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where every file that is written turns out to be on a disk without space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(atomic, "_begin", lambda file: file.symlink_to("/dev/full"))
    return folder
