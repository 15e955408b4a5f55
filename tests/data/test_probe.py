"""One folder with a song of every kind that cannot be used."""

import logging
import os
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidestep.config.job import JobSpec
from sidestep.config.schema import PreprocessSpec
from sidestep.data.audio import seems_whole
from sidestep.data.index import Index
from sidestep.data.probe import look, problem_of, sound_songs
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from tests.data.readers import songs_of
from tests.data.sounds import KINDS, make_kind

Sound = Callable[..., set[str]]

BAD = {
    "corrupt.mp3": "is not a sound file that can be read",
    "cut.wav": "is truncated or damaged: it breaks off after 0.05 s",
    "empty.wav": "is empty: copy it again, or take it out",
    "faint.wav": "is silent: nothing in its first 0.1 s is above -60 dBFS",
    "nan.wav": "holds samples that are not numbers",
    "nothing.wav": "is empty or not a sound file",
    "silent.wav": "is silent",
    "text.flac": "is empty or not a sound file",
}


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good songs (good.wav and one with a line break in its name) among all that are bad."""
    folder = tmp_path / "songs"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-9000, 9000, (4800, 2))
    for name in ("good.wav", "new\nline.wav", "cut.wav", "nan.wav"):
        write_wav(folder / name, noise)
    write_wav(folder / "faint.wav", noise // 9000 * 20)
    write_wav(folder / "silent.wav", noise * 0)
    write_wav(folder / "nothing.wav", noise[:0])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "corrupt.mp3").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "text.flac").write_text("no song\n" * 99)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    floats = bytearray(whole)  # the same samples, called 32-bit floats that are not numbers
    floats[20:22], floats[32:36], floats[44:] = b"\3\0", b"\x08\0\x20\0", b"\xff" * (len(whole) - 44)
    (folder / "nan.wav").write_bytes(floats)
    return folder


@pytest.fixture
def sound(folder: Path, tmp_path: Path) -> Sound:
    """The names of the songs in it that can be used."""

    def sound(known: Index | None = None, **settings: Any) -> set[str]:
        spec = JobSpec(task="preprocess", audio_dir=str(folder), dataset_dir="tensors", preprocess=settings)
        workspace = Workspace(tmp_path / "workspace")
        songs = sound_songs(songs_of(spec), spec.preprocess, known or Index(), workspace)
        return {song.path for song in songs}

    return sound


def test_everything_that_is_wrong_is_listed_at_once(sound: Sound) -> None:
    with pytest.raises(BadDataError) as caught:
        sound()
    text = str(caught.value)
    assert text.startswith("8 of 10 songs cannot be used:\n")
    lines = [line.rpartition("/songs/")[2] for line in text.splitlines()[1:-1]]
    assert len(lines) == len(BAD)
    for line, (name, problem) in zip(lines, BAD.items(), strict=True):
        assert line.startswith(f"{name} {problem}")
    assert "--on-bad-file skip" in text


def test_bad_songs_are_left_out_on_request_and_named(sound: Sound, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sidestep"):
        assert sound(on_bad_file="skip") == {"good.wav", "new\nline.wav"}
    assert "8 of 10 songs" in caplog.text
    assert all(name in caplog.text for name in BAD)


def test_nothing_left_is_an_error_also_then(sound: Sound, folder: Path) -> None:
    for name in ("good.wav", "new\nline.wav"):
        (folder / name).write_bytes(b"")
    with pytest.raises(BadDataError, match="none"):
        sound(on_bad_file="skip")


def test_a_name_with_a_line_break_takes_one_line(sound: Sound, folder: Path) -> None:
    (folder / "new\nline.wav").write_bytes(b"")
    with pytest.raises(BadDataError, match=r"songs/new\\nline.wav' is "):
        sound()


def test_a_name_that_is_no_utf8_is_one_bad_song(sound: Sound, folder: Path) -> None:
    for name in BAD:
        (folder / name).unlink()
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes((folder / "good.wav").read_bytes())
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("bpm: 3")
    with pytest.raises(BadDataError, match=r"(?s)1 of 3 songs.*caf\\udce9\.wav' has a name"):
        sound()
    assert sound(on_bad_file="skip") == {"good.wav", "new\nline.wav"}


def test_songs_known_to_be_sound_are_not_decoded_again(sound: Sound, folder: Path) -> None:
    store = open_store(str(folder), JobSpec.model_fields["storage"].default)
    known = Index()
    for file in store.list_files():
        known.remember(store, file, "digest", probed=240)
    assert len(sound(known)) == 10
    with pytest.raises(BadDataError):  # more of each song is to be used than was looked at
        sound(known, max_duration=241)
    (folder / "silent.wav").touch()
    with pytest.raises(BadDataError, match="1 of 10 songs"):
        sound(known)


def test_a_file_that_may_not_be_read(folder: Path) -> None:
    (folder / "good.wav").chmod(0)
    user = os.geteuid()
    if user == 0:  # root reads everything: be nobody for a moment
        os.seteuid(65534)
    try:
        assert problem_of(folder / "good.wav", 240) == "cannot be read: Permission denied"
    finally:
        os.seteuid(user)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "gone.wav", 240) == "cannot be read: No such file or directory"


def test_only_what_is_used_must_be_sound(folder: Path) -> None:
    assert problem_of(folder / "cut.wav", 0.04) is None
    assert PreprocessSpec().on_bad_file == "fail"


def test_a_look_finds_what_is_no_whole_song_and_says_what_decoding_would(folder: Path) -> None:
    """Silence and samples that are no numbers show only when a song is decoded, for the VAE."""
    for name in BAD.keys() - {"faint.wav", "nan.wav", "silent.wav"}:
        assert look(folder / name, 240, 1) == problem_of(folder / name, 240), name
    assert look(folder / "good.wav", 240, 1) is None


@pytest.mark.parametrize("kind", KINDS)
def test_songs_of_all_kinds_seem_whole(tmp_path: Path, kind: str) -> None:
    """Any other is decoded at once, to be judged, and once more for the VAE."""
    assert seems_whole(make_kind(tmp_path / kind, kind), 240)
    assert seems_whole(tmp_path / kind, 0.5)
