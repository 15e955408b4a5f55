"""The fields of a dataset JSON in all their spellings, without a file."""

import json
from typing import Any

import pytest

from sidestep.data.entries import Dataset, Entry, Metadata, read_dataset
from tests.facts import tells


def read(*samples: Any, **metadata: Any) -> Dataset:
    return read_dataset(json.dumps({"metadata": metadata, "samples": samples}).encode(), "dataset.json")


def entry(**fields: Any) -> Entry:
    dataset = read({"audio_path": "a.mp3", **fields})
    assert dataset.problems == []
    return dataset.entries[1]


def test_what_is_left_out_says_nothing() -> None:
    assert entry() == Entry(audio_path="a.mp3")
    plain = Metadata()
    assert (plain.custom_tag, plain.tag_position, plain.genre_ratio, plain.all_instrumental) == (
        *("", "prepend", 0),
        False,
    )


@pytest.mark.parametrize("unknown", [None, "", " ", "N/A", "none", "NULL"])
def test_the_ways_to_say_that_something_is_not_known(unknown: str | None) -> None:
    fields = ("caption", "lyrics", "genre", "keyscale", "timesignature", "language", "custom_tag")
    found = entry(
        **dict.fromkeys((*fields, "bpm", "is_instrumental", "prompt_override"), unknown),
    )
    assert found == Entry(audio_path="a.mp3")
    assert read({"audio_path": "a.mp3"}, genre_ratio=unknown, tag_position=unknown).metadata == Metadata()


@pytest.mark.parametrize(
    ("given", "percent"), [(0, 0), (30, 30), (30.0, 30), ("30", 30), (29.6, 30), (100, 100), (1, 1), (1.0, 1)]
)
def test_genre_ratio_in_all_its_spellings(given: object, percent: int) -> None:
    dataset = read({"audio_path": "a.mp3"}, genre_ratio=given)
    assert (dataset.problems, dataset.metadata.genre_ratio) == ([], percent)


@pytest.mark.parametrize(("given", "facts"), [(0.3, ["30"]), (0.99, ["99"]), (101, ["100"]), (-1, ["0"])])
def test_a_genre_ratio_that_is_no_percent(given: float, facts: list[str]) -> None:
    (problem,) = read({"audio_path": "a.mp3"}, genre_ratio=given).problems
    assert tells(problem, "metadata", "genre_ratio", *facts)


@pytest.mark.parametrize(
    ("given", "is_right"), [(1, True), (1000, True), (1001, False), (-1, False), ("1e400", False)]
)
def test_bpm_has_a_range(given: object, is_right: bool) -> None:
    assert (read({"audio_path": "a.mp3", "bpm": given}).problems == []) == is_right


def test_numbers_stand_for_text_and_booleans_for_nothing_else() -> None:
    assert entry(timesignature=4, caption=1999).timesignature == "4"
    assert entry(is_instrumental="true").is_instrumental is True
    assert read({"audio_path": "a.mp3", "bpm": True}).problems


def test_samples_are_numbered_as_in_the_file() -> None:
    dataset = read(3, {"audio_path": "b.mp3"}, "c.mp3", {"filename": "d.mp3"}, ["e"])
    assert {number: entry.audio_path for number, entry in dataset.entries.items()} == {2: "b.mp3", 4: "d.mp3"}
    assert [problem.partition(":")[0] for problem in dataset.problems] == ["sample 1", "sample 3", "sample 5"]


def test_fields_that_are_not_used_are_known() -> None:
    samples = {"audio_path": "a.mp3", "repeat": 3, "duration": 1}, {"filename": "b.mp3", "mood": ""}
    assert read(*samples).unused_fields == {"repeat", "mood"}


def test_long_values_are_cut_short_in_a_problem() -> None:
    (problem,) = read({"audio_path": "a.mp3", "bpm": "x" * 1000}).problems
    assert "bpm" in problem and len(problem) < 120
