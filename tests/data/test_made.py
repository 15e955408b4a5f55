"""Tensors that are there: which of them are what was written, and which are made again."""

from dataclasses import replace
from pathlib import Path

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.data.index import Index, read_index, tensors_file, write_index
from sidestep.data.made import find_made
from sidestep.data.tensors import sample_bytes
from sidestep.data.unfinished import Unfinished
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.s3 import S3Server
from tests.songs import flip_a_bit, sha256, song
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
    made = find_made(store, list(known), Index(tensors=known), unfinished, workspace)
    assert (made.sound, made.damaged) == ({"sound": sha256(GOOD)}, {"damaged"})


def test_what_an_attempt_noted_that_came_to_no_end_is_compared(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    for key, content in {"sound": GOOD, "damaged": FLIPPED}.items():
        unfinished.note_digest(key, sha256(GOOD))
        store.write_bytes(tensors_file(key), content)
    made = find_made(store, ["sound", "damaged"], Index(), unfinished, workspace)
    assert (made.sound, made.damaged) == ({"sound": sha256(GOOD)}, {"damaged"})


def test_what_has_no_digest_counts_where_it_can_be_read(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    for key, content in {"sound": GOOD, "cut": GOOD[:-10], "empty": b""}.items():
        store.write_bytes(tensors_file(key), content)
    made = find_made(store, ["sound", "cut", "empty"], Index(), unfinished, workspace)
    assert (made.sound, made.damaged) == ({"sound": sha256(GOOD)}, {"cut", "empty"})


def test_a_damaged_copy_in_the_workspace_is_pulled_again(
    store: Store, unfinished: Unfinished, workspace: Workspace
) -> None:
    store.write_bytes("a.pt", GOOD)
    known = {"a": sha256(GOOD)}
    for _ in range(2):
        assert find_made(store, ["a"], Index(tensors=known), unfinished, workspace).sound == known
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
    assert find_made(store, list(known), Index(tensors=known), unfinished, workspace).sound == known
    assert len(list(workspace.pulled(store.place).iterdir())) == 1


def test_what_a_bucket_lists_as_it_was_stored_is_not_fetched(
    s3_server: S3Server, s3_calls: list[str], tmp_path: Path, workspace: Workspace
) -> None:
    """An older index does not say how: then all are fetched, once. Of another size or version they are, too;
    and what is gone is missing."""
    store = s3_server.store("tensors")
    unfinished = Unfinished(LocalStore(tmp_path / "here", StorageSpec()), store)
    samples = {key: sample_bytes(song(number)) for number, key in enumerate("abcd")}
    for key, content in samples.items():
        store.write_bytes(tensors_file(key), content)
    known = Index(tensors={key: sha256(content) for key, content in samples.items()})
    s3_calls.clear()
    first = find_made(store, samples, known, unfinished, workspace)
    assert first.sound == known.tensors and _fetched(s3_calls) == {"a.pt", "b.pt", "c.pt", "d.pt"}
    write_index(store, replace(known, stored=first.stored))
    s3_calls.clear()
    known = read_index(store) or Index()
    assert find_made(store, samples, known, unfinished, workspace) == first
    assert [call for call in s3_calls if ".pt" in call] == []

    flipped = samples["b"][:2000] + bytes([samples["b"][2000] ^ 1]) + samples["b"][2001:]
    store.write_bytes("b.pt", flipped)
    store.write_bytes("c.pt", samples["c"][:-10])
    store.delete("d.pt")
    s3_calls.clear()
    again = find_made(store, samples, known, unfinished, workspace)
    assert again.sound == {"a": sha256(samples["a"])} and again.damaged == {"b", "c"}
    assert _fetched(s3_calls) == {"b.pt", "c.pt"}


def _fetched(calls: list[str]) -> set[str]:
    return {call.rpartition("/")[2] for call in calls if call.startswith("GetObject")}


def test_a_file_on_a_disk_is_read_whatever_its_size_and_time(tmp_path: Path, workspace: Workspace) -> None:
    store = LocalStore(tmp_path / "tensors", StorageSpec())
    unfinished = Unfinished(LocalStore(tmp_path / "here", StorageSpec()), store)
    store.write_bytes("a.pt", GOOD)
    index = Index(tensors={"a": sha256(GOOD)})
    index.stored = find_made(store, ["a"], index, unfinished, workspace).stored
    write_index(store, index)
    flip_a_bit(tmp_path / "tensors/a.pt")
    known = read_index(store)
    assert known and find_made(store, ["a"], known, unfinished, workspace).damaged == {"a"}
