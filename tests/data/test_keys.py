"""What a key depends on: nothing that goes into the tensors is left out, and nothing else plays a part."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from sidestep.acestep.layout import Part
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.config.training import Alternate
from sidestep.data.dataset import Song
from sidestep.data.keys import Recipe, latents_key, tensors_key, weights_digest
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo
from tests.data.readers import songs_of

RECIPE = Recipe(
    max_duration=240.0,
    levels={"peak": -1.0},
    lyrics_format="inference",
    timbre="silence",
    vae="vae digest",
    text_encoder="text encoder digest",
    model="model digest",
)
OTHER: dict[str, Any] = {
    "max_duration": 10.0,
    "levels": {"peak": -1.0, "lufs": -14.0},
    "lyrics_format": "raw",
    "timbre": "zero",
    "vae": "another",
    "text_encoder": "another",
    "model": "another",
    "version": RECIPE.version + 1,
    "float_scale": 32768,
    "alternates": ("genre",),
}
OF_LATENTS = {"max_duration", "levels", "vae", "version", "float_scale"}


OF_GENRE: dict[str, Any] = {"is_instrumental": False, "may_use_genre": True}


@pytest.fixture
def song(tmp_path: Path) -> Song:
    store = open_store(str(tmp_path), StorageSpec())
    return Song(store, FileInfo("a.mp3", 1, "1"), "a caption", lyrics="la la", genre="folk", **OF_GENRE)


def test_all_of_the_recipe_is_tried() -> None:
    assert OTHER.keys() == {field.name for field in fields(Recipe)}


@pytest.mark.parametrize("field", OTHER)
def test_every_part_of_the_recipe_changes_the_tensors(song: Song, field: str) -> None:
    other = replace(RECIPE, **{field: OTHER[field]})
    assert tensors_key(song, "song digest", other) != tensors_key(song, "song digest", RECIPE)
    sounds_other = latents_key("song digest", other) != latents_key("song digest", RECIPE)
    assert sounds_other == (field in OF_LATENTS)


@pytest.mark.parametrize(
    "change", [{"caption": "another"}, {"lyrics": "lo lo"}, {"bpm": 120}, {"genre": "x"}]
)
def test_what_the_prompts_say_changes_the_tensors(song: Song, change: dict[str, Any]) -> None:
    same = change == {"genre": "x"}  # which is not what it is prompted by
    assert (tensors_key(replace(song, **change), "d", RECIPE) == tensors_key(song, "d", RECIPE)) == same


KEYS = (
    "127ee49b5c3d7c9636818fb82dc079176d223418f8ed8923995a7230da1902ac",
    "6d2093917f2f011aab2da095982ff5d1d36a845ac322e9390d0ead5b32d0f800",
    "2bb0e76c70e72a9bac6a3a04d64d84c6231e89a615ac9fee75987cb289d189a3",
)


def test_keys_of_songs_whose_words_do_not_change_stay(song: Song) -> None:
    """The keys that earlier versions made."""
    assert tensors_key(song, "song digest", RECIPE) == KEYS[0]
    assert tensors_key(replace(song, timesignature="3", language="de"), "song digest", RECIPE) == KEYS[1]
    assert latents_key("song digest", RECIPE) == KEYS[2]


@pytest.mark.parametrize(
    ("written", "known"),
    [({"timesignature": "4/4"}, {"timesignature": "4"}), ({"language": "English"}, {"language": "en"})],
)
def test_a_songs_words_are_those_of_inference(
    tmp_path: Path, song: Song, written: dict[str, Any], known: dict[str, Any]
) -> None:
    """It gets a new key; its latents, which no word has a part in, are found by the old one."""
    (tmp_path / "a.mp3").write_bytes(b"x")
    (tmp_path / "d.json").write_text(json.dumps([{"audio_path": "a.mp3", "lyrics": "la", **written}]))
    (read,) = songs_of(JobSpec(task="preprocess", dataset_dir="t", dataset_json=str(tmp_path / "d.json")))
    assert {name: getattr(read, name) for name in known} == known
    assert tensors_key(read, "d", RECIPE) != tensors_key(replace(read, **written), "d", RECIPE)
    (tmp_path / "d.json").write_text(json.dumps([{"audio_path": "a.mp3", "lyrics": "la", **known}]))
    (plain,) = songs_of(JobSpec(task="preprocess", dataset_dir="t", dataset_json=str(tmp_path / "d.json")))
    assert tensors_key(read, "d", RECIPE) == tensors_key(plain, "d", RECIPE)


def test_other_prompts_are_in_the_key_as_far_as_a_song_has_them(song: Song) -> None:
    def key(song: Song, *alternates: Alternate) -> str:
        return tensors_key(song, "d", replace(RECIPE, alternates=alternates))

    tagged = replace(song, custom_tag="xyz")
    assert (
        len({key(tagged), key(tagged, "trigger"), key(tagged, "genre"), key(tagged, "genre", "trigger")}) == 4
    )
    assert key(song, "trigger") == key(song)  # it has no trigger word
    assert key(replace(song, may_use_genre=False), "genre") == key(song)
    assert key(replace(song, genre="x"), "genre") != key(song, "genre")
    for position in ("prepend", "append"):
        other = replace(tagged, tag_position=position, custom_tag="abc")
        assert key(other, "trigger") != key(replace(other, custom_tag="xyz"), "trigger")
    assert latents_key("d", replace(RECIPE, alternates=("trigger",))) == latents_key("d", RECIPE)


def test_a_song_is_known_by_its_content_wherever_it_is(song: Song) -> None:
    moved = replace(song, file=FileInfo("b/c.flac", 2, "2"))
    assert tensors_key(moved, "d", RECIPE) == tensors_key(song, "d", RECIPE)
    assert tensors_key(song, "e", RECIPE) != tensors_key(song, "d", RECIPE)
    assert latents_key("e", RECIPE) != latents_key("d", RECIPE)


def test_weights_are_known_by_the_content_of_every_file() -> None:
    def digest(folder: str, **content: str) -> str:
        files = tuple(FileInfo(f"{folder}/{name}", 1, "1") for name in content)
        return weights_digest(Part(folder, files), {f"{folder}/{name}": c for name, c in content.items()})

    known = digest("here", config="a", weights="b")
    assert digest("there", config="a", weights="b") == known
    assert len({known, digest("here", config="a", weights="c"), digest("here", config="c", weights="b")}) == 3
