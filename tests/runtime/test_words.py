"""Durations, hints and nested values, as all parts say and set them."""

from typing import Any

import pytest

from sidestep.runtime.words import did_you_mean, duration, nearest_word, nested, out_of, set_at


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.2134, "0.2 s"),
        (0.96, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (48 * 3600 - 1, "47 h 59 min"),
        (48 * 3600, "2.0 days"),
        (7.81 * 86400, "7.8 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_word_that_was_meant() -> None:
    known = {"train": 1, "preprocess": 2, "plan": 3}
    assert nearest_word("TRIAN", known) == "train"
    assert nearest_word("xyz", known) is None
    assert nearest_word("trian", known, likeness=0.9) is None
    assert did_you_mean("plann", known) == "did you mean plan?"
    assert did_you_mean("plann", known, spelt="`sidestep {}`") == "did you mean `sidestep plan`?"
    assert did_you_mean("xyz", iter(known)) == "there are train, preprocess, plan"


def test_values_by_their_paths() -> None:
    made = nested({("a",): 1, ("b", "c"): 2, ("b", "d", "e"): {}, ("b", "c2"): None})
    assert made == {"a": 1, "b": {"c": 2, "d": {"e": {}}, "c2": None}}
    values: dict[str, Any] = {"b": {"c": 2}}
    set_at(values, ["b", "c"], 3)
    set_at(values, ("x", "y"), 4)
    assert values == {"b": {"c": 3}, "x": {"y": 4}}
    assert nested({}) == {}


def test_a_part_of_one_is_no_plural() -> None:
    assert out_of(1, 1, "songs") == "1 of 1 song"
    assert out_of(1, 1200, "batches") == "1 of 1,200 batches"
