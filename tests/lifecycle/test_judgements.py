"""What is told of validations while a run trains, and what an attempt before has told already."""

from typing import Any

import pytest

from sidestep.config.training import TrainSpec
from sidestep.lifecycle.judgements import Judgements
from sidestep.training.numbers import Losses, Progress, Validation


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []

    def update(self, **changes: Any) -> None:
        self.changes.append(changes)


def found(loss: float) -> Validation:
    losses = Losses((loss,) * 5, (loss,))
    return Validation(losses, losses)


@pytest.fixture
def told() -> Told:
    return Told()


def judgements(told: Told, progress: Progress) -> Judgements:
    train = TrainSpec.model_validate({"validation": {"share": 0.2, "window": 1}})
    return Judgements(told, train, 100, progress)  # type: ignore[arg-type]  # its update alone is called


def test_each_validation_is_told_once(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    saying = judgements(told, progress)
    assert told.changes == []
    with caplog.at_level("INFO", logger="sidestep"):
        for step, loss in ((0, 1.0), (10, 0.5), (20, 0.7)):
            progress.step, progress.validations[step] = step, found(loss)
            saying.tell()
            saying.tell()
    assert [change["validation"].step for change in told.changes] == [0, 10, 20]
    last = told.changes[-1]["validation"]
    assert (last.held_out, last.best_step, last.best_held_out) == (0.7, 10, 0.5)
    assert last.gain == pytest.approx(-0.3)
    assert len([record for record in caplog.records if "Validation after" in record.message]) == 3


def test_an_attempt_goes_on_with_what_was_found_before(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(10, validations={0: found(1.0), 10: found(0.5)})
    with caplog.at_level("INFO", logger="sidestep"):
        judgements(told, progress).tell()
    assert [change["validation"].step for change in told.changes] == [10]
    assert not caplog.records


def test_how_far_it_is_until_it_is_done(told: Told) -> None:
    saying = judgements(told, Progress(40))
    saying.watch(1, 2)
    saying.watch(2, 2)
    at, end = (change["validating"] for change in told.changes)
    assert (at.step, at.done, at.total) == (40, 1, 2)
    assert end is None
