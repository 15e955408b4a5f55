"""An empty store of each kind."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
from sidestep.storage.store import Store


@pytest.fixture(params=["local", "file", "memory", "s3"])
def store(request: Any, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "s3":
        remote: Store = request.getfixturevalue("s3_server").store("a folder/deeper")
        return remote
    place = {
        "local": str(tmp_path / "a folder"),
        "file": (tmp_path / "a folder").as_uri(),
        "memory": f"memory://{uuid.uuid4()}/a folder",
    }[request.param]
    return open_store(place, StorageSpec())
