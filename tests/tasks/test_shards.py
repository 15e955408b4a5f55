"""Songs dealt to shards: together they make what one job makes, each of it once, and nothing is merged that
does not belong together."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidestep.acestep.vae import encode_audio
from sidestep.commands.status import show_status
from sidestep.config.job import JobSpec
from sidestep.config.shards import Shard
from sidestep.data import audio, encode, keys
from sidestep.data.encode import SongEncoder
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.shards import dealt_to
from sidestep.data.unmerged import is_merged, merge_shards, merge_waiting
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.shards_status import shards_status
from sidestep.planning.shards import plan_shards, shards_as_text
from sidestep.preflight.checks import Check, run_checks
from sidestep.preflight.tensors import find_tensors
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.tasks import run
from sidestep.tasks.preprocess import preprocess
from tests.facts import tells
from tests.faults import faulty_server
from tests.runs import run_task
from tests.s3 import S3Server
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
    read: dict[str, int] = {}
    for module, name in ((keys, "sha256_of"), (audio, "seems_whole"), (audio, "read_audio")):
        watched = getattr(module, name)

        def reading(path: Path, *given: Any, watched: Any = watched) -> Any:
            read[path.name] = path.stat().st_size
            return watched(path, *given)

        monkeypatch.setattr(module, name, reading)
    two = sharded(2)
    planned = plan_shards(Job(two).read_songs(), 2)
    assert "1-of-2" in shards_as_text(planned)
    for k in range(2):
        read.clear()
        make(two, k)
        songs_read = {name: size for name, size in read.items() if name in OF_TWO}
        assert songs_read.keys() == {name for name in NAMES[:4] if OF_TWO[name] == k}
        assert (len(songs_read), sum(songs_read.values())) == (planned[k].songs, planned[k].bytes)
        assert counted()["encode_audio"] == list(OF_TWO.values())[:4].count(k)  # each once
    tensors = tmp_path / "tensors"
    assert all(name.endswith(".pt") for name in at_root(tensors))
    assert {entry.name for entry in tensors.iterdir() if entry.is_dir()} == {"shards", "attempts"}
    with pytest.raises(BadDataError, match="not merged"):
        Preprocessed(place(two)).samples()
    (told,) = run_checks(
        [Check("dataset_dir", partial(find_tensors, Job(two), Preprocessed(place(two)), ahead=True))]
    )
    assert told.state == "skipped" and tells(
        told.said, "2 shards", "merge-index"
    )  # the next task merges them
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


def test_an_array_of_jobs_without_shards_makes_every_song(
    spec: MakeJob, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    """Each has an output of its own, and an index that is not about songs."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    run(spec())
    assert counted()["encode_audio"] == 4 and len(Preprocessed(place(spec())).samples()) == 4


def test_the_next_phase_merges_and_attempts_and_status_are_each_shards_own(
    sharded: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    dealt = sharded(2, output_dir=str(output))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    run(dealt)
    show_status(open_store(str(output), dealt.storage), as_json=False, watch=False)
    said = capsys.readouterr().out
    assert "2 shards: 1 done, 1 not begun" in said and "not begun: 0-of-2" in said
    estimate = dealt.changed({"task": "estimate", "estimate.batches": 1})
    with pytest.raises(MissingInputError, match="0-of-2"):
        run(estimate)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    run(dealt)
    names = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert names == {
        f"{folder}/{name}"
        for k in range(2)
        for folder, name in (
            (f"shards/{k}-of-2", "status.json"),
            (f"shards/{k}-of-2/logs", "sidestep-1.log"),
            ("attempts", f"{k}-of-2-000001.json"),
        )
    }
    show_status(open_store(str(output), dealt.storage), as_json=True, watch=True)
    status = json.loads(capsys.readouterr().out)
    assert [one["status"]["state"] for one in status["shards"]] == ["done", "done"]
    assert status["spent"]["attempts"] == 2
    run(estimate)
    assert is_merged(place(dealt)) and (output / "estimate").is_dir()


def test_a_shard_without_songs_is_done_and_heard_of(
    sharded: Callable[..., JobSpec],
    songs: Path,
    counted: Counted,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for name in NAMES[:4]:
        if OF_TWO[name] == 1:
            (songs / name).unlink()
    make(sharded(2), 1)
    assert tells(caplog.text, "no songs", "nothing to preprocess")
    status = shards_status(place(sharded(2)))
    assert [shard.state for shard in status.shards] == ["not begun", "done"] and counted() == {}
    with pytest.raises(MissingInputError, match="0-of-2"):
        merge_shards(place(sharded(2)))


def test_a_bad_song_is_left_out_of_its_shard_or_ends_it(
    sharded: Callable[..., JobSpec], songs: Path, counted: Counted
) -> None:
    bad = next(name for name in NAMES[:4] if OF_TWO[name] == 1)
    assert list(OF_TWO.values())[:4].count(1) == 1  # it is all that its shard has
    (songs / bad).write_bytes(b"no sound")
    make(sharded(2), 0)
    with pytest.raises(BadDataError, match=bad):
        make(sharded(2), 1)
    failed = shards_status(place(sharded(2))).shards[1]
    assert failed.state == "failed" and bad in failed.in_words()
    with pytest.raises(MissingInputError, match="1-of-2"):
        merge_shards(place(sharded(2)))
    skipping = sharded(2, preprocess={"on_bad_file": "skip"})
    make_all(skipping)
    assert len(merge_shards(place(skipping)).index.samples) == 3


@pytest.mark.slow
def test_another_number_of_shards_makes_nothing_twice(
    sharded: Callable[..., JobSpec], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that are made count, and latents that were left, on another machine."""
    make(sharded(2), 1)

    def die(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SongEncoder, "encode_conditions", die)
        with pytest.raises(KeyboardInterrupt):
            make(sharded(2), 0)
    assert counted()["encode_audio"] == 4
    three = sharded(3, "elsewhere")
    make_all(three)
    done = counted()
    assert "encode_audio" not in done and done["encode_conditions"] == 3
    assert merge_shards(place(three)).foreign.keys() == {"0-of-2", "1-of-2"}


@pytest.mark.slow  # a server
def test_a_bucket_whose_listings_lag_behind(
    sharded: Callable[..., JobSpec], s3_server: S3Server, counted: Counted
) -> None:
    with faulty_server(s3_server.endpoint) as proxy:
        proxy.listings_lag = 3600
        places = {"dataset_dir": s3_server.place("tensors"), "storage": {"endpoint_url": proxy.endpoint}}
        dealt = sharded(2, **places)
        make(dealt, 1)
        with pytest.raises(MissingInputError, match="0-of-2"):
            merge_waiting(place(dealt), 2)
        make(dealt, 0)
        merge_waiting(place(dealt), 2)
        assert is_merged(place(dealt), 2) and len(Preprocessed(place(dealt)).samples()) == 4
        assert counted()["encode_audio"] == 4


@pytest.mark.slow  # some processes that load torch
def test_shards_that_are_killed_run_twice_and_two_at_once_make_the_same_tensors(
    sharded: Callable[..., JobSpec], spec: MakeJob, songs: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(NAMES[4:], 4):
        write_song(songs / name, number)

    def attempt(k: int, machine: str) -> subprocess.Popen[bytes]:
        file = tmp_path / f"{machine}.json"
        file.write_text(json.dumps(sharded(3, machine).model_dump(mode="json")))
        command = [sys.executable, "-m", "sidestep", "run", "--config", str(file)]
        return subprocess.Popen(command, env={**os.environ, "JOB_COMPLETION_INDEX": str(k)})

    killed = attempt(2, "killed")
    unfinished = tmp_path / "tensors" / "shards" / "2-of-3" / "unfinished"
    while not (unfinished.is_dir() and any(unfinished.iterdir())):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    at_once = [attempt(k, f"machine-{k}-{number}") for k in range(3) for number in range(1 + (k == 1))]
    assert [one.wait() for one in at_once] == [0, 0, 0, 0]
    assert attempt(0, "again").wait() == 0  # run twice
    assert merge_shards(place(sharded(3))).of == 3

    def content(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in folder.glob("*.pt")}

    whole = spec(dataset_dir=str(tmp_path / "whole"))
    run_task(preprocess, whole)
    assert content(tmp_path / "tensors") == content(tmp_path / "whole")
    assert len(Preprocessed(place(sharded(3))).samples()) == 8
    # Seven, one of which loses its machine with the second of its songs.
    seven = sharded(7, "seven", dataset_dir=str(tmp_path / "seven"))
    for k in (0, 1, 2, 4, 5, 6):
        make(seven, k)
    with pytest.MonkeyPatch.context() as patch:
        gone = iter((False, True))

        def lost(*given: Any) -> Any:
            if next(gone):
                raise KeyboardInterrupt
            return encode_audio(*given)

        patch.setattr(encode, "encode_audio", lost)
        with pytest.raises(KeyboardInterrupt):
            make(seven, 3)
    with pytest.raises(MissingInputError, match="3-of-7"):
        merge_shards(place(seven))
    make(seven, 3)
    merge_shards(place(seven))
    assert content(tmp_path / "seven") == content(tmp_path / "whole")
