import uuid
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import TEMPORARY
from sidestep.storage.store import Store, open_store
from tests.s3 import moto_endpoint, s3_server  # noqa: F401


@pytest.fixture(params=["local", "file", "memory", "s3"])
def store(request: Any, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "s3":
        return request.getfixturevalue("s3_server").store("a folder/deeper")
    place = {
        "local": str(tmp_path / "a folder"),
        "file": (tmp_path / "a folder").as_uri(),
        "memory": f"memory://{uuid.uuid4()}/a folder",
    }[request.param]
    return open_store(place, StorageSpec())


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the next file to be written turns out to be on a disk without space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    (folder / (TEMPORARY + uuid.uuid4().hex)).symlink_to("/dev/full")
    return folder
