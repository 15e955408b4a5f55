"""Paths written elsewhere, and the files that they mean here."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.data.names import Names
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo
from tests.data.conftest import PlaceFiles
from tests.data.readers import songs_of
from tests.facts import facts

Find = Callable[..., str]
NFC, NFD = (unicodedata.normalize(form, "café é.wav") for form in ("NFC", "NFD"))


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """The path, below tmp_path, of the song that a JSON in tmp_path/set calls so."""

    def find(written: str, audio_dir: str | None = None) -> str:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / "d.json").write_text(json.dumps([{"audio_path": written}]))
        spec = JobSpec(
            task="preprocess",
            dataset_dir="tensors",
            dataset_json=str(tmp_path / "set" / "d.json"),
            audio_dir=str(tmp_path / audio_dir) if audio_dir else None,
        )
        (song,) = songs_of(spec)
        return song.place.removeprefix(f"{tmp_path}/")

    return find


@pytest.mark.parametrize(("disk", "written"), [(NFC, NFD), (NFD, NFC)])
@pytest.mark.parametrize("folder", ["set", "audio"])
def test_the_form_of_characters_does_not_matter(
    place_files: PlaceFiles, find: Find, disk: str, written: str, folder: str
) -> None:
    place_files(f"{folder}/sub/{disk}", "audio/other.wav")
    assert find(f"sub/{written}", "audio") == f"{folder}/sub/{disk}"
    if folder == "set":
        assert find(f"sub/{written}") == f"{folder}/sub/{disk}"


@pytest.mark.parametrize("folder", ["set", "audio"])
def test_letter_case_does_not_matter(place_files: PlaceFiles, find: Find, folder: str) -> None:
    place_files(f"{folder}/Sub/Straße.WAV", "audio/x/other.wav")
    assert find("sub/STRASSE.wav", "audio") == f"{folder}/Sub/Straße.WAV"


def test_the_closest_spelling_is_taken(place_files: PlaceFiles, find: Find) -> None:
    place_files("set/A.wav", "set/a.wav", f"set/{NFD}", f"set/{NFC}", "audio/x/B.wav", "set/b.wav")
    assert find("a.wav") == "set/a.wav"
    assert find(NFC) == f"set/{NFC}"
    assert find(NFD) == f"set/{NFD}"
    assert find("B.wav", "audio") == "set/b.wav"  # another case goes before another folder
    place_files("set/sub/x.WAV", "set/sub/X.wav")
    with pytest.raises(BadDataError, match=facts("sample 1", "x.WAV", "X.wav")):
        find("sub/x.wav")


@pytest.mark.parametrize(
    "written",
    [
        "/home/bob/music/sub/a.wav",
        r"C:\Users\bob\music\sub\a.wav",
        r"D:/music\sub/A.WAV",
        "s3://studio/music/sub/a.wav",
        r"sub\a.wav",
        "music/sub/a.wav",
    ],
)
@pytest.mark.parametrize("audio_dir", [None, "set", "audio"])
def test_the_longest_common_end_decides(
    place_files: PlaceFiles, find: Find, written: str, audio_dir: str | None
) -> None:
    folder = audio_dir or "set"
    place_files(f"{folder}/sub/a.wav", f"{folder}/a.wav", f"{folder}/other/a.wav", f"{folder}/x/sub/b.wav")
    assert find(written, audio_dir) == f"{folder}/sub/a.wav"


def test_a_tie_is_refused_with_the_candidates(place_files: PlaceFiles, find: Find) -> None:
    place_files("audio/x/sub/a.wav", "audio/y/sub/a.wav", "audio/sub2/a.wav")
    with pytest.raises(BadDataError, match=facts("sample 1", "x/sub/a.wav", "y/sub/a.wav")) as caught:
        find("/home/bob/sub/a.wav", "audio")
    assert "sub2" not in str(caught.value)
    assert find("/home/bob/y/sub/a.wav", "audio") == "audio/y/sub/a.wav"


def test_a_backslash_may_be_part_of_a_name(place_files: PlaceFiles, find: Find) -> None:
    place_files(r"set/x\a.wav", "set/x/a.wav")
    assert find(r"x\a.wav") == r"set/x\a.wav"


def test_hidden_files_are_found_by_their_whole_path_alone(place_files: PlaceFiles, find: Find) -> None:
    place_files("set/.old/a.wav", "set/b.wav")
    assert find(".old/a.wav") == "set/.old/a.wav"
    with pytest.raises((MissingInputError, BadDataError)):
        find("/elsewhere/a.wav")


def test_a_dataset_beside_its_songs_in_a_bucket() -> None:
    store = open_store("memory://names/set", StorageSpec())
    store.write_bytes(f"sub/{NFD}", b"x")
    store.write_bytes("d.json", json.dumps([{"audio_path": f"/Users/bob/sub/{NFC}"}]).encode())
    (song,) = songs_of(JobSpec(task="preprocess", dataset_dir="t", dataset_json="memory://names/set/d.json"))
    assert song.path == f"sub/{NFD}"


def test_endings_of_names() -> None:
    names = Names([FileInfo(path, 1, "1") for path in ("a/b/c.wav", "b/c.wav", "c.wav", "x/C.wav")])

    def found(path: str) -> list[str]:
        return [file.path for file in names.ending(path)]

    assert found("/z/a/b/c.wav") == ["a/b/c.wav"]
    assert found("z/b/c.wav") == ["a/b/c.wav", "b/c.wav"]
    assert found("X/C.wav") == ["x/C.wav"]
    assert found("C.wav") == ["x/C.wav"]  # of all that end so, the one in the same case
    assert found("d.wav") == []
