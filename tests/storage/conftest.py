import uuid
from pathlib import Path

import pytest

from sidestep.runtime.atomic import TEMPORARY


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the next file to be written turns out to be on a disk without space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    (folder / (TEMPORARY + uuid.uuid4().hex)).symlink_to("/dev/full")
    return folder
