"""Latents and states on their way: here for the next caption, there for the next machine."""

from pathlib import Path

import pytest
import torch

from sidestep.config.schema import StorageSpec
from sidestep.data.unfinished import FOLDER, GoneError, Unfinished
from sidestep.runtime.canonical import safetensors_bytes
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


def flip(path: Path, at: int = -2) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_what_another_attempt_cleared_is_known_to_be_gone(tmp_path: Path, tensors: Store) -> None:
    Unfinished(machine(tmp_path, "one"), tensors).write("a", {"latents": torch.ones(2)})
    counted_on = Unfinished(machine(tmp_path, "two"), tensors)
    Unfinished(machine(tmp_path, "three"), tensors).clear()
    assert counted_on.has("a")
    with pytest.raises(GoneError, match="a"):
        counted_on.read("a")
    assert not counted_on.has("a")


def test_a_flipped_bit_is_noticed_and_the_other_place_is_asked(tmp_path: Path, tensors: Store) -> None:
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    unfinished.write("a", {"latents": torch.ones(2)})
    flip(tmp_path / "one" / "a")
    assert unfinished.read("a")["latents"].tolist() == [1, 1]
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    flip(tmp_path / "tensors" / FOLDER / "a")
    with pytest.raises(GoneError):
        unfinished.read("a")
    assert not unfinished.has("a")


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"x" * 100])
def test_what_is_no_file_of_tensors_is_as_good_as_gone(
    tmp_path: Path, tensors: Store, content: bytes
) -> None:
    machine(tmp_path, "one").write_bytes("a", content)
    with pytest.raises(GoneError):
        Unfinished(machine(tmp_path, "one"), tensors).read("a")


def test_what_was_written_under_another_name_is_not_used(tmp_path: Path, tensors: Store) -> None:
    """A whole file, in the place of another one: of another song, or of something else."""
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    for name in "ab":
        unfinished.write(name, {"latents": torch.ones(2)})
    (tmp_path / "one" / "a").write_bytes((tmp_path / "one" / "b").read_bytes())
    assert unfinished.read("a")["latents"].tolist() == [1, 1]  # the other place has it
    (tmp_path / "tensors" / FOLDER / "b").write_bytes((tmp_path / "tensors" / FOLDER / "a").read_bytes())
    (tmp_path / "one" / "b").unlink()
    with pytest.raises(GoneError):
        unfinished.read("b")


def test_what_an_older_version_left_says_nothing_of_itself_and_is_not_used(
    tmp_path: Path, tensors: Store
) -> None:
    tensors.write_bytes(f"{FOLDER}/a", safetensors_bytes({"latents": torch.ones(2)}))
    with pytest.raises(GoneError):
        Unfinished(machine(tmp_path, "one"), tensors).read("a")


def test_what_an_attempt_wrote_is_noted_for_the_next(tmp_path: Path, tensors: Store) -> None:
    Unfinished(machine(tmp_path, "one"), tensors).note_digest("key", "abc")
    unfinished = Unfinished(machine(tmp_path, "two"), tensors)
    assert unfinished.noted_digest("key") == "abc" and unfinished.noted_digest("other") is None
    unfinished.clear()
    assert unfinished.noted_digest("key") is None


def test_what_no_listing_shows_yet_is_cleared_too(
    tmp_path: Path, tensors: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    unfinished.write("a", {"latents": torch.ones(2)})
    Unfinished(machine(tmp_path, "two"), tensors).write("b", {"latents": torch.ones(2)})
    with monkeypatch.context() as patch:  # shows what the other wrote, and not yet what this one did
        patch.setattr(unfinished, "_listed_there", lambda: {"b"})
        unfinished.clear()
    assert tensors.list_files(FOLDER) == []


def test_a_folder_in_the_place_of_this_machine_s_copy(tmp_path: Path, tensors: Store) -> None:
    """Nothing that lies in the workspace ends a job."""
    (tmp_path / "one" / "a").mkdir(parents=True)
    unfinished = Unfinished(machine(tmp_path, "one"), tensors)
    assert not unfinished.has("a")
    unfinished.write("a", {"latents": torch.ones(2)})
    assert unfinished.has("a") and unfinished.read("a")["latents"].tolist() == [1, 1]
