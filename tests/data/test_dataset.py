import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.data.dataset import Song
from sidestep.data.prompts import prompt_caption
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.local import LocalStore
from tests.data.readers import songs_of
from tests.facts import facts, tells

from .conftest import PlaceFiles

Read = Callable[..., list[Song]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a dataset that lies at tmp_path/set/dataset.json."""

    def read(data: object, audio_dir: str | None = None) -> list[Song]:
        path = tmp_path / "set" / "dataset.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        audio = str(tmp_path / audio_dir) if audio_dir else None
        return songs_of(spec(dataset_json=str(path), audio_dir=audio))

    return read


def spec(**fields: Any) -> JobSpec:
    return JobSpec(task="preprocess", dataset_dir="tensors", **fields)


def test_a_folder_is_read_sorted_with_captions_from_names(place_files: PlaceFiles) -> None:
    folder = place_files("b/warm_summer-night.MP3", "a.wav", "c.opus", "notes.txt", "b/._warm.mp3", "z.m4a")
    songs = songs_of(spec(audio_dir=str(folder)))
    assert [song.path for song in songs] == ["a.wav", "b/warm_summer-night.MP3", "c.opus", "z.m4a"]
    assert songs[1].caption == "warm summer night"
    assert songs[1].lyrics == "[Instrumental]" and songs[1].is_instrumental
    assert songs[1].place == f"{folder}/b/warm_summer-night.MP3"


def test_a_folder_without_songs(place_files: PlaceFiles) -> None:
    with pytest.raises(MissingInputError, match=facts("*.wav")):
        songs_of(spec(audio_dir=str(place_files("a.txt"))))


SIDECAR = """\ufeffCaption: A slow blues: dry guitar
genre: blues
bpm: 72

key: E minor
signature: 3/4
language: en
custom_tag: mine
is_instrumental: false
repeat: 1
lyrics: [Verse]
La la: la

caption: this is sung
"""


def test_a_sidecar_says_what_a_json_would(place_files: PlaceFiles, caplog: pytest.LogCaptureFixture) -> None:
    folder = place_files("sub/a.b.mp3", "c.mp3", "a.txt")
    (folder / "sub/a.b.txt").write_text(SIDECAR, encoding="utf-8")
    with caplog.at_level("INFO", logger="sidestep"):
        other, song = songs_of(spec(audio_dir=str(folder)))
    assert other.path == "c.mp3" and other.is_instrumental and other.caption == "c"
    assert (song.caption, song.genre, song.bpm) == ("A slow blues: dry guitar", "blues", 72)
    assert (song.keyscale, song.timesignature, song.language) == ("E minor", "3", "en")
    assert song.lyrics == "[Verse]\nLa la: la\n\ncaption: this is sung"
    assert (song.custom_tag, song.is_instrumental, song.uses_genre) == ("mine", False, False)
    assert "repeat" in caplog.text


def test_a_sidecar_may_be_empty_and_may_choose_the_genre(place_files: PlaceFiles) -> None:
    folder = place_files("a.mp3", "b.mp3")
    (folder / "a.txt").write_text("")
    (folder / "b.txt").write_text("genre: rock\nprompt_override: genre\nlyrics:")
    a, b = songs_of(spec(audio_dir=str(folder)))
    assert (a.caption, a.lyrics) == ("a", "[Instrumental]")
    assert b.uses_genre and b.lyrics == "[Instrumental]"


def test_what_is_wrong_with_sidecars_is_said_at_once(place_files: PlaceFiles) -> None:
    folder = place_files("a.mp3", "b.mp3", "c.mp3", "d.mp3")
    (folder / "a.txt").write_text("bpm: fast\nprompt_override: lyrics")
    (folder / "b.txt").write_text("Just a text")
    (folder / "c.txt").write_bytes(b"caption: caf\xe9")
    with pytest.raises(BadDataError) as caught:
        songs_of(spec(audio_dir=str(folder)))
    text = str(caught.value)
    assert "4 problems" in text
    for said in (
        'a.txt, bpm: should be a number, not "fast"',
        "a.txt, prompt_override: ",
        "b.txt: line 1 should be `field: value`",
        "c.txt is not UTF-8 text",
    ):
        assert said in text


def test_a_link_out_of_a_folder_is_refused(place_files: PlaceFiles) -> None:
    folder = place_files("songs/a.mp3", "secret.mp3", "secret.txt")
    for name in ("b.mp3", "a.txt"):
        (folder / "songs" / name).symlink_to(folder / f"secret{name[1:]}")
    with pytest.raises(BadDataError, match=facts("2 problems", "a.txt", "b.mp3", "symbolic link")):
        songs_of(spec(audio_dir=str(folder / "songs")))


@pytest.mark.parametrize(
    "wrap", [list, lambda s: {"samples": s}, lambda s: {"metadata": {"name": "x"}, "samples": s}]
)
def test_the_three_forms(place_files: PlaceFiles, read: Read, wrap: Callable[[list[Any]], object]) -> None:
    place_files("set/a.mp3", "set/sub/b.mp3")
    songs = read(wrap([{"audio_path": "sub/b.mp3"}, {"audio_path": "./a.mp3", "caption": "One"}]))
    assert [(song.path, song.caption) for song in songs] == [("sub/b.mp3", "b"), ("a.mp3", "One")]


def test_a_byte_order_mark_is_no_harm(place_files: PlaceFiles, read: Read) -> None:
    place_files("set/a.mp3")
    assert len(read(b'\xef\xbb\xbf[{"audio_path": "a.mp3"}]')) == 1


def test_every_field(place_files: PlaceFiles, read: Read) -> None:
    place_files("set/a.mp3")
    (song,) = read(
        [
            {
                "audio_path": "a.mp3",
                "caption": "A song",
                "lyrics": "[Verse]\nLa",
                "genre": "rock",
                "bpm": "120",
                "keyscale": "C major",
                "timesignature": 4,
                "language": "en",
                "is_instrumental": False,
                "custom_tag": "mine",
            }
        ]
    )
    assert (song.caption, song.lyrics, song.genre) == ("A song", "[Verse]\nLa", "rock")
    assert (song.bpm, song.keyscale, song.timesignature) == (120, "C major", "4")
    assert (song.language, song.is_instrumental, song.custom_tag) == ("en", False, "mine")


@pytest.mark.parametrize(
    ("given", "bpm"), [(97, 97), ("97", 97), (96.7, 97), ("N/A", None), (None, None), (0, None), ("", None)]
)
def test_bpm_in_all_its_spellings(
    place_files: PlaceFiles, read: Read, given: object, bpm: int | None
) -> None:
    place_files("set/a.mp3")
    assert read([{"audio_path": "a.mp3", "bpm": given}])[0].bpm == bpm


@pytest.mark.parametrize(
    ("fields", "metadata", "lyrics", "is_instrumental"),
    [
        ({"lyrics": "La"}, {}, "La", False),
        ({"lyrics": "La", "is_instrumental": True}, {}, "[Instrumental]", True),
        ({"lyrics": "La"}, {"all_instrumental": True}, "[Instrumental]", True),
        ({"lyrics": "La", "is_instrumental": False}, {"all_instrumental": True}, "La", False),
        ({"lyrics": "N/A", "is_instrumental": False}, {}, "[Instrumental]", True),
        ({}, {}, "[Instrumental]", True),
    ],
)
def test_instrumentals(
    place_files: PlaceFiles,
    read: Read,
    fields: dict[str, Any],
    metadata: dict[str, Any],
    lyrics: str,
    is_instrumental: bool,
) -> None:
    place_files("set/a.mp3")
    (song,) = read({"metadata": metadata, "samples": [{"audio_path": "a.mp3", **fields}]})
    assert (song.lyrics, song.is_instrumental) == (lyrics, is_instrumental)


@pytest.mark.parametrize(
    ("position", "caption"),
    [(None, "tag, x"), ("prepend", "tag, x"), ("append", "x, tag"), ("replace", "tag")],
)
def test_the_tag_and_its_position(
    place_files: PlaceFiles, read: Read, position: str | None, caption: str
) -> None:
    place_files("set/a.mp3", "set/b.mp3")
    samples = [
        {"audio_path": "a.mp3", "caption": "x"},
        {"audio_path": "b.mp3", "caption": "x", "custom_tag": "own"},
    ]
    of_metadata, own = read({"metadata": {"custom_tag": "tag", "tag_position": position}, "samples": samples})
    assert prompt_caption(of_metadata) == caption
    assert prompt_caption(own) == caption.replace("tag", "own")


def test_genre_ratio_and_overrides(place_files: PlaceFiles, read: Read) -> None:
    names = [f"{n}.mp3" for n in range(20)]
    place_files(*[f"set/{name}" for name in names])
    samples = [{"audio_path": name, "caption": "words", "genre": "rock"} for name in names]
    chosen = {
        song.path for song in read({"metadata": {"genre_ratio": 30}, "samples": samples}) if song.uses_genre
    }
    assert len(chosen) == 6
    backwards = read({"metadata": {"genre_ratio": 30}, "samples": samples[::-1]})
    assert {song.path for song in backwards if song.uses_genre} == chosen
    assert {prompt_caption(song) for song in backwards if song.uses_genre} == {"rock"}
    for sample in samples:
        sample["prompt_override"] = "caption" if sample["audio_path"] in chosen else "genre"
    samples[0]["genre"] = ""
    turned = {
        song.path for song in read({"metadata": {"genre_ratio": 30}, "samples": samples}) if song.uses_genre
    }
    assert turned == set(names) - chosen - {"0.mp3"}


def test_a_path_beside_the_json_comes_before_one_in_audio_dir(place_files: PlaceFiles, read: Read) -> None:
    root = place_files("set/a.mp3", "audio/a.mp3", "audio/deep/b.mp3", "audio/sub/c.mp3")
    songs = read([{"audio_path": p} for p in ("a.mp3", "b.mp3", "sub/c.mp3")], audio_dir="audio")
    assert [song.place for song in songs] == [
        f"{root}/set/a.mp3",
        f"{root}/audio/deep/b.mp3",
        f"{root}/audio/sub/c.mp3",
    ]


@pytest.mark.parametrize(
    "written",
    [
        "{root}/audio/x/a.mp3",
        "../audio/x/a.mp3",
        "file://{root}/audio/x/a.mp3",
        "/elsewhere/a.mp3",
        r"C:\Music\a.mp3",
        r"x\a.mp3",
    ],
)
def test_other_ways_into_audio_dir(place_files: PlaceFiles, read: Read, written: str) -> None:
    root = place_files("audio/x/a.mp3")
    (song,) = read([{"audio_path": written.format(root=root)}], audio_dir="audio")
    assert song.place == f"{root}/audio/x/a.mp3" and song.path == "x/a.mp3"


@pytest.mark.parametrize(
    "written", ["{root}/audio/x/a.mp3", "../audio/x/a.mp3", "file://{root}/audio/x/a.mp3", "x/a.mp3"]
)
def test_a_path_decides_between_files_of_one_name(place_files: PlaceFiles, read: Read, written: str) -> None:
    root = place_files("audio/x/a.mp3", "audio/y/a.mp3")
    (song,) = read([{"audio_path": written.format(root=root)}], audio_dir="audio")
    assert song.place == f"{root}/audio/x/a.mp3"


def test_a_song_that_no_listing_shows_yet_is_asked_for(
    place_files: PlaceFiles, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place_files("audio/sub/a.mp3")
    monkeypatch.setattr(LocalStore, "list_files", lambda store, path="": [])
    for written in ("sub/a.mp3", f"{root}/audio/sub/a.mp3"):
        (song,) = read([{"audio_path": written}], audio_dir="audio")
        assert song.path == "sub/a.mp3"


@pytest.mark.parametrize(
    ("written", "place"), [("a.mp3", "set/a.mp3"), ("{root}/audio/b.mp3", "audio/b.mp3")]
)
def test_a_song_that_is_a_folder(place_files: PlaceFiles, read: Read, written: str, place: str) -> None:
    root = place_files("set/a.mp3/x.txt", "audio/b.mp3/x.txt")
    with pytest.raises(BadDataError, match=facts("sample 1", f"{root}/{place} is a folder")):
        read([{"audio_path": written.format(root=root)}], audio_dir="audio")


def test_a_folder_does_not_hide_a_song_elsewhere(place_files: PlaceFiles, read: Read) -> None:
    root = place_files("set/a.mp3/x.txt", "audio/a.mp3")
    (song,) = read([{"audio_path": "a.mp3"}], audio_dir="audio")
    assert song.place == f"{root}/audio/a.mp3"


@pytest.mark.parametrize(
    "written",
    ["../secret.mp3", "x/../../secret.mp3", "{root}/secret.mp3", "file://{root}/secret.mp3", "ftp://x/a.mp3"],
)
@pytest.mark.parametrize("audio_dir", [None, "audio"])
def test_no_path_leads_out(place_files: PlaceFiles, read: Read, written: str, audio_dir: str | None) -> None:
    root = place_files("secret.mp3", "set/x/a.mp3", "audio/b.mp3")
    with pytest.raises(
        (BadDataError, MissingInputError),
        match=r"sample 1, audio_path .*(leads out|no such file|not a known kind)",
    ):
        read([{"audio_path": written.format(root=root)}], audio_dir)


def test_climbing_out_is_refused_even_where_the_name_is_known(place_files: PlaceFiles, read: Read) -> None:
    place_files("secret.mp3", "audio/secret.mp3")
    with pytest.raises(BadDataError, match="leads out"):
        read([{"audio_path": "../secret.mp3"}], "audio")


@pytest.mark.parametrize("folder", ["set", "audio"])
def test_a_link_out_is_refused(place_files: PlaceFiles, read: Read, folder: str) -> None:
    root = place_files("secret.mp3", "audio/b.mp3", "set/b.mp3")
    (root / folder / "a.mp3").symlink_to(root / "secret.mp3")
    with pytest.raises(BadDataError, match=r"sample 1.*symbolic link out"):
        read([{"audio_path": "a.mp3"}], "audio")


def test_everything_wrong_is_said_at_once(place_files: PlaceFiles, read: Read) -> None:
    place_files("set/a.mp3", "audio/x/twice.mp3", "audio/y/twice.mp3")
    samples = [
        {"audio_path": "a.mp3", "bpm": "fast", "is_instrumental": "perhaps"},
        {"audio_path": "a.mp3"},
        {"audio_path": "a.mp3", "caption": "again"},
        {"caption": "no path"},
        "a.mp3",
        {"audio_path": "gone.mp3"},
        {"audio_path": "twice.mp3"},
        {"filename": "../gone.mp3"},
        {"audio_path": "a.mp3", "lyrics": ["La"], "bpm": -3},
        {"audio_path": "a\u0000b.mp3"},
        {"audio_path": "a.mp3", "caption": "\ud800"},
        {"audio_path": "a.mp3", "bpm": True, "prompt_override": "lyrics"},
        {"audio_path": ""},
        {"audio_path": "\ud800.mp3"},
    ]
    with pytest.raises(BadDataError) as caught:
        read({"metadata": {"genre_ratio": 0.3, "tag_position": "middle"}, "samples": samples}, "audio")
    text = str(caught.value)
    assert "dataset.json: 18 problems in the dataset\n" in text
    for where, *told in (
        ("metadata, genre_ratio", "30"),
        ("metadata, tag_position", "prepend", "append", "replace", '"middle"'),
        ("sample 1, bpm", '"fast"'),
        ("sample 1, is_instrumental", '"perhaps"'),
        ("sample 3, audio_path 'a.mp3'", "sample 2"),
        ("sample 4, audio_path",),
        ("sample 5", '"a.mp3"'),
        ("sample 6, audio_path 'gone.mp3'", "/set", "/audio"),
        ("sample 7, audio_path 'twice.mp3'", "x/twice.mp3", "y/twice.mp3"),
        ("sample 8, audio_path '../gone.mp3'", "/set", "/audio"),
        ("sample 9, lyrics", '["La"]'),
        ("sample 9, bpm", "1"),
        ("sample 10, audio_path", "null"),
        ("sample 11, caption",),
        ("sample 12, bpm", "true"),
        ("sample 12, prompt_override", '"lyrics"'),
        ("sample 13, audio_path", "empty"),
        ("sample 14, audio_path", "surrogate"),
    ):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{where}: "))
        assert tells(line, *told)


def test_missing_files_alone_are_missing_inputs(place_files: PlaceFiles, read: Read) -> None:
    place_files("set/a.mp3")
    with pytest.raises(MissingInputError, match=r"(?s)2 problems.*sample 1.*sample 3"):
        read([{"audio_path": "x.mp3"}, {"audio_path": "a.mp3"}, {"audio_path": "y.mp3"}])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"3", b'{"samples": {}}', b"[" * 100_000]
)
def test_what_is_no_dataset(read: Read, content: bytes) -> None:
    with pytest.raises(BadDataError, match=r"dataset\.json"):
        read(content)


def test_a_json_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"dataset\.json"):
        songs_of(spec(dataset_json=str(tmp_path / "dataset.json")))


def test_fields_of_other_tools_are_named_once(
    place_files: PlaceFiles, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    place_files("set/a.mp3", "set/b.mp3")
    with caplog.at_level("INFO", logger="sidestep"):
        read(
            [
                {"audio_path": "a.mp3", "mood": 1, "id": "x"},
                {"audio_path": "b.mp3", "mood": 2, "raw_lyrics": ""},
            ]
        )
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["mood"]


def test_a_json_in_the_working_directory(place_files: PlaceFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place_files("a.mp3")
    (folder / "dataset.json").write_text('[{"audio_path": "a.mp3"}]')
    monkeypatch.chdir(folder)
    assert [song.path for song in songs_of(spec(dataset_json="dataset.json"))] == ["a.mp3"]
