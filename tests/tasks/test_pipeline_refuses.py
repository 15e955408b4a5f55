"""What a pipeline's training would refuse is refused before any song is encoded for it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.runtime.errors import BadSpecError
from sidestep.tasks.preprocess import preprocess
from tests.facts import facts
from tests.runs import run_task
from tests.tasks.preprocessing import Counted, MakeJob, write_song

COSTLY = {"load_vae", "load_text_encoder", "load_model", "encode_audio"}


def pipeline(spec: MakeJob, tmp_path: Path, **train: Any) -> JobSpec:
    """On a.wav and b.wav, and on c.wav, which is no song and left out once that shows."""
    (tmp_path / "songs" / "c.wav").write_bytes(b"RIFF, but no sound")
    output = str(tmp_path / "output")
    return spec(task="pipeline", output_dir=output, preprocess={"on_bad_file": "skip"}, train=train)


@pytest.mark.parametrize(
    "train",
    [{"repeats": {"c": 2}}, {"weights": {"c.wav": 2}}, {"validation": {"songs": ["c"]}}],
)
def test_names_of_songs_that_turn_out_to_be_none(
    spec: MakeJob, tmp_path: Path, counted: Counted, train: dict[str, Any]
) -> None:
    with pytest.raises(BadSpecError, match=facts(f"train.{next(iter(train))}", "c")):
        run_task(preprocess, pipeline(spec, tmp_path, **train))
    assert not counted().keys() & COSTLY
    alone = pipeline(spec, tmp_path, **train).changed({"task": "preprocess"})
    run_task(preprocess, alone)  # which trains nothing
    assert counted().keys() & COSTLY


def test_names_of_songs_that_are_some(spec: MakeJob, tmp_path: Path, counted: Counted) -> None:
    train = {"repeats": {"a": 2}, "weights": {"b.wav": 2}, "validation": {"songs": ["b"]}}
    run_task(preprocess, pipeline(spec, tmp_path, **train))
    assert counted().keys() & COSTLY


def test_a_share_of_songs_that_are_fewer_once_they_are_read(
    spec: MakeJob, tmp_path: Path, counted: Counted
) -> None:
    """Of nine files one is no song, and another one a copy."""
    songs = tmp_path / "songs"
    for number in range(5):
        write_song(songs / f"more-{number}.wav", 7 + number)
    shutil.copy(songs / "a.wav", songs / "z.wav")
    with pytest.raises(BadSpecError, match=facts("train.validation.share", "7 songs")):
        run_task(preprocess, pipeline(spec, tmp_path, validation={"share": 0.2}))
    assert not counted().keys() & COSTLY
    write_song(songs / "z.wav", 99)
    run_task(preprocess, pipeline(spec, tmp_path, validation={"share": 0.2}))
    assert counted().keys() & COSTLY
