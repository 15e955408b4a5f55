"""Folders of tensors of the ACE-Step app and other trainers: what counts, and what holds its own answer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep.config.schema import StorageSpec
from sidestep.data.index import Index, dataset_digest, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.tensors import Sample, context_kind, read_sample, silent_context
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.facts import facts
from tests.songs import song, write_songs

NAMES = ("0.pt", "1.pt", "2.pt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_songs(tmp_path / "made", [song(n) for n in range(3)])


@pytest.fixture
def store(folder: Path) -> Store:
    return open_store(str(folder), StorageSpec())


def write_manifest(folder: Path, *samples: object) -> None:
    (folder / "manifest.json").write_text(json.dumps({"metadata": {"name": "x"}, "samples": samples}))


def names(store: Store) -> list[str]:
    return [file.path for file in Preprocessed(store).samples()]


def test_a_folder_in_a_file_s_place(folder: Path, store: Store) -> None:
    write_manifest(folder, *NAMES)
    for name in ("1.pt", "manifest.json"):
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(BadDataError, match=facts(f"{store.place}/{name} is a folder")):
            names(store)


@pytest.mark.parametrize(
    "paths",
    [("2.pt", "0.pt"), ("/home/me/out/0.pt", "./tensors/2.pt"), ("D:\\out\\0.pt", "out\\2.pt", "2.pt")],
)
def test_the_manifest_names_the_dataset(
    folder: Path, store: Store, paths: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    write_manifest(folder, *paths)
    assert names(store) == ["0.pt", "2.pt"]
    Preprocessed(store).log_left_out()
    (told,) = caplog.messages
    assert "1 .pt" in told and "manifest.json" in told and "1.pt" in told.split(": ")[-1]


def test_unfinished_files_never_count(folder: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "1.pt").rename(folder / "1.tmp.pt")
    assert names(store) == ["0.pt", "2.pt"]
    Preprocessed(store).log_left_out()
    (told,) = caplog.messages
    assert "1 unfinished" in told and "1.tmp.pt" in told
    write_manifest(folder, "0.pt", "1.tmp.pt", "2.pt")
    with pytest.raises(MissingInputError, match=facts("1.tmp.pt")):
        names(store)


def test_a_file_that_is_named_and_missing(folder: Path, store: Store) -> None:
    write_manifest(folder, *NAMES, *(f"more/{n}.pt" for n in range(7, 9)))
    with pytest.raises(MissingInputError, match=facts("of 5", "2", "7.pt", "8.pt", "manifest.json", folder)):
        names(store)


def test_beside_our_index_a_manifest_plays_no_part(
    folder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    write_manifest(folder, "2.pt", "9.pt")
    write_index(store, Index(samples={"/a": "0", "/b": "1"}, tensors={"0": "", "1": ""}))
    assert names(store) == ["0.pt", "1.pt"]
    Preprocessed(store).log_left_out()
    assert not caplog.messages


def test_a_folder_of_which_all_is_named_keeps_its_digest(folder: Path, store: Store) -> None:
    before = dataset_digest(Preprocessed(store).samples())
    write_manifest(folder, *NAMES)
    assert dataset_digest(Preprocessed(store).samples()) == before


def test_a_manifest_of_something_else_plays_no_part(folder: Path, store: Store) -> None:
    (folder / "manifest.json").write_text('{"name": "an app", "icons": []}')
    assert names(store) == list(NAMES)


@pytest.mark.parametrize("content", ["{", "[]", '{"samples": {}}', '{"samples": [1]}', '{"samples": "0.pt"}'])
def test_a_damaged_manifest_is_named(folder: Path, store: Store, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BadDataError, match=facts(folder / "manifest.json")):
        names(store)


def test_conditions_of_the_genre_beside_are_passed_over(tmp_path: Path) -> None:
    made = song(4)
    tensors = {
        "target_latents": made.target_latents,
        "attention_mask": torch.ones(len(made.target_latents)),
        "encoder_hidden_states": made.encoder_hidden_states,
        "encoder_attention_mask": torch.ones(len(made.encoder_hidden_states)),
        "encoder_hidden_states_genre": torch.randn(9, 64),
        "encoder_attention_mask_genre": torch.ones(9),
        "context_latents": made.context_latents,
        "metadata": {"genre": "dub"},
    }
    torch.save(tensors, tmp_path / "g.pt")
    assert torch.equal(read_sample(tmp_path / "g.pt").encoder_hidden_states, made.encoder_hidden_states)


@pytest.fixture
def silence() -> Tensor:
    return 0.5 * torch.randn(1, 15_000, 64, generator=torch.Generator().manual_seed(9))


def with_context(sample: Sample, latents: Tensor) -> Sample:
    return replace(sample, context_latents=torch.cat([latents, torch.ones_like(latents)], dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_context_holds(silence: Tensor, dtype: torch.dtype) -> None:
    made = song(0, frames=40)
    rounded = made.target_latents.to(dtype).float()
    quiet = silent_context(silence.to(dtype), 40)
    assert context_kind(replace(made, context_latents=quiet), silence) == "silence"
    assert context_kind(with_context(made, rounded), silence) == "answer"
    assert context_kind(with_context(made, rounded.flip(0)), silence) == "other"
    assert context_kind(with_context(made, 1.1 * rounded), silence) == "other"
    silent_song = replace(made, target_latents=silence[0, :40], context_latents=quiet)
    assert context_kind(silent_song, silence) == "silence"


def test_a_mask_that_keeps_something_is_no_silence(silence: Tensor) -> None:
    made = song(0, frames=40)
    context = silent_context(silence, 40)
    context[3, 70] = 0
    assert context_kind(replace(made, context_latents=context), silence) == "other"
    longer = song(1, frames=15_010)
    assert context_kind(longer, silence) == "other"
