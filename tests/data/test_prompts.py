import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.data.dataset import Song
from sidestep.data.prompts import lyrics_prompt, prompt_caption, text_prompt
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo

MakeSong = Callable[..., Song]


@pytest.fixture
def song(tmp_path: Path) -> MakeSong:
    def song(caption: str = "", **fields: Any) -> Song:
        return Song(open_store(str(tmp_path), StorageSpec()), FileInfo("a.mp3", 1, "1"), caption, **fields)

    return song


def test_the_golden_prompts_to_the_letter(song: MakeSong, golden: Path) -> None:
    expected = json.loads((golden / "expected.json").read_text())["text"]
    rock = song(
        "An energetic rock track with electric guitar and driving drums",
        lyrics="[Verse 1]\nRising up from the ashes tonight\n"
        "[Chorus]\nWe're on fire, burning bright\n[Instrumental]",
        bpm=120,
        keyscale="C major",
        timesignature="4",
        language="en",
    )
    assert text_prompt(rock, 30.9) == expected["prompt"]
    assert lyrics_prompt(rock) == expected["lyrics"]


def test_what_is_not_known_is_not_available(song: MakeSong) -> None:
    assert text_prompt(song("x"), None).endswith(
        "# Metas\n- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: N/A\n<|endoftext|>\n"
    )


def test_an_instrumental(song: MakeSong) -> None:
    assert lyrics_prompt(song("x")) == "# Languages\nunknown\n\n# Lyric\n[Instrumental]<|endoftext|>"


def test_raw_lyrics_have_no_template(song: MakeSong) -> None:
    """As trainers had it that knew none."""
    assert lyrics_prompt(song("x", lyrics="La\nLa", language="it"), "raw") == "La\nLa"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"caption": "words", "genre": "rock"}, "words"),
        ({"caption": "words", "genre": "rock", "uses_genre": True}, "rock"),
        ({"caption": "words", "genre": "rock", "uses_genre": True, "custom_tag": "me"}, "me, rock"),
        ({"caption": "", "custom_tag": "me"}, "me"),
        ({"caption": "words", "tag_position": "replace"}, "words"),
    ],
)
def test_the_caption_that_enters(song: MakeSong, fields: dict[str, Any], text: str) -> None:
    assert prompt_caption(song(**fields)) == text
