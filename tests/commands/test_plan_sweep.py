"""The plan of a sweep: its time and cost are the sums of all runs and of what they share."""

import json

import pytest

from sidestep.cli import main
from sidestep.runtime.errors import ExitCode
from tests.facts import tells


@pytest.mark.slow
def test_time_and_cost_are_summed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--offline", "--json", "--price-per-hour", "2", "--songs", "2", "--song-seconds", "30"]
    sweep = ["--sweep", "train.epochs=1,3", "train.adapter.rank=4,8"]
    assert main([*words, *sweep], is_process=False) == ExitCode.DONE
    plan = json.loads(capsys.readouterr().out)["plan"]
    parts = [*plan["sweep"]["runs"].values(), *plan["sweep"]["shared"].values()]
    assert [part["task"] for part in parts] == ["train"] * 4 + ["preprocess", "estimate"]
    for row in plan["sweep"]["cards"]:
        cards = [card for part in parts for card in part["cards"] if card["name"] == row["name"]]
        for figure in ("seconds", "cost"):
            assert row[figure] == pytest.approx(sum(card[figure] for card in cards))
        assert row["memory"] == max(card["needed"] for card in cards)
    assert len(plan["sweep"]["cards"]) > 10


@pytest.mark.slow
def test_the_run_that_is_planned_in_full_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--offline", "--task", "train", "--songs", "2", "--song-seconds", "30"]
    assert main([*words, "--sweep", "train.adapter.rank=4,8,8", "train.epochs=1,3"], is_process=False) == 78
    assert main([*words, "--sweep", "train.adapter.rank=4,8", "train.epochs=1,3"], is_process=False) == 0
    said = capsys.readouterr().out
    head, _, rest = said.partition("Plan of ")
    assert tells(head, "4 runs", "train.adapter.rank=8 train.epochs=1") and "rank=4" not in head
    assert rest.index("The sweep: 4 runs") > 0
