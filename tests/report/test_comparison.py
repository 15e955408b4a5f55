"""Runs beside each other: which is better, and whether anybody can say."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from sidestep.config.training import TrainSpec
from sidestep.report.compare import as_data, as_text, comparison_page, settings_in_words
from sidestep.report.comparison import Run, judge_runs
from sidestep.training.numbers import Losses, Progress, Validation
from sidestep.training.verdict import judge
from tests.report.conftest import HOSTILE
from tests.report.test_page import Reader

SONGS = tuple("abcdef")


def losses(by_song: list[float]) -> Losses:
    return Losses(tuple(by_song), (sum(by_song) / len(by_song),))


def made(label: str, *validations: list[float], songs: tuple[str, ...] = SONGS, **changes: Any) -> Run:
    """A finished run with these losses by song, after 0, 10, 20, … steps; steps of 1.0 in between."""
    found = {10 * n: Validation(losses(each), losses([0.5])) for n, each in enumerate(validations)}
    step = max(found, default=20)
    progress = Progress(step, losses=[1.0] * step, validations=found, evaluations={0: 2.0, step: 1.0})
    train = TrainSpec.model_validate({"validation": {"share": 0.2, "window": 1}})
    settings = {"train.lr": 1e-4, "train.seed": 42, **changes.pop("settings", {})}
    run = Run(label, f"/runs/{label}", "finished", step, settings, songs, progress, judge(progress, train))
    return replace(run, **changes)


def shifted(by: float, noise: float = 0.0) -> list[float]:
    """A loss for each of six songs, which differ far more than by `by`."""
    return [1.0 + 0.3 * n + by + noise * (-1) ** n for n in range(len(SONGS))]


def test_songs_are_compared_in_pairs() -> None:
    """Songs differ by 1.5, and the runs by 0.02: a mean alone would not tell."""
    found = judge_runs(
        [made("soft", shifted(0), shifted(-0.1)), made("loud", shifted(0), shifted(-0.12, 1e-3))]
    )
    assert found.best and found.best.label == "loud"
    assert found.is_sure
    (remark,) = found.remarks
    assert "0.0200 ± 0.0004" in remark and "6 songs" in remark


def test_songs_are_paired_by_what_they_are_and_not_by_their_place() -> None:
    turned = made("loud", shifted(0)[::-1], shifted(-0.12)[::-1], songs=SONGS[::-1])
    found = judge_runs([made("soft", shifted(0), shifted(-0.1)), turned])
    assert found.is_sure
    assert "0.0200 ± 0.0000" in found.remarks[0]


def test_a_difference_within_the_error_is_no_winner() -> None:
    found = judge_runs(
        [made("soft", shifted(0), shifted(-0.1)), made("loud", shifted(0), shifted(-0.11, 0.2))]
    )
    assert found.best and found.best.label == "loud"
    assert not found.is_sure
    assert "No sure winner" in found.headline


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_songs_are_never_sure(count: int) -> None:
    runs = [
        made(label, shifted(0)[:count], shifted(by)[:count], songs=SONGS[:count])
        for label, by in (("soft", -0.1), ("loud", -0.5))
    ]
    found = judge_runs(runs)
    assert found.best and not found.is_sure
    assert "nan" not in found.remarks[0] and "inf" not in found.remarks[0]
    assert judge_runs([replace(run, songs=()) for run in runs]).best is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"songs": tuple("abcdeg")}, "held-out songs"),
        ({"settings": {"train.mode": "vanilla"}}, "train.mode"),
        ({"settings": {"model_variant": "turbo"}}, "model_variant"),
        ({"settings": {"train.validation.draws": 8}}, "train.validation.draws"),
    ],
)
def test_losses_of_different_measures_are_not_compared(changes: dict[str, Any], named: str) -> None:
    found = judge_runs(
        [made("soft", shifted(0), shifted(0)), made("loud", shifted(0), shifted(-1), **changes)]
    )
    assert found.best is None and not found.is_sure
    assert any(named in remark for remark in found.remarks)


def test_another_seed_or_rate_is_measured_alike() -> None:
    other = made("loud", shifted(0), shifted(-1), settings={"train.seed": 1, "train.lr": 5e-4})
    assert judge_runs([made("soft", shifted(0), shifted(0)), other]).is_sure


def test_a_run_without_held_out_songs_cannot_be_judged() -> None:
    plain = made("plain", songs=())
    found = judge_runs([plain, made("loud", shifted(0), shifted(-1))])
    assert found.best is None
    assert any(remark.startswith("plain ") for remark in found.remarks)
    assert judge_runs([plain, replace(plain, label="other")]).best is None


def test_it_is_the_adapter_s_checkpoint_that_counts() -> None:
    late = made("late", shifted(0), shifted(-0.5), shifted(0.1))
    steady = made("steady", shifted(0), shifted(-0.2), shifted(-0.2))
    found = judge_runs([late, steady])
    assert found.best and found.best.label == "steady"
    assert any("late was at its best after step 10" in remark for remark in found.remarks)
    best = judge_runs([replace(late, adapter_step=10), steady]).best
    assert best and best.label == "late"


def test_a_loss_that_is_not_finite_is_none() -> None:
    broken = made("broken", shifted(0), [math.nan] * 6)
    assert broken.measured is None
    found = judge_runs([broken, made("loud", shifted(0), shifted(-1))])
    assert found.best is None and "broken" in " ".join(found.remarks)
    assert as_data([broken], found)["runs"][0]["held_out"]["10"] is None
    Reader(comparison_page([broken, broken]))


def test_one_that_cannot_be_judged_leaves_the_others_their_winner() -> None:
    runs = [
        made("a", shifted(0), shifted(-0.1)),
        made("plain", songs=()),
        made("b", shifted(0), shifted(-0.3)),
    ]
    found = judge_runs(runs)
    assert found.best and found.best.label == "b" and found.is_sure
    assert "of those that have one" in found.headline


def test_three_runs_are_ranked() -> None:
    runs = [made(label, shifted(0), shifted(by)) for label, by in (("a", -0.1), ("b", -0.3), ("c", -0.2))]
    found = judge_runs(runs)
    assert found.best and found.best.label == "b" and found.is_sure
    assert len(found.remarks) == 2


def test_only_settings_that_differ_are_shown() -> None:
    runs = [made("a"), made("b", settings={"train.lr": 5e-4, "train.adapter.rank": 8})]
    assert settings_in_words(runs) == {"train.lr": ["0.0001", "0.0005"], "train.adapter.rank": ["–", "8"]}
    assert settings_in_words([made("a"), made("b")]) == {}


def test_the_table_and_the_page_say_the_same() -> None:
    runs = [
        made("soft", shifted(0), shifted(-0.1), shifted(-0.05), seconds=7200.0, cost=1.5),
        made(HOSTILE, shifted(0), shifted(-0.2), settings={"train.lr": 5e-4}),
    ]
    text, page = as_text(runs, judge_runs(runs)), comparison_page(runs, ["/runs/gone is damaged"])
    read = Reader(page)
    for fact in ("1.6500 (step 10)", "1.7000 (step 20)", "2 h 00 min", "1.50", "train.lr", "0.0005"):
        assert fact in text and fact in read.text
    assert "/runs/gone is damaged" in read.text
    assert "train.seed" not in text and "train.seed" not in read.text
    assert "script" not in {tag for tag, _ in read.tags}
    assert not re.search(r"(src|href|url)\s*[=(]", page.split("</head>")[1].replace("&lt;img src", ""))
    lines = [attributes["class"] for tag, attributes in read.tags if tag == "polyline"]
    assert {"colour-0 dash-0", "colour-1 dash-1", "colour-0 dash-0 mark"} <= set(lines)
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
