"""Preprocessing again: what is made already is not made twice, and what is changed is."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.leftovers import DAY
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.data import audio, encode
from sidestep.data.index import FileRecord, read_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.survey import read_survey
from sidestep.data.tensors import AUDIO, read_sample
from sidestep.runtime.atomic import TEMPORARY
from sidestep.runtime.errors import MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.retry import Retry
from sidestep.tasks.preprocess import preprocess
from tests.facts import facts, tells
from tests.runs import run_task
from tests.songs import flip_a_bit, sha256
from tests.tasks.preprocessing import Counted, MakeJob, tensors, write_dataset, write_song


def test_a_second_run_makes_nothing_loads_nothing_and_reads_no_song(
    spec: MakeJob, songs: Path, counted: Counted
) -> None:
    run_task(preprocess, spec())
    assert counted() == {
        "load_vae": 1,
        "load_text_encoder": 1,
        "load_model": 1,
        "decoded": 2,
        "encode_audio": 2,
        "encode_text": 2,
        "encode_conditions": 2,
    }
    before = tensors(spec())
    times = (songs / "a.wav").stat()
    write_song(songs / "a.wav", seed=99)  # who reads it now, sees another song
    os.utime(songs / "a.wav", ns=(times.st_atime_ns, times.st_mtime_ns))
    run_task(preprocess, spec())
    assert counted() == {} and tensors(spec()) == before


def test_what_the_dataset_is_is_said_first_and_kept(
    spec: MakeJob,
    songs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copy(songs / "a.wav", songs / "copy.wav")
    (songs / "b.txt").write_text("caption: with one")
    with caplog.at_level("INFO", logger="sidestep"):
        run_task(preprocess, spec())
    said = [record.message for record in caplog.records]
    lines = [line for line in said if "languages" in line]
    first, second = lines  # by its texts and files, and by its sound
    assert tells(first, "songs: 3", "a.wav, copy.wav") and tells(second, "songs: 3", "0.1 s (a.wav)")
    assert said.index(first) < next(n for n, line in enumerate(said) if line.startswith("Preprocessing"))
    assert [tells(line, "a.wav", "copy.wav") for line in said if "twice" in line] == [True]
    survey = read_survey(open_store(spec().tensors_place, StorageSpec()))
    assert survey and (survey.count, survey.measured) == (3, 3)
    assert survey.without_caption == ["a.wav", "copy.wav"] and survey.same_bytes == [["a.wav", "copy.wav"]]
    monkeypatch.setattr(audio, "read_audio", None)  # no song is decoded to say it again
    run_task(preprocess, spec())
    assert read_survey(open_store(spec().tensors_place, StorageSpec())) == survey


def test_the_same_songs_on_another_machine_give_the_same_files(
    spec: MakeJob, tmp_path: Path, songs: Path, counted: Counted
) -> None:
    run_task(preprocess, spec())
    before = tensors(spec())
    moved = songs.rename(tmp_path / "moved")
    elsewhere = {
        "audio_dir": str(moved),
        "dataset_dir": str(tmp_path / "other"),
        "runtime": {"device": "cpu", "workspace": str(tmp_path / "other-workspace")},
    }
    run_task(preprocess, spec(**elsewhere))
    assert tensors(spec(**elsewhere)) == before
    counted()
    # known by content, though index.json names other places
    run_task(preprocess, spec(audio_dir=str(moved)))
    assert counted() == {}


def test_a_changed_caption_remakes_one_file_from_known_latents(
    spec: MakeJob, tmp_path: Path, counted: Counted
) -> None:
    run_task(preprocess, spec(dataset_json=write_dataset(tmp_path, caption="One")))
    before = tensors(spec())
    counted()
    run_task(preprocess, spec(dataset_json=write_dataset(tmp_path, caption="Two")))
    assert counted() == {"load_text_encoder": 1, "load_model": 1, "encode_text": 1, "encode_conditions": 1}
    after = tensors(spec())
    assert len(after) == 2 and len(after.keys() & before.keys()) == 1
    captions = {read_sample(content).metadata["caption"] for content in after.values()}
    assert captions == {"Two", "b"}


def test_a_changed_song_remakes_one_file(spec: MakeJob, songs: Path, counted: Counted) -> None:
    run_task(preprocess, spec())
    before = tensors(spec())
    counted()
    write_song(songs / "b.wav", seed=99)
    run_task(preprocess, spec())
    assert counted()["encode_audio"] == 1
    assert len(tensors(spec()).keys() & before.keys()) == 1


@pytest.mark.slow
def test_a_changed_setting_or_checkpoint_remakes_everything(spec: MakeJob, counted: Counted) -> None:
    run_task(preprocess, spec())
    before = tensors(spec())
    counted()
    for changed, sounds_other in (
        ({"preprocess": {"max_duration": 0.05}}, True),
        ({"preprocess": {"timbre": "zero"}}, False),
        ({"preprocess": {"lyrics_format": "raw"}}, False),
        ({"preprocess": {"normalize": "peak"}}, True),
        ({"preprocess": {"normalize": "peak", "target_db": -2}}, True),
        ({"model_variant": "turbo"}, False),
    ):
        run_task(preprocess, spec(**changed))
        done = counted()
        assert done.get("encode_conditions", 0) == 2 and done.get("encode_audio", 0) == 2 * sounds_other
        assert not tensors(spec()).keys() & before.keys()
    run_task(preprocess, spec())  # what was made before is still there
    assert counted() == {} and tensors(spec()) == before


def test_the_default_duration_said_in_a_flag_or_file_keeps_the_tensors(
    spec: MakeJob, tmp_path: Path, counted: Counted
) -> None:
    """As the output's own job.yaml says it, by which an interrupted run is gone on with."""
    run_task(preprocess, spec())
    counted()
    run_task(preprocess, spec(preprocess={"max_duration": "240"}))
    assert counted() == {}


def test_tensors_of_a_duration_that_older_versions_were_told_are_kept(
    spec: MakeJob, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("sidestep.tasks.preprocess.recipes_alike", lambda recipe: [recipe])
        run_task(preprocess, spec(preprocess={"max_duration": "240"}))
    before = tensors(spec())
    counted()
    for settings in ({}, {"preprocess": {"max_duration": 240}}):
        run_task(preprocess, spec(**settings))
        assert counted() == {} and tensors(spec()) == before


@pytest.mark.slow
@pytest.mark.parametrize("is_cut_off", [False, True])
def test_what_an_older_version_made_is_made_anew_with_the_same_bytes(
    spec: MakeJob, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    """A run that was begun with them would refuse others. A new song's say what it was made of."""
    metadata = encode._metadata

    def older(*given: Any) -> dict[str, Any]:
        return {name: value for name, value in metadata(*given).items() if name != AUDIO}

    with monkeypatch.context() as patch:
        patch.setattr(encode, "_metadata", older)
        run_task(preprocess, spec())
    before = tensors(spec())
    place = Path(spec().tensors_place)
    gone, damaged = (place / name for name in before)
    gone.unlink()
    flip_a_bit(damaged)
    if is_cut_off:
        with monkeypatch.context() as patch:
            patch.setattr(encode, "encode_conditions", None)
            with pytest.raises(TypeError):
                run_task(preprocess, spec())
    run_task(preprocess, spec())
    assert tensors(spec()) == before
    shutil.rmtree(place)
    run_task(preprocess, spec())
    said = {name: read_sample(content).metadata[AUDIO] for name, content in tensors(spec()).items()}
    assert said.keys() == before.keys()
    assert set(said.values()) == {record.sha256 for place, record in _files(spec()).items() if "wav" in place}


def _files(spec: JobSpec) -> dict[str, FileRecord]:
    index = read_index(open_store(spec.tensors_place, StorageSpec()))
    assert index
    return index.files


@pytest.mark.parametrize("has_workspace", [True, False])
@pytest.mark.parametrize(
    ("where", "left"), [("encode_audio", 1), ("encode_text", 0), ("encode_conditions", 0)]
)
def test_an_interrupted_run_goes_on_where_it_was(
    spec: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: Counted,
    where: str,
    left: int,
    has_workspace: bool,
) -> None:
    """Also on another machine, whose disk is empty: no song is encoded twice."""
    original = getattr(encode, where)
    calls = []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(encode, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_task(preprocess, spec())
    store = open_store(spec().tensors_place, StorageSpec())
    with pytest.raises(MissingInputError, match="is not complete"):
        Preprocessed(store).samples()
    if not has_workspace:
        shutil.rmtree(tmp_path / "workspace")
    counted()
    run_task(preprocess, spec())
    done = counted()
    assert done.get("encode_audio", 0) == left
    assert done.get("encode_text", 0) == {"encode_audio": 2, "encode_text": 1, "encode_conditions": 0}[where]
    assert done["encode_conditions"] == (1 if where == "encode_conditions" else 2)
    assert len(tensors(spec())) == 2
    assert not store.list_files("unfinished")


def test_levels_that_are_not_used_change_nothing(spec: MakeJob, counted: Counted) -> None:
    run_task(preprocess, spec())
    counted()
    run_task(preprocess, spec(preprocess={"target_db": -6, "target_lufs": -20}))
    assert counted() == {}


@pytest.mark.slow
def test_other_texts_and_timbre_are_made_from_known_latents(spec: MakeJob, counted: Counted) -> None:
    run_task(preprocess, spec())
    counted()
    run_task(preprocess, spec(preprocess={"timbre": "zero", "lyrics_format": "raw"}))
    assert "encode_audio" not in counted()


def test_a_preview_is_made_where_the_latents_are_known_but_it_is_not(spec: MakeJob, tmp_path: Path) -> None:
    run_task(preprocess, spec())
    run_task(preprocess, spec(dataset_dir=str(tmp_path / "elsewhere")))
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "preview").iterdir()}
        for name in ("tensors", "elsewhere")
    )
    assert first == second


def test_preprocessing_again_clears_what_a_killed_attempt_was_writing(spec: MakeJob, tmp_path: Path) -> None:
    """Where nobody trains, no writer does it. What is younger than a day may belong to another attempt."""
    run_task(preprocess, spec())
    for folder in (tmp_path / "tensors", tmp_path / "tensors" / "unfinished"):
        folder.mkdir(exist_ok=True)
        for name, age in (("old", 2 * DAY), ("young", DAY / 2)):
            file = folder / f"{TEMPORARY}{name}"
            file.write_bytes(b"half a song")
            os.utime(file, (file.stat().st_mtime - age,) * 2)
    run_task(preprocess, spec())
    left = sorted(file.name for file in (tmp_path / "tensors").rglob(f"{TEMPORARY}*"))
    assert left == [f"{TEMPORARY}young"] * 2


def test_preprocessing_again_makes_damaged_tensors_anew(spec: MakeJob, tmp_path: Path) -> None:
    """A bit that flips at rest changes neither the file's size nor its time."""
    job = spec()
    run_task(preprocess, job)
    before = tensors(job)
    index = read_index(open_store(job.tensors_place, job.storage))
    assert index and {f"{key}.pt": digest for key, digest in index.tensors.items()} == {
        path: sha256(content) for path, content in before.items()
    }
    for path in before:
        flip_a_bit(tmp_path / "tensors" / path)
    run_task(preprocess, job)
    assert tensors(job) == before


def test_what_was_damaged_after_a_kill_is_made_anew(
    spec: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt that made it died before it could write its index."""

    def die(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sidestep.tasks.preprocess.record_tensors", die)
        with pytest.raises(KeyboardInterrupt):
            run_task(preprocess, spec())
    before = tensors(spec())
    flip_a_bit(tmp_path / "tensors" / min(before))
    run_task(preprocess, spec())
    assert tensors(spec()) == before


def test_tensors_that_were_deleted_are_not_waited_for_while_they_are_made(
    spec: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_task(preprocess, spec())
    path = min(tensors(spec()))
    (tmp_path / "tensors" / path).unlink()

    def die(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encode, "encode_conditions", die)
    with pytest.raises(KeyboardInterrupt):
        run_task(preprocess, spec())
    with pytest.raises(MissingInputError, match=facts("1 of 2", "to preprocess")):
        Preprocessed(open_store(spec().tensors_place, StorageSpec())).samples(wait=Retry(tries=1, seconds=0))
