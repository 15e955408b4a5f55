"""Each song is decoded once, ahead of the VAE, and judged then: what shows only there is still told of."""

import json
import wave
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.data import audio, encode
from sidestep.data.index import read_index
from sidestep.data.survey import Survey, read_survey
from sidestep.runtime.errors import BadDataError
from sidestep.storage.open import open_store
from sidestep.tasks.preprocess import preprocess
from tests.facts import tells
from tests.runs import run_task
from tests.tasks.preprocessing import SECONDS, Counted, MakeJob, tensors, write_song


def write_silence(path: Path, seconds: float = SECONDS) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        file.writeframes(bytes(round(seconds * 48_000) * 4))


def survey_of(spec: MakeJob) -> Survey:
    survey = read_survey(open_store(spec().tensors_place, StorageSpec()))
    assert survey
    return survey


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the songs, one for each time that one was decoded."""
    names: list[str] = []
    original = audio.read_audio

    def recorded(path: Path, *given: Any) -> object:
        names.append(path.name)
        return original(path, *given)

    monkeypatch.setattr(audio, "read_audio", recorded)
    return names


def test_each_song_is_decoded_once_also_by_an_attempt_that_goes_on(
    spec: MakeJob, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_text", die)
        with pytest.raises(KeyboardInterrupt):
            run_task(preprocess, spec())
    assert decoded == ["a.wav", "b.wav"]
    before = survey_of(spec)
    (Path(spec().tensors_place) / "dataset-report.json").unlink()  # as if it was not written, either
    run_task(preprocess, spec())
    assert decoded == ["a.wav", "b.wav"] and len(tensors(spec())) == 2
    assert survey_of(spec) == before and before.measured == 2


def test_a_silent_song_ends_the_job_with_all_of_its_kind_named_and_what_is_made_is_kept(
    spec: MakeJob, songs: Path, counted: Counted
) -> None:
    write_silence(songs / "b.wav", SECONDS)
    write_silence(songs / "d.wav", 2 * SECONDS)
    write_song(songs / "c.wav", seed=2)
    with pytest.raises(BadDataError, match=r"2 of 4 songs(.|\n)*b\.wav is silent(.|\n)*d\.wav is silent"):
        run_task(preprocess, spec())
    assert counted() == {"load_vae": 1, "decoded": 4, "encode_audio": 1}  # none after the first bad one
    for number, name in enumerate(("b.wav", "d.wav"), start=3):
        write_song(songs / name, number)
    run_task(preprocess, spec())
    assert counted()["encode_audio"] == 3 and len(tensors(spec())) == 4


def test_a_silent_song_is_left_out_on_request(
    spec: MakeJob, songs: Path, counted: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_silence(songs / "a.wav")  # the song that a preview would be of
    (songs / "copy.wav").write_bytes((songs / "a.wav").read_bytes())
    dataset = songs / "dataset.json"
    entries = [{"audio_path": name, "repeats": 2} for name in ("a.wav", "b.wav", "copy.wav")]
    dataset.write_text(json.dumps(entries))
    job = spec(dataset_json=str(dataset), preprocess={"on_bad_file": "skip"})
    run_task(preprocess, job)
    assert counted()["encode_audio"] == 1 and len(tensors(job)) == 1
    assert any(tells(record.message, "2 of 3", "a.wav", "copy.wav") for record in caplog.records)
    index = read_index(open_store(job.tensors_place, StorageSpec()))
    assert index and [*map(Path, index.samples)] == [songs / "b.wav"] == [*map(Path, index.shares)]
    assert {Path(place).name for place, file in index.files.items() if file.probed} == {"b.wav"}
    assert survey_of(spec).count == 1
    assert len([*(tmp_path / "tensors" / "preview").iterdir()]) == 2
