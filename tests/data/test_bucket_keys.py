"""Songs in a bucket whose keys are no paths on a disk: each is one bad song, and nothing else is lost."""

import io
import json
import logging
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidestep.config.job import JobSpec
from sidestep.data.index import Index
from sidestep.data.keys import digests_of
from sidestep.data.probe import sound_songs
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import run_checks
from sidestep.preflight.places import input_checks
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.s3 import S3Store
from sidestep.storage.transfer import pull
from tests.data.readers import songs_of
from tests.s3 import S3Server

LONG = "deep/" + "n" * 250 + "é.wav"
GOOD = ["good.wav", LONG, "twice.wav/within.wav", "twice.wav/b.wav"]
ODD = ["../up.wav", "./here.wav", "/first.wav", "a/../b.wav", "a//b.wav", "twice.wav"]

Put = Callable[..., None]


def sound(seed: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        noise = np.random.default_rng(seed).integers(-9000, 9000, (4800, 2))
        file.writeframes(noise.astype("<i2").tobytes())
    return written.getvalue()


@pytest.fixture
def put(s3_server: S3Server) -> Put:
    """Writes objects below songs/, under keys that no store of ours would write."""
    store = s3_server.store("")
    assert isinstance(store, S3Store)
    requests = store.clients.mine().requests

    def put(*keys: str, body: bytes | None = None) -> None:
        for number, key in enumerate(keys):
            content = sound(number) if body is None else body
            requests.put_object(Bucket="studio", Key=f"songs/{key}", Body=content)

    return put


@pytest.fixture
def job(s3_server: S3Server, tmp_path: Path) -> Callable[..., JobSpec]:
    def job(dataset_json: str | None = None, **settings: Any) -> JobSpec:
        return JobSpec(
            task="preprocess",
            audio_dir=s3_server.place("songs"),
            dataset_json=dataset_json,
            dataset_dir="tensors",
            preprocess=settings,
            storage={"endpoint_url": s3_server.endpoint},
            runtime={"workspace": str(tmp_path / "workspace")},
        )

    return job


def sound_ones(spec: JobSpec, tmp_path: Path) -> list[str]:
    workspace = Workspace(tmp_path / "workspace")
    return [song.path for song in sound_songs(songs_of(spec), spec.preprocess, Index(), workspace)]


def test_all_are_named_at_once(put: Put, job: Callable[..., JobSpec], tmp_path: Path) -> None:
    put(*GOOD, *ODD)
    with pytest.raises(BadDataError) as caught:
        sound_ones(job(), tmp_path)
    said = str(caught.value).splitlines()
    assert said[0].startswith(f"{len(ODD)} of {len(GOOD + ODD)} songs")
    for key in ODD:
        assert [line for line in said if f"s3://studio/songs/{key} " in line], key


def test_the_others_are_used(
    put: Put, job: Callable[..., JobSpec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(*GOOD, *ODD)
    with caplog.at_level(logging.WARNING):
        assert sound_ones(job(on_bad_file="skip"), tmp_path) == sorted(GOOD)
    assert all(f"s3://studio/songs/{key} " in caplog.text for key in ODD)


def test_a_long_name_is_read_to_the_end(put: Put, job: Callable[..., JobSpec], tmp_path: Path) -> None:
    put(LONG)
    put(LONG.replace(".wav", ".txt"), body=b"caption: of a long name")
    (song,) = songs_of(job())
    assert song.caption == "of a long name"
    workspace = Workspace(tmp_path / "workspace")
    assert len(digests_of(song.store, [song.file], Index(), workspace, "songs")) == 1
    folder = pull(song.store, [song.file], workspace, "Pulling songs")
    assert [file.suffix for file in folder.rglob("*.*")] == [".wav"]
    assert sound_ones(job(), tmp_path) == [LONG]


def test_texts_of_such_keys_are_left_out(
    put: Put, job: Callable[..., JobSpec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put("good.wav", "a//b.wav")
    put("a//b.txt", "../good.txt", body=b"bpm: none")
    put("good.txt", body=b"caption: good")
    with caplog.at_level(logging.WARNING):
        songs = songs_of(job())
    assert {song.path: song.caption for song in songs} == {"good.wav": "good", "a//b.wav": "b"}
    assert "a//b.txt" in caplog.text and "../good.txt" in caplog.text


def test_songs_of_a_dataset_json(
    put: Put, job: Callable[..., JobSpec], s3_server: S3Server, tmp_path: Path
) -> None:
    put("good.wav", "a//b.wav", "x/../c.wav")
    entries = [{"audio_path": path} for path in ("good.wav", "a//b.wav", "x/../c.wav")]
    put("dataset.json", body=json.dumps(entries).encode())
    spec = job(dataset_json=s3_server.place("songs/dataset.json"), on_bad_file="skip")
    assert sound_ones(spec, tmp_path) == ["good.wav"]


def test_preflight_asks_for_one_that_it_can_ask_for(put: Put, job: Callable[..., JobSpec]) -> None:
    put("../up.wav", "good.wav")
    found = {finding.name: finding for finding in run_checks(input_checks(Job(job())))}
    assert found["audio_dir"].error is None and "2 files" in found["audio_dir"].said


def test_a_plan_names_songs_of_such_keys(put: Put, job: Callable[..., JobSpec]) -> None:
    """As preprocessing does, and where it leaves them out, so does the plan."""
    put(*ODD, *GOOD)
    put("empty.wav", body=b"")
    said = {}
    for wish in ("fail", "skip"):
        found = run_checks(input_checks(Job(job(on_bad_file=wish)), ahead=True))
        said[wish] = next(finding for finding in found if finding.name == "audio_dir")
    assert isinstance(said["fail"].error, BadDataError) and said["skip"].error is None
    assert all(f"/songs/{key} " in said["fail"].said for key in [*ODD, "empty.wav"])
    assert "good.wav" not in said["fail"].said and "7 of them are left out" in said["skip"].said


def test_other_files_of_such_keys_are_named_at_once(put: Put, s3_server: S3Server, tmp_path: Path) -> None:
    put("a//b.pt", "./c.pt", "d.pt", body=b"1")
    store = s3_server.store("songs")
    with pytest.raises(BadDataError) as caught:
        pull(store, store.list_files(), Workspace(tmp_path), "Pulling tensors")
    said = str(caught.value)
    assert "a//b.pt" in said and "./c.pt" in said and "d.pt " not in said
