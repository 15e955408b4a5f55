"""Latents and states on their way: here for the next caption, there for the next machine."""

from pathlib import Path

import pytest
import torch

from sidestep.config.schema import StorageSpec
from sidestep.data.unfinished import FOLDER, Unfinished
from sidestep.storage.open import open_store
from sidestep.storage.store import Store


@pytest.fixture
def tensors(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "tensors"), StorageSpec())


def machine(tmp_path: Path, name: str) -> Store:
    return open_store(str(tmp_path / name), StorageSpec())


def test_another_machine_goes_on_with_what_was_made(tmp_path: Path, tensors: Store) -> None:
    first = Unfinished(machine(tmp_path, "one"), tensors)
    assert not first.has("a")
    first.write("a", {"latents": torch.arange(3.0)})
    second = Unfinished(machine(tmp_path, "two"), tensors)
    for unfinished in (first, second):
        assert unfinished.has("a") and not unfinished.has("b")
        assert unfinished.read("a")["latents"].tolist() == [0, 1, 2]


def test_when_all_tensors_are_made_only_the_machine_that_made_them_keeps_it(
    tmp_path: Path, tensors: Store
) -> None:
    tensors.write_bytes("song.pt", b"tensors")
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    unfinished.write("a", {"latents": torch.ones(2)})
    (tmp_path / "tensors" / FOLDER / "b").write_bytes((tmp_path / "one" / "a").read_bytes())
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    unfinished.write("c", {"latents": torch.zeros(2)})
    assert unfinished.has("b")
    unfinished.clear()
    assert unfinished.has("a") and unfinished.has("c") and not unfinished.has("b")
    assert unfinished.read("c")["latents"].tolist() == [0, 0]
    assert [file.path for file in tensors.list_files()] == ["song.pt"]
    assert tensors.list_files(FOLDER) == []
    assert Unfinished(machine(tmp_path, "one"), tensors).has("a")
    assert not Unfinished(machine(tmp_path, "two"), tensors).has("a")
