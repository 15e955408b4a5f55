import io
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.schema import StorageSpec
from sidestep.config.training import Alternate
from sidestep.data.index import (
    Index,
    dataset_digest,
    find_files,
    read_index,
    record_tensors,
    write_index,
)
from sidestep.data.preprocessed import WAIT, Preprocessed
from sidestep.data.tensors import Sample, read_sample, sample_bytes, silent_context
from sidestep.runtime.errors import BadDataError, MissingInputError, StorageError
from sidestep.storage.local import LocalStore
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store
from tests.clock import Clock
from tests.facts import facts


@pytest.fixture
def sample() -> Sample:
    draw = torch.Generator().manual_seed(0)
    return Sample(
        torch.randn(7, 64, generator=draw),
        torch.randn(5, 32, generator=draw),
        torch.randn(7, 128, generator=draw),
        {"caption": "x", "bpm": None, "duration": 0.28, "is_instrumental": True},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "tensors"), StorageSpec())


def assert_equal(a: Sample, b: Sample) -> None:
    assert torch.equal(a.target_latents, b.target_latents)
    assert torch.equal(a.encoder_hidden_states, b.encoder_hidden_states)
    assert torch.equal(a.context_latents, b.context_latents)
    assert a.metadata == b.metadata


def saved(tmp_path: Path, **changes: Any) -> Path:
    """A valid file as a dict, with changes; None takes a key out."""
    content = {
        "target_latents": torch.ones(3, 64),
        "attention_mask": torch.ones(3),
        "encoder_hidden_states": torch.ones(2, 8),
        "encoder_attention_mask": torch.ones(2),
        "context_latents": torch.ones(3, 128),
        "metadata": {},
    } | changes
    path = tmp_path / "song.pt"
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_what_is_written_is_read(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(sample_bytes(sample))
    assert_equal(read_sample(tmp_path / "a.pt"), sample)
    assert_equal(read_sample(sample_bytes(sample)), sample)


def test_others_find_their_five_keys(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(sample_bytes(sample))
    data = torch.load(tmp_path / "a.pt", weights_only=True)
    shapes = {key: tuple(value.shape) for key, value in data.items() if key != "metadata"}
    assert shapes == {
        "target_latents": (7, 64),
        "attention_mask": (7,),
        "encoder_hidden_states": (5, 32),
        "encoder_attention_mask": (5,),
        "context_latents": (7, 128),
    }
    assert data["attention_mask"].all() and data["encoder_attention_mask"].all()
    assert data["metadata"]["caption"] == "x"


def test_views_are_saved_without_what_they_are_cut_from(sample: Sample) -> None:
    big = torch.zeros(1_000, 64)
    big[:7] = sample.target_latents
    assert sample_bytes(replace(sample, target_latents=big[:7])) == sample_bytes(sample)


def test_the_same_sample_is_the_same_bytes_in_every_process() -> None:
    program = (
        "import torch; from sidestep.data.tensors import Sample, sample_bytes\n"
        "sample = Sample(*(torch.ones(3, n) for n in (64, 8, 128)), {'b': 'x', 'a': [1, 'x']})\n"
        "content = sample_bytes(sample)"
    )
    here: dict[str, Any] = {}
    exec(program, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{program}; import sys; sys.stdout.buffer.write(content)"],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    ).stdout
    assert there == here["content"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16])
def test_files_of_other_trainers_are_trimmed_of_their_pads(
    sample: Sample, tmp_path: Path, dtype: torch.dtype, mask_dtype: torch.dtype
) -> None:
    """769 tokens with pads at the end, half precision, and masks of whatever type."""
    conditions = torch.full((769, 32), torch.nan, dtype=dtype)  # pads may hold anything
    conditions[:5] = sample.encoder_hidden_states
    mask = torch.zeros(769, dtype=mask_dtype)
    mask[:5] = 1
    path = saved(
        tmp_path,
        target_latents=sample.target_latents.to(dtype),
        attention_mask=torch.ones(7, dtype=dtype),
        encoder_hidden_states=conditions,
        encoder_attention_mask=mask,
        context_latents=sample.context_latents.to(dtype),
        metadata=sample.metadata,
    )
    read = read_sample(path)
    assert read.encoder_hidden_states.dtype == read.target_latents.dtype == torch.float32
    assert torch.equal(read.encoder_hidden_states, sample.encoder_hidden_states.to(dtype).float())
    assert read.metadata == sample.metadata


ALTERNATES: tuple[Alternate, ...] = ("trigger", "genre")


def test_other_prompts_lie_beside_the_five_keys_as_upstream_has_them(sample: Sample) -> None:
    more = replace(sample, alternates={"genre": torch.ones(2, 32), "trigger": torch.zeros(3, 32)})
    data = torch.load(io.BytesIO(sample_bytes(more)), weights_only=True)
    plain = torch.load(io.BytesIO(sample_bytes(sample)), weights_only=True)
    assert data.keys() - plain.keys() == {
        *("encoder_hidden_states_genre", "encoder_attention_mask_genre"),
        *("encoder_hidden_states_trigger", "encoder_attention_mask_trigger"),
    }
    read = read_sample(sample_bytes(more), alternates=ALTERNATES)
    assert_equal(read, more)
    assert {name: tensor.tolist() for name, tensor in read.alternates.items()} == {
        name: tensor.tolist() for name, tensor in more.alternates.items()
    }
    assert set(read_sample(sample_bytes(more), alternates=ALTERNATES[1:]).alternates) == {"genre"}
    assert not read_sample(sample_bytes(sample), alternates=ALTERNATES).alternates


def test_pads_of_other_prompts_are_trimmed(tmp_path: Path) -> None:
    conditions = torch.full((9, 8), torch.nan, dtype=torch.bfloat16)
    conditions[:2] = 3
    path = saved(
        tmp_path,
        encoder_hidden_states_genre=conditions,
        encoder_attention_mask_genre=torch.tensor([1, 1, *[0] * 7]),
    )
    assert torch.equal(read_sample(path, alternates=ALTERNATES).alternates["genre"], torch.full((2, 8), 3.0))


@pytest.mark.parametrize(
    ("conditions", "mask", "message"),
    [
        (torch.ones(2, 8), None, "no tensor encoder_attention_mask_genre"),
        (torch.ones(2, 8), torch.ones(3), r"encoder_attention_mask_genre should be a mask \[2\]"),
        (torch.ones(2, 8), torch.zeros(2), "encoder_attention_mask_genre leaves nothing"),
        (torch.full((2, 8), torch.nan), torch.ones(2), "encoder_hidden_states_genre has values that are not"),
        (torch.ones(2, 9), torch.ones(2), "encoder_hidden_states_genre .* 9 wide"),
        ([1.0], torch.ones(2), "encoder_hidden_states_genre is not a plain tensor"),
    ],
)
def test_a_damaged_prompt_is_refused_by_who_would_train_on_it(
    tmp_path: Path, conditions: Any, mask: Any, message: str
) -> None:
    path = saved(tmp_path, encoder_hidden_states_genre=conditions, encoder_attention_mask_genre=mask)
    assert len(read_sample(path).target_latents) == 3
    with pytest.raises(BadDataError, match=rf"song\.pt .*{message}"):
        read_sample(path, alternates=ALTERNATES)


def test_padded_frames_are_trimmed_too(tmp_path: Path) -> None:
    read = read_sample(saved(tmp_path, attention_mask=torch.tensor([1, 1, 0])))
    assert len(read.target_latents) == len(read.context_latents) == 2


def test_metadata_is_not_needed(tmp_path: Path) -> None:
    assert read_sample(saved(tmp_path, metadata=None)).metadata == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_latents": None}, "has no tensor target_latents"),
        ({"encoder_attention_mask": None}, "has no tensor encoder_attention_mask"),
        ({"context_latents": [1.0]}, "context_latents is not a plain tensor"),
        ({"target_latents": torch.ones(3, 64).to_sparse()}, "plain tensors"),
        (
            {"target_latents": torch.ones(1, 3, 64)},
            r"target_latents should be floats \[n, 64\], but is .* \[1, 3, 64\]",
        ),
        ({"target_latents": torch.ones(3, 64, dtype=torch.int64)}, "should be floats"),
        ({"context_latents": torch.ones(3, 64)}, r"context_latents should be floats \[n, 128\]"),
        ({"context_latents": torch.ones(4, 128)}, "context_latents has 4 frames, target_latents 3"),
        ({"attention_mask": torch.ones(4)}, r"attention_mask should be a mask \[3\]"),
        ({"encoder_attention_mask": torch.zeros(2)}, "encoder_attention_mask leaves nothing"),
        (
            {
                "target_latents": torch.ones(0, 64),
                "context_latents": torch.ones(0, 128),
                "attention_mask": torch.ones(0),
            },
            "nothing",
        ),
        (
            {"encoder_hidden_states": torch.full((2, 8), torch.inf)},
            "encoder_hidden_states has values that are not",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadDataError, match=rf"song\.pt .*{message}"):
        read_sample(saved(tmp_path, **changes))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.target), "w"))


def test_a_pickle_that_runs_code_is_refused_not_run(tmp_path: Path) -> None:
    for write in (
        lambda value, path: torch.save(value, path),
        lambda value, path: path.write_bytes(pickle.dumps(value)),
    ):
        write({"target_latents": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
        with pytest.raises(BadDataError, match=r"bomb\.pt"):
            read_sample(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_tensor_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BadDataError, match=r"a\.pt"):
        read_sample(tmp_path / "a.pt")


def test_a_truncated_file(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(sample_bytes(sample)[:-100])
    with pytest.raises(BadDataError, match=r"a\.pt"):
        read_sample(tmp_path / "a.pt")


def test_a_dict_of_something_else(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(BadDataError, match=facts("list", "dict")):
        read_sample(tmp_path / "a.pt")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"a\.pt"):
        read_sample(tmp_path / "a.pt")


def test_the_context_is_silence_and_ones() -> None:
    silence = torch.randn(1, 15_000, 64)
    context = silent_context(silence, 10)
    assert torch.equal(context[:, :64], silence[0, :10]) and (context[:, 64:] == 1).all()
    assert context.shape == (10, 128)


def test_without_an_index_every_file_is_a_sample(store: Store) -> None:
    for path in ("b.pt", "a.pt", "notes.txt", "deeper/c.pt", "._a.pt"):
        store.write_bytes(path, b"x")
    assert [file.path for file in Preprocessed(store).samples()] == ["a.pt", "b.pt"]


def test_with_an_index_only_its_files_are_samples(store: Store) -> None:
    for path in ("old.pt", "one.pt", "two.pt"):
        store.write_bytes(path, b"x")
    write_index(store, Index(samples={"/songs/b": "one", "/songs/a": "two", "/songs/same as b": "one"}))
    assert [file.path for file in Preprocessed(store).samples()] == ["one.pt", "two.pt"]


def test_an_unfinished_dataset_is_not_trained_on(store: Store) -> None:
    store.write_bytes("one.pt", b"x")
    write_index(store, Index(samples={"/songs/b": "one", "/songs/a": "two"}))
    with pytest.raises(MissingInputError, match=facts("of 2", " 1 ")):
        Preprocessed(store).samples()


class LateStore(LocalStore):
    """A folder that shows new files to nobody who lists it, and the files in `late` to nobody at all."""

    late: tuple[str, ...] = ()

    def list_files(self, path: str = "") -> list[FileInfo]:
        return []

    def stat(self, path: str) -> FileInfo | None:
        return None if path in self.late else super().stat(path)


@pytest.fixture
def late_store(tmp_path: Path) -> LateStore:
    """With the tensors of two songs, whose digests its index has."""
    store = LateStore(tmp_path / "tensors", StorageSpec())
    store.local_root = None  # as in a bucket
    for path in ("one.pt", "two.pt"):
        store.write_bytes(path, b"x")
    write_index(store, Index(samples={"/a": "one", "/b": "two"}, tensors={"one": "1", "two": "2"}))
    return store


def test_what_a_listing_lacks_is_asked_for_by_itself(late_store: LateStore) -> None:
    found = Preprocessed(late_store).samples(wait=replace(WAIT, seconds=0))
    assert [file.path for file in found] == ["one.pt", "two.pt"]
    assert find_files(late_store, ["two.pt", "three.pt"]).keys() == {"two.pt"}


def test_what_was_written_is_waited_for(late_store: LateStore) -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 20:
            late_store.late = ()

    late_store.late = ("two.pt",)
    found = Preprocessed(late_store).samples(wait=replace(WAIT, clock=clock, sleep=sleep))
    assert [file.path for file in found] == ["one.pt", "two.pt"] and 20 < clock.now < 40


def test_what_does_not_come_is_a_fault_of_the_store(late_store: LateStore) -> None:
    clock = Clock()
    late_store.late = ("two.pt",)
    with pytest.raises(
        StorageError, match=facts(late_store.place, "two.pt", "(b)", "2 songs", " 1 ", "preprocess")
    ):
        Preprocessed(late_store).samples(wait=replace(WAIT, clock=clock, sleep=clock.sleep))
    assert 60 <= clock.now < 80


def test_what_is_gone_from_a_disk_is_not_waited_for(late_store: LateStore) -> None:
    clock = Clock()
    late_store.local_root = late_store.root
    late_store.late = ("two.pt",)
    with pytest.raises(MissingInputError, match=facts("two.pt", "(b)", "2 songs", " 1 ", "preprocess")):
        Preprocessed(late_store).samples(wait=replace(WAIT, clock=clock, sleep=clock.sleep))
    assert clock.now == 0


def test_a_folder_in_a_file_s_place_is_not_waited_for(late_store: LateStore) -> None:
    clock = Clock()
    for name in ("two.pt", "index.json"):
        (late_store.root / name).unlink()
        (late_store.root / name).mkdir()
        with pytest.raises(BadDataError, match=facts(f"{late_store.place}/{name} is a folder")):
            Preprocessed(late_store).samples(wait=replace(WAIT, clock=clock, sleep=clock.sleep))
    assert clock.now == 0


def test_what_was_never_made_is_not_waited_for(late_store: LateStore) -> None:
    clock = Clock()
    late_store.late = ("one.pt", "two.pt")
    write_index(late_store, Index(samples={"/a": "one", "/b": "two"}, tensors={"one": "1"}))
    with pytest.raises(MissingInputError, match=facts("of 2", " 1 ")):
        Preprocessed(late_store).samples(wait=replace(WAIT, clock=clock, sleep=clock.sleep))
    assert clock.now == 0


def test_digests_are_added_to_what_another_attempt_wrote_meanwhile(store: Store) -> None:
    mine, other = Index(samples={"/a": "one"}), Index(samples={"/b": "two"}, tensors={"two": "2"})
    record_tensors(store, mine, {"one": "1"})
    assert read_index(store) == replace(mine, tensors={"one": "1"})
    write_index(store, other)
    record_tensors(store, mine, {"one": "1"})
    assert read_index(store) == replace(other, tensors={"one": "1", "two": "2"})


def test_an_index_of_an_older_version_has_no_digests(store: Store) -> None:
    store.write_bytes("index.json", b'{"files": {}, "samples": {"/a": "one"}}')
    assert read_index(store) == Index(samples={"/a": "one"})


def test_an_empty_place_has_no_samples(store: Store) -> None:
    assert Preprocessed(store).samples() == [] and read_index(store) is None


def test_a_digest_holds_while_size_and_version_do(store: Store) -> None:
    index = Index()
    index.remember(store, FileInfo("a.mp3", 5, "1"), "digest")
    write_index(store, index)
    read = read_index(store)
    assert read == index
    assert read.sha256(store, FileInfo("a.mp3", 5, "1")) == "digest"
    for changed in (FileInfo("a.mp3", 6, "1"), FileInfo("a.mp3", 5, "2"), FileInfo("b.mp3", 5, "1")):
        assert read.sha256(store, changed) is None
    assert read.sha256(store.child("other"), FileInfo("a.mp3", 5, "1")) is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b'{"files": {}, "samples": {"a": 1}}', b'{"files": {"a": {}}, "samples": {}}'),
        b'{"files": {}, "samples": {}, "tensors": {"a": 1}}',
        b'{"files": {"a": {"size": "1", "version": "1", "sha256": "1"}}, "samples": {}}',
        b'{"files": {"a": {"size": 1, "version": "1", "sha256": 1}}, "samples": {}}',
    ],
)
def test_a_damaged_index(store: Store, content: bytes) -> None:
    store.write_bytes("index.json", content)
    with pytest.raises(BadDataError, match=r"index\.json"):
        read_index(store)


def test_a_dataset_is_known_by_the_names_and_sizes_of_its_files() -> None:
    files = [FileInfo("a.pt", 3, "1"), FileInfo("b.pt", 4, "1")]
    digest = dataset_digest(files)
    assert dataset_digest(files[::-1]) == digest
    assert dataset_digest([replace(file, version="2") for file in files]) == digest  # in another place
    others = [files[:1], [files[0], replace(files[1], size=5)], [files[0], replace(files[1], path="c.pt")]]
    assert digest not in [dataset_digest(other) for other in others]
