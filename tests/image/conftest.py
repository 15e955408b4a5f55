"""What a job needs, made once for all tests of the image: songs, weights, folders for any user."""

from pathlib import Path

import pytest

from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.tasks import demo


def open_to_all(folder: Path) -> Path:
    """Make an empty folder that a container's user, whoever it is, may write."""
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with songs/ and checkpoints/, which every user can read."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SECONDS", 2.0)
        patch.setattr(demo, "TUNES", demo.TUNES[:2])
        demo.write_songs(folder / "songs")
    write_tiny_checkpoint(folder / "checkpoints", variants=["base"])
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in folder.parents:  # pytest's own folders are for their owner alone
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    return folder
