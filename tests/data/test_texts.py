"""The texts beside songs, in every form in use, and what is said of those that fit none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.data.dataset import Song
from sidestep.runtime.errors import BadDataError
from tests.data.conftest import PlaceFiles
from tests.data.readers import songs_of
from tests.facts import facts, tells

Read = Callable[..., list[Song]]
LYRICS = "[Verse]\nRain: on the window"


@pytest.fixture
def read(tmp_path: Path, place_files: PlaceFiles) -> Read:
    """The songs of a folder with these texts, beside a.wav and b.wav."""

    def read(texts: dict[str, str | bytes], **settings: Any) -> list[Song]:
        place_files("a.wav", "b.wav")
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        spec = JobSpec.model_validate(
            {
                "task": "preprocess",
                "audio_dir": str(tmp_path),
                "dataset_dir": "tensors",
                "preprocess": settings,
            }
        )
        return songs_of(spec)

    return read


@pytest.mark.parametrize(
    "texts",
    [
        {"a.lyrics.txt": LYRICS, "a.caption.txt": "slow blues\n"},
        {"a_lyrics.txt": LYRICS, "a_prompt.txt": "slow blues"},
        {"a_lyrics.txt": LYRICS, "a_caption.txt": "\ufeffslow blues"},
        {"A.TXT": f"Caption: slow blues\nLYRICS:\n{LYRICS}"},
        {"a.Lyrics.TXT": LYRICS, "A.json": '{"Prompt": "slow blues"}'},
        {"a.json": json.dumps({"tags": ["slow blues"], "lyrics": LYRICS})},
        {"a.txt": f"# made by hand\ncaption: slow blues\nlyrics:\n{LYRICS}"},
        {"all.csv": "Name,Prompt\na.wav,slow blues\n", "a.txt": f"lyrics: {LYRICS}"},
    ],
)
def test_lyrics_and_captions_in_every_form(
    read: Read, texts: dict[str, str | bytes], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = read(texts)
    assert (a.caption, a.lyrics) == ("slow blues", LYRICS)
    assert (b.caption, b.lyrics) == ("b", "[Instrumental]")
    assert not caplog.records


ALIASES = [
    ("caption", "prompt", "x"),
    ("caption", "tags", "x"),
    ("bpm", "tempo", "93"),
    ("keyscale", "key", "C# minor"),
    ("keyscale", "scale", "C# minor"),
    ("timesignature", "signature", "3"),
    ("timesignature", "sig", "3"),
    ("timesignature", "Time Signature", "3"),
    ("language", "lang", "de"),
    ("language", "vocal_language", "de"),
    ("custom_tag", "trigger", "mine"),
]


@pytest.mark.parametrize(("field", "alias", "value"), ALIASES)
@pytest.mark.parametrize("form", ["a.txt", "a.json", "songs.csv", "dataset"])
def test_a_field_has_many_names(
    tmp_path: Path, read: Read, form: str, field: str, alias: str, value: str
) -> None:
    if form == "dataset":
        read({"d/dataset.json": json.dumps([{"audio_path": "../a.wav", alias: value}])})
        spec = JobSpec(
            task="preprocess",
            dataset_dir="tensors",
            audio_dir=str(tmp_path),
            dataset_json=str(tmp_path / "d/dataset.json"),
        )
        (song,) = songs_of(spec)
    else:
        text = {
            "a.txt": f"{alias}: {value}",
            "a.json": json.dumps({alias: value}),
            "songs.csv": f"file,{alias}\na.wav,{value}\n",
        }[form]
        song = read({form: text})[0]
    assert str(getattr(song, field)) == value


@pytest.mark.parametrize("form", ["a.txt", "a.json", "songs.csv", "dataset.json"])
@pytest.mark.parametrize("differs", [False, True])
def test_two_names_that_differ_are_refused(tmp_path: Path, read: Read, form: str, differs: bool) -> None:
    other = "C# minor" if differs else "E minor"
    text = {
        "a.txt": f"keyscale: E minor\nkey: {other}",
        "a.json": json.dumps({"keyscale": "E minor", "key": other}),
        "songs.csv": f"file,keyscale,key\na.wav,E minor,{other}\n",
        "dataset.json": json.dumps([{"audio_path": "a.wav", "keyscale": "E minor", "key": other}]),
    }[form]

    def song() -> Song:
        if form != "dataset.json":
            return read({form: text})[0]
        read({})
        (tmp_path / form).write_text(text)
        return songs_of(JobSpec(task="preprocess", dataset_dir="t", dataset_json=str(tmp_path / form)))[0]

    if not differs:
        assert song().keyscale == "E minor"
        return
    with pytest.raises(BadDataError, match=facts("keyscale", "E minor", "C# minor")):
        song()


def test_of_each_field_the_first_form_that_has_it_counts(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = read(
        {
            "a.json": '{"caption": "of the json", "bpm": "N/A"}',
            "a.txt": "caption: of the text\nbpm: 100\ngenre: blues",
            "a.caption.txt": "of the part",
            "a.lyrics.txt": LYRICS,
            "songs.csv": "file,bpm,key,genre\na.wav,120,C# minor,blues\n",
        }
    )
    assert (a.caption, a.bpm, a.keyscale, a.lyrics) == ("of the json", 100, "C# minor", LYRICS)
    said = [record.message for record in caplog.records]
    assert len(said) == 3
    for wanted in (
        ("a.wav", "caption", "a.json", "a.txt"),
        ("a.wav", "caption", "a.json", "a.caption.txt"),
        ("a.wav", "bpm", "a.txt", "songs.csv"),
    ):
        assert any(tells(line, *wanted) for line in said)


@pytest.mark.parametrize("bare", ["lyrics", "caption"])
def test_a_bare_text_is_what_the_setting_says(read: Read, bare: str) -> None:
    text = "Chorus: all together\nla la\n# no comment"
    with pytest.raises(BadDataError, match=facts("a.txt", "bare_text")):
        read({"a.txt": text})
    a, _ = read({"a.txt": text}, bare_text=bare)
    assert getattr(a, bare) == text
    a, _ = read({"a.txt": "tempo: 90\n"}, bare_text=bare)
    assert (a.bpm, a.lyrics) == (90, "[Instrumental]")


@pytest.mark.parametrize("text", ["Chorus: la la", "just words", "repeat: 1\n\nVerse: two"])
def test_a_text_of_no_known_field_is_not_guessed(read: Read, text: str) -> None:
    with pytest.raises(BadDataError, match=facts("A.TXT", "bare_text")):
        read({"A.TXT": text})


def test_a_number_sign_is_a_comment_before_the_lyrics_alone(read: Read) -> None:
    a, _ = read({"a.txt": "# bpm: 3\nkey: A minor\n  # more\nlyrics:\n# 1 hit\nla"})
    assert (a.bpm, a.keyscale, a.lyrics) == (None, "A minor", "# 1 hit\nla")


def test_a_text_may_hold_nothing_but_a_comment(read: Read) -> None:
    a, _ = read({"a.txt": "# to do: write a caption\n"})
    assert a.caption == "a"


def test_forms_that_say_the_same_are_no_matter(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    a, _ = read({"a.txt": "bpm: 93", "songs.csv": "file,bpm\na.wav,93.0\n"})
    assert a.bpm == 93 and not caplog.records


def test_texts_that_say_nothing_of_a_song_are_named(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    read(
        {
            "README.txt": "x",
            "gone.lyrics.txt": LYRICS,
            "a.lrc": "[00:01]la",
            "a.notes.txt": "x",
            "a.json": '{"peaks": [1, 2]}',
            "prices.csv": "item,price\nx,1\n",
            "sub/a.txt": "caption: of a song that is not there",
            "._a.txt": "macOS",
        }
    )
    lines = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 1
    said = lines[0]
    names = ("README.txt", "gone.lyrics.txt", "a.lrc", "a.notes.txt", "a.json", "prices.csv", "sub/a.txt")
    assert tells(said, *names) and "._a" not in said


def test_two_texts_that_differ_in_case_only_are_refused(read: Read) -> None:
    with pytest.raises(BadDataError, match=facts("a.TXT", "a.txt")):
        read({"a.TXT": "bpm: 1", "a.txt": "bpm: 2"})


def test_a_songs_own_text_is_no_part_of_another(read: Read, place_files: PlaceFiles) -> None:
    place_files("a_lyrics.wav")
    a, a_lyrics, _ = read({"a_lyrics.txt": "caption: a song about lyrics"})
    assert a.lyrics == "[Instrumental]" and a_lyrics.caption == "a song about lyrics"


@pytest.mark.parametrize(
    "table",
    [
        "File,Artist,Title,BPM,Key,Camelot\na.wav,Bob,One,93,C# minor,12A\n",
        "\ufefffilename;bpm;keyscale\na.wav;93;C# minor\n",
        "name\ttempo\tscale\r\na\t93\tC# minor\r\n",
        'FILE,key,bpm\n"a.wav","C# minor",93\n\n',
        "file,key,bpm\nC:\\Music\\a.wav,C# minor,93.0\n",
        "file,key,bpm\n/home/x/A.WAV,C# minor,93\n",
    ],
)
def test_tables_of_key_and_tempo(read: Read, table: str) -> None:
    a, b = read({"key_bpm.csv": table})
    assert (a.bpm, a.keyscale, b.bpm) == (93, "C# minor", None)


def test_a_table_names_songs_beside_it_and_further_down(
    read: Read, place_files: PlaceFiles, caplog: pytest.LogCaptureFixture
) -> None:
    place_files("x/a.wav", "x/c.wav", "y/c.wav")
    table = "file,bpm\na.wav,93\nx/c.wav,80\ngone.wav,1\n"
    songs = {song.path: song.bpm for song in read({"x/songs.csv": table})}
    assert songs == {"a.wav": None, "b.wav": None, "x/a.wav": 93, "x/c.wav": 80, "y/c.wav": None}
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    said = lines[0]
    assert tells(said, "x/songs.csv", "gone.wav")
    with pytest.raises(BadDataError, match=facts("all.csv", "'c.wav'", "x/c.wav", "y/c.wav")):
        read({"all.csv": "file,bpm\nc.wav,3\n"})


@pytest.mark.parametrize("root", ["", "D:\\Music\\"])
@pytest.mark.parametrize("first", ["right", "wrong"])
def test_a_table_may_name_more_songs_than_there_are(
    read: Read, place_files: PlaceFiles, caplog: pytest.LogCaptureFixture, root: str, first: str
) -> None:
    """Of two rows that end alike, the song takes the one that fits it better, whichever comes first."""
    place_files("y/c.wav")
    rows = {"wrong": f"{root}gone/c.wav,1", "right": f"{root}y/c.wav,93"}
    table = "\n".join(["file,bpm", rows.pop(first), *rows.values()])
    assert {song.path: song.bpm for song in read({"all.csv": table})}["y/c.wav"] == 93
    (said,) = [record.message for record in caplog.records]
    assert tells(said, "all.csv", "gone/c.wav") and "y/c.wav" not in said


def test_rows_that_fit_a_song_alike_and_differ_are_refused(read: Read, place_files: PlaceFiles) -> None:
    place_files("y/c.wav")
    for rows in ("g/c.wav,1\nh/c.wav,2", "a.wav,1\na,2"):
        with pytest.raises(BadDataError, match=facts("all.csv", "both")):
            read({"all.csv": f"file,bpm\n{rows}"})
    songs = {song.path: song.bpm for song in read({"all.csv": "file,bpm\na.wav,1\na,1.0\n"})}
    assert songs["a.wav"] == 1


def test_a_name_without_its_suffix_may_have_a_folder(read: Read, place_files: PlaceFiles) -> None:
    place_files("x/c.wav", "y/c.wav")
    songs = {song.path: song.bpm for song in read({"all.csv": "file,bpm\nx/c,80\nY/C,90\n"})}
    assert (songs["x/c.wav"], songs["y/c.wav"]) == (80, 90)
    with pytest.raises(BadDataError, match=facts("all.csv", "'c'", "x/c.wav", "y/c.wav")):
        read({"all.csv": "file,bpm\nc,3\n"})


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_caption_is_not_cut_at_a_comma(read: Read, delimiter: str) -> None:
    header = delimiter.join(["file", "bpm", "caption"])
    row = delimiter.join(["a.wav", "93", f"slow{delimiter} sad"])
    with pytest.raises(BadDataError, match=facts("all.csv", "a.wav", "quotes")):
        read({"all.csv": f"{header}\n{row}\n"})
    quoted = delimiter.join(["a.wav", "93", f'"slow{delimiter} sad"', "", " "])
    a, _ = read({"all.csv": f"{header}\n{quoted}\n"})
    assert a.caption == f"slow{delimiter} sad"


def test_a_table_of_something_else_is_no_trouble(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    read({"empty.csv": b"", "latin.csv": b"caf\xe9,price\n1,2\n", "odd.csv": b'a,b\n"x"y,1\n'})
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    said = lines[0]
    assert tells(said, "empty.csv", "latin.csv", "odd.csv")
    with pytest.raises(BadDataError, match=facts("songs.csv")):
        read({"songs.csv": b'file,bpm\n"a.wav"x,1\n'})


def test_lines_may_end_as_on_windows(read: Read) -> None:
    a, b = read({"a.lyrics.txt": "[Verse]\r\nla\r\n", "b.txt": "bpm: 90\r\nlyrics:\r\n[Verse]\r\nla\r\n"})
    assert a.lyrics == b.lyrics == "[Verse]\nla"


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_table_s_lines_may_end_as_anywhere(read: Read, end: str) -> None:
    """ "CSV (Macintosh)" ends them with a carriage return alone."""
    a, b = read({"songs.csv": end.join(["file,bpm,caption", "a.wav,93,slow", 'b.wav,94,"fast, loud"', ""])})
    assert [(song.bpm, song.caption) for song in (a, b)] == [(93, "slow"), (94, "fast, loud")]


def test_a_file_that_begins_as_no_table_does_is_left_alone(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    """Python's parser refuses columns of more than 128 kB."""
    a, _ = read({"big.csv": "file" * 50_000 + "\n1\n", "a.txt": "bpm: 93"})
    assert a.bpm == 93 and "big.csv" in caplog.text


def test_what_is_wrong_with_texts_is_said_at_once(read: Read) -> None:
    with pytest.raises(BadDataError) as caught:
        read(
            {
                "a.json": "[1]",
                "b.json": "{",
                "a.lyrics.txt": b"caf\xe9",
                "songs.csv": b"file,key\na.wav,caf\xe9\n",
                "b.txt": "bpm: fast",
            }
        )
    text = str(caught.value)
    assert "5 problems" in text
    for name in ("a.json", "b.json", "a.lyrics.txt", "songs.csv", "b.txt"):
        assert name in text
