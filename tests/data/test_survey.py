"""What a dataset is, said before work on it begins."""

import wave
from pathlib import Path

import numpy as np
import pytest

from sidestep.config.job import JobSpec
from sidestep.config.schema import PreprocessSpec, StorageSpec
from sidestep.data.dataset import Song
from sidestep.data.index import Index
from sidestep.data.probe import sound_songs
from sidestep.data.survey import (
    FILE,
    Heard,
    Survey,
    heard_before,
    in_words,
    read_survey,
    survey_of,
    write_survey,
)
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store
from tests.data.readers import songs_of
from tests.facts import tells

SETTINGS = PreprocessSpec()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path), StorageSpec())


def song(store: Store, path: str, caption: str = "words", language: str = "unknown") -> Song:
    is_instrumental = language == "unknown"
    return Song(store, FileInfo(path, 1, "1"), caption, language=language, is_instrumental=is_instrumental)


def test_songs_are_counted_and_compared(store: Store) -> None:
    songs = [
        song(store, "a.wav", "a"),
        song(store, "b/warm-night.wav", "warm night", language="en"),
        song(store, "c.wav", language="en"),
        song(store, "d.wav", language="ja"),
        song(store, "e.wav"),
    ]
    places = [one.place for one in songs]
    heard = {
        places[0]: Heard(seconds=60.0, lufs=-20.5, sound="1"),
        places[1]: Heard(seconds=200.0, lufs=-9.1, sound="2"),
        places[2]: Heard(seconds=30.0, lufs=None, sound="1"),
        places[3]: Heard(seconds=70.0, lufs=-14.0, sound="2"),
    }
    digests = dict(zip(places, ("x", "y", "z", "y", "w"), strict=True))
    survey = survey_of(songs, heard, digests, SETTINGS)
    assert (survey.count, survey.measured, survey.hours) == (5, 4, 0.1)
    assert survey.shortest and (survey.shortest.song, survey.shortest.value) == ("c.wav", 30)
    assert survey.longest and (survey.longest.song, survey.longest.value) == ("b/warm-night.wav", 200)
    assert survey.quietest and (survey.quietest.song, survey.quietest.value) == ("a.wav", -20.5)
    assert survey.loudest and (survey.loudest.song, survey.loudest.value) == ("b/warm-night.wav", -9.1)
    assert survey.without_caption == ["a.wav", "b/warm-night.wav"]
    assert survey.same_bytes == [["b/warm-night.wav", "d.wav"]]
    assert survey.same_sound == [["a.wav", "c.wav"]]  # what is the same file is not said again
    assert survey.languages == {"en": 2, "ja": 1}
    said = in_words(survey)
    assert tells(said["sound"], "6 min", "1")
    assert tells(said["length"], "30 s", "c.wav", "3 min 20 s", "b/warm-night.wav")
    assert tells(said["loudness"], "-20.5 LUFS", "a.wav", "-9.1 LUFS")
    assert tells(said["languages"], "en 2", "ja 1")
    assert tells(said["same file"], "b/warm-night.wav", "d.wav") and "a.wav" in said["same sound"]


def test_a_dataset_of_which_little_is_known(store: Store) -> None:
    said = in_words(survey_of([song(store, "a.wav")], {}, {}, SETTINGS))
    assert said["songs"] == "1" and "length" not in said and "loudness" not in said


def test_what_was_heard_is_kept_with_the_file_and_the_settings(store: Store) -> None:
    one, other = song(store, "a.wav"), song(store, "b.wav")
    heard = {one.place: Heard(seconds=1.0, lufs=-9.0, sound="1")}
    survey = survey_of([one, other], heard, {}, SETTINGS)
    write_survey(store, survey)
    assert read_survey(store) == survey
    assert heard_before([store], [one, other], SETTINGS) == heard
    for change in ({"max_duration": 30}, {"float_scale": 32768}):
        assert heard_before([store], [one], PreprocessSpec.model_validate(change)) == {}
    changed = Song(store, FileInfo("a.wav", 1, "2"), "words")
    assert heard_before([store], [changed], SETTINGS) == {}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"count": "x"}', b'{"songs": {"a": 1}}'])
def test_a_damaged_report_is_made_anew(
    store: Store, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_bytes(FILE, content)
    assert heard_before([store], [song(store, "a.wav")], SETTINGS) == {}
    assert FILE in caplog.text
    write_survey(store, Survey(count=1, measured=0, hours=0))
    assert read_survey(store) == Survey(count=1, measured=0, hours=0)


def test_the_same_sound_in_other_bytes_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-9000, 9000, (48_000, 1)).astype("<i2")
    for name, channels in (("mono.wav", 1), ("stereo.wav", 2)):
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((channels, 2, 48_000, 0, "NONE", ""))
            file.writeframes(noise.repeat(channels, 1).tobytes())
    (folder / "copy.wav").write_bytes((folder / "mono.wav").read_bytes())
    songs = songs_of(JobSpec(task="preprocess", audio_dir=str(folder), dataset_dir="t"))
    heard: dict[str, Heard] = {}
    sound_songs(songs, SETTINGS, Index(), Workspace(tmp_path / "w"), heard)
    assert {round(one.seconds, 2) for one in heard.values()} == {1.0}
    assert all(-30 < (one.lufs or 0) < -5 for one in heard.values())
    assert survey_of(songs, heard, {}, SETTINGS).same_sound == [["copy.wav", "mono.wav", "stereo.wav"]]
