"""`sidestep merge-index`: all shards, whichever one a spec or a platform says that this is."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.schema import StorageSpec
from sidestep.config.shards import shards_of
from sidestep.data.index import FileRecord, Index, write_index
from sidestep.data.shards import Dealt
from sidestep.runtime.errors import ExitCode
from sidestep.storage.open import open_store
from tests.facts import tells


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A place of two shards, each with one song."""
    store = open_store(str(tmp_path / "tensors"), StorageSpec())
    for shard in shards_of(2):
        place, digest = f"/songs/{shard.k}.wav", sha256(shard.name.encode()).hexdigest()
        store.write_bytes(f"{digest}.pt", shard.name.encode())
        index = Index(
            files={place: FileRecord(1, "1", digest)},
            samples={place: digest},
            tensors={digest: digest},
            dealt=Dealt(shard.name, "songs", "recipe", ("/songs",)),
        )
        write_index(store.child(shard.folder), index)
    return tmp_path / "tensors"


def test_it_is_no_shard_of_its_own(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge-index", "--dataset-dir", str(two), "--shards", "2", "--json"]
    assert main([*words, "--shard", "1"]) == ExitCode.USAGE
    assert tells(capsys.readouterr().err, "--shard", "cannot be set here")
    assert not (two / "index.json").exists()
    for name, value in (("SIDESTEP_PREPROCESS__SHARD", "1"), ("JOB_COMPLETION_INDEX", "7")):
        monkeypatch.setenv(name, value)
    assert main(words) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["songs"] == 2
