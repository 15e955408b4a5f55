"""Songs dealt to shards: together they make what one job makes, each of it once, and nothing is merged that
does not belong together."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.shards import Shard
from sidestep.data import audio, keys, unmerged
from sidestep.data.encode import SongEncoder
from sidestep.data.index import list_samples, read_index
from sidestep.data.shards import dealt_to
from sidestep.data.unmerged import is_merged, merge_shards, merge_waiting
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.tasks.preprocess import preprocess
from tests.tasks.preprocessing import Counted, MakeJob, write_song

NAMES = [f"{letter}.wav" for letter in "abcdefgh"]
OF_TWO = {name: dealt_to(name, 2) for name in NAMES}


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    folder.mkdir()
    for number, name in enumerate(NAMES[:4]):
        write_song(folder / name, number)
    return folder


@pytest.fixture
def sharded(spec: MakeJob, tmp_path: Path) -> Callable[..., JobSpec]:
    """The job with so many shards; on a machine of its own where one is named."""

    def sharded(of: int, machine: str = "workspace", **fields: Any) -> JobSpec:
        settings = {"shards": of, **fields.pop("preprocess", {})}
        runtime = {"device": "cpu", "workspace": str(tmp_path / machine)}
        return spec(preprocess=settings, runtime=runtime, **fields)

    return sharded


def make(spec: JobSpec, k: int) -> None:
    job = Job(spec, shard=Shard(k, spec.preprocess.shards))
    with Reporter(job) as reporter:
        preprocess(job, reporter)


def make_all(spec: JobSpec) -> None:
    for k in range(spec.preprocess.shards):
        make(spec, k)


def place(spec: JobSpec) -> Store:
    return open_store(spec.tensors_place, spec.storage)


def at_root(tensors: Path) -> dict[str, bytes]:
    """All that is the dataset's, by name."""
    files = [file for file in tensors.iterdir() if file.is_file() and file.name != "status.json"]
    return {file.name: file.read_bytes() for file in files}


def test_adding_songs_moves_none_and_another_count_few() -> None:
    paths = [f"album {number // 12}/song {number}.mp3" for number in range(3000)]
    dealt = [dealt_to(path, 7) for path in paths]
    counts = [dealt.count(k) for k in range(7)]
    assert sum(counts) == 3000 and min(counts) > 360 and max(counts) < 500
    assert [dealt_to(path, 1) for path in paths[:9]] == [0] * 9
    moved = sum(dealt_to(path, 8) != before for path, before in zip(paths, dealt, strict=True))
    assert moved < 3000 / 8 * 1.2
    assert [dealt_to(path, 7) for path in ("a.mp3", "b/ü.mp3", "\udcff.wav")] == GOLDEN


GOLDEN = [5, 0, 0]


def test_two_shards_make_what_one_job_makes(
    sharded: Callable[..., JobSpec],
    spec: MakeJob,
    counted: Counted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    for module, name in ((keys, "_sha256"), (audio, "seems_whole"), (audio, "read_audio")):
        watched = getattr(module, name)

        def reading(path: Path, *given: Any, watched: Any = watched) -> Any:
            read.append(path.name)
            return watched(path, *given)

        monkeypatch.setattr(module, name, reading)
    two = sharded(2)
    for k in range(2):
        read.clear()
        make(two, k)
        assert {name for name in read if name in OF_TWO} == {n for n in NAMES[:4] if OF_TWO[n] == k}
        assert counted()["encode_audio"] == list(OF_TWO.values())[:4].count(k)  # each once
    tensors = tmp_path / "tensors"
    assert all(name.endswith(".pt") for name in at_root(tensors))
    assert {entry.name for entry in tensors.iterdir() if entry.is_dir()} == {"shards", "attempts"}
    with pytest.raises(BadDataError, match="not merged"):
        list_samples(place(two))
    merge_waiting(place(two))
    assert is_merged(place(two))
    make_all(two)  # nothing is left to do, and the merged index stays
    assert is_merged(place(two)) and "encode_audio" not in counted()

    one = spec(dataset_dir=str(tmp_path / "whole"))
    with Reporter(Job(one)) as reporter:
        preprocess(Job(one), reporter)
    assert at_root(tensors).keys() == at_root(tmp_path / "whole").keys()
    for name, data in at_root(tmp_path / "whole").items():
        assert at_root(tensors)[name] == data, name
