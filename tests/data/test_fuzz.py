"""Whatever is in a file: it is read, or refused by a message; nothing else is raised, and nothing hangs."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.data.dataset import Song
from sidestep.data.entries import read_dataset
from sidestep.data.index import read_index
from sidestep.data.prompts import lyrics_prompt, text_prompt
from sidestep.data.sidecar import read_sidecar
from sidestep.data.tensors import Sample, read_sample, sample_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from tests.data.readers import songs_of

fuzz = settings(
    max_examples=150,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FIELDS = [
    *("audio_path", "filename", "caption", "lyrics", "genre", "bpm", "keyscale", "timesignature", "language"),
    *("is_instrumental", "custom_tag", "prompt_override", "tag_position", "genre_ratio", "all_instrumental"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=5,
)
PATHS = st.sampled_from(["a.mp3", "../a.mp3", "sub/../a.mp3", "/etc/hostname", "file:///etc/hostname", ""])
SAMPLES = st.lists(
    st.dictionaries(st.sampled_from(FIELDS), VALUES | PATHS, max_size=6)
    | st.fixed_dictionaries({"audio_path": PATHS | st.text()}, optional=dict.fromkeys(FIELDS[2:], VALUES))
    | VALUES,
    max_size=4,
)
DATASETS = VALUES | SAMPLES | st.fixed_dictionaries({"samples": SAMPLES}, optional={"metadata": VALUES})


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], list[Song]]:
    """Reads the songs of a dataset JSON with this content, beside which there is one song."""
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "a.mp3").write_bytes(b"secret")
    (folder / "a.mp3").write_bytes(b"x")
    spec = JobSpec(task="preprocess", dataset_json=folder / "dataset.json", dataset_dir="tensors")

    def read(content: bytes) -> list[Song]:
        (folder / "dataset.json").write_bytes(content)
        songs = songs_of(spec)
        assert {song.place for song in songs} <= {f"{folder}/a.mp3"}
        return songs

    return read


def refused_or(read: Callable[[], Any]) -> Any:
    """What it reads; None where it refuses."""
    try:
        return read()
    except (BadDataError, MissingInputError):
        return None


@fuzz
@given(dataset=DATASETS)
def test_any_json_is_a_dataset_or_refused(read: Callable[[bytes], list[Song]], dataset: Any) -> None:
    for song in refused_or(lambda: read(json.dumps(dataset).encode())) or []:
        text = text_prompt(song, 1.0) + lyrics_prompt(song) + lyrics_prompt(song, "raw")
        assert text.encode()


@fuzz
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_dataset_or_refused(content: bytes) -> None:
    refused_or(lambda: read_dataset(content, "dataset.json"))


@fuzz
@given(content=st.binary(max_size=200) | st.text(st.characters(codec="utf-8")).map(str.encode))
def test_any_bytes_are_a_sidecar_or_refused(content: bytes) -> None:
    refused_or(lambda: read_sidecar(content, "a.txt"))


@fuzz
@given(
    index=st.dictionaries(st.sampled_from(["files", "samples"]), st.dictionaries(st.text(), VALUES) | VALUES)
)
def test_any_index_is_read_or_refused(index: Any) -> None:
    store = open_store("memory://fuzz", StorageSpec())
    store.write_bytes("index.json", json.dumps(index).encode())
    refused_or(lambda: read_index(store))


WHOLE = sample_bytes(
    Sample(torch.ones(3, 64), torch.ones(2, 8), torch.ones(3, 128), {"caption": "x", "bpm": 7})
)
CHANGES = st.lists(
    st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
)


@fuzz
@given(changes=CHANGES, cut=st.none() | st.integers(0, len(WHOLE)))
def test_a_damaged_tensor_file_is_read_or_refused(changes: list[tuple[int, bytes]], cut: int | None) -> None:
    content = bytearray(WHOLE)
    for position, put in changes:
        content[position : position + len(put)] = put
    sample = refused_or(lambda: read_sample(bytes(content[:cut])))
    if sample:
        assert sample.target_latents.isfinite().all() and len(sample.target_latents) <= 3


@fuzz
@given(
    content=st.dictionaries(
        st.sampled_from(
            [
                *("target_latents", "attention_mask", "encoder_hidden_states"),
                *("encoder_attention_mask", "context_latents", "metadata"),
            ]
        ),
        st.builds(
            lambda shape, dtype: torch.ones(shape).to(dtype),
            st.lists(st.sampled_from([0, 1, 2, 3, 64, 128]), max_size=3),
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
        )
        | st.none()
        | st.text(),
    )
)
def test_any_tensors_are_a_sample_or_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "a.pt")
    refused_or(lambda: read_sample(tmp_path / "a.pt"))
