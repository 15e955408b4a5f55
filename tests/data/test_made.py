"""Tensors that are there: which of them are what was written, and which are made again."""

from pathlib import Path

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.data.index import tensors_file
from sidestep.data.made import find_made
from sidestep.data.tensors import sample_bytes
from sidestep.data.unfinished import Unfinished
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.s3 import S3Server
from tests.songs import sha256, song
from tests.stores import store as store  # every kind

GOOD = sample_bytes(song(1))
FLIPPED = GOOD[:2000] + bytes([GOOD[2000] ^ 1]) + GOOD[2001:]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def unfinished(tmp_path: Path, store: Store) -> Unfinished:
    return Unfinished(LocalStore(tmp_path / "here", StorageSpec()), store)


def test_a_flipped_bit_is_damage_and_what_is_not_there_is_missing(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    for key, content in {"sound": GOOD, "damaged": FLIPPED}.items():
        store.write_bytes(tensors_file(key), content)
    known = dict.fromkeys(("sound", "damaged", "missing"), sha256(GOOD))
    sound, damaged = find_made(store, list(known), known, unfinished, workspace)
    assert (sound, damaged) == ({"sound": sha256(GOOD)}, {"damaged"})


def test_what_an_attempt_noted_that_came_to_no_end_is_compared(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    for key, content in {"sound": GOOD, "damaged": FLIPPED}.items():
        unfinished.note_digest(key, sha256(GOOD))
        store.write_bytes(tensors_file(key), content)
    sound, damaged = find_made(store, ["sound", "damaged"], {}, unfinished, workspace)
    assert (sound, damaged) == ({"sound": sha256(GOOD)}, {"damaged"})


def test_what_has_no_digest_counts_where_it_can_be_read(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    for key, content in {"sound": GOOD, "cut": GOOD[:-10], "empty": b""}.items():
        store.write_bytes(tensors_file(key), content)
    sound, damaged = find_made(store, ["sound", "cut", "empty"], {}, unfinished, workspace)
    assert (sound, damaged) == ({"sound": sha256(GOOD)}, {"cut", "empty"})


def test_a_damaged_copy_in_the_workspace_is_pulled_again(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    store.write_bytes("a.pt", GOOD)
    known = {"a": sha256(GOOD)}
    for _ in range(2):
        assert find_made(store, ["a"], known, unfinished, workspace) == (known, set())
        for copy in workspace.root.rglob("a.pt"):
            assert store.local_root is None
            copy.write_bytes(FLIPPED)


def test_what_is_made_need_not_fit_on_the_disk(s3_server: S3Server, tmp_path: Path) -> None:
    data = {f"{number}": sample_bytes(song(number)) for number in range(4)}
    for key, content in data.items():
        s3_server.store("tensors").write_bytes(f"{key}.pt", content)
    options = s3_server.options.model_copy(update={"cache_gb": 1.5 * len(data["0"]) / 1e9, "connections": 1})
    store, workspace = open_store(s3_server.place("tensors"), options), Workspace(tmp_path / "small")
    known = {key: sha256(content) for key, content in data.items()}
    unfinished = Unfinished(LocalStore(tmp_path / "here", StorageSpec()), store)
    assert find_made(store, list(known), known, unfinished, workspace) == (known, set())
    assert len(list(workspace.pulled(store.place).iterdir())) == 1
