"""Held-out songs in a plan: they are not trained on, and what the loss on them costs."""

from dataclasses import replace
from typing import Any

import pytest

from sidestep.lifecycle.held_out import Outlook
from sidestep.planning.phases import validation_passes
from sidestep.planning.plan import Plan, make_plan
from sidestep.planning.songs import Songs, assumed_songs
from sidestep.runtime.errors import BadSpecError
from sidestep.training.numbers import Progress
from tests.planning.test_plan import TINY, songs_of, spec_of
from tests.songs import MakeSpec, song, write_songs
from tests.training.trainers import run, trainer_of


def planned(songs: Songs, **train: Any) -> Plan:
    return make_plan(spec_of(epochs=10, accumulation=2, **train), TINY, songs)


def without(songs: Songs, *out: int, known: bool = True) -> Songs:
    return replace(
        songs, outlook=Outlook(tuple(number in out for number in range(len(songs.seconds))), known)
    )


@pytest.mark.slow
def test_the_training_is_that_of_the_other_songs() -> None:
    judged = {"validation": {"songs": ["x"], "every_epochs": 5, "draws": 4}}
    long = without(songs_of(8, 30, 9, 10), 1)
    plan, of_three = planned(long, **judged), planned(songs_of(8, 9, 10))
    for name in ("steps", "micro-batch", "adapter", "longest"):
        assert plan.job[name].value == of_three.job[name].value, name
    assert plan.job["songs"].value == 4
    assert (plan.job["held out"].value, plan.job["held out"].basis) == (1, "computed")
    assert plan.largest.memory == of_three.largest.memory
    assert planned(without(songs_of(8, 9), 1, known=False)).job["held out"].basis == "assumed"


def test_what_a_validation_costs() -> None:
    """At the start, after epochs 5 and 10, which is the end: of a held-out and a trained song, four draws."""
    judged = {"validation": {"songs": ["x"], "every_epochs": 5, "draws": 4}}
    songs = without(songs_of(8, 8, 8, 8), 1)
    plan, of_three = planned(songs, **judged), planned(songs_of(8, 8, 8))
    assert plan.job["validation"].value == 3 * 2 * 4
    more = plan.phases[-1].flops - of_three.phases[-1].flops
    step = of_three.phases[-1].flops / 30
    assert 0.25 * step < more / 24 < 0.5 * step
    assert f"{more / plan.phases[-1].flops:.1%}" in plan.job["validation"].says
    assert all(
        judged.seconds > plain.seconds for judged, plain in zip(plan.cards, of_three.cards, strict=True)
    )
    assert "validation" not in of_three.job and "held out" not in of_three.job


def test_held_out_songs_that_are_longer_cost_more() -> None:
    judged = {"validation": {"songs": ["x"], "draws": 4}}
    short, long = (planned(without(songs_of(8, last, 8), 1), **judged) for last in (8, 80))
    assert short.job["validation"].value == long.job["validation"].value
    assert long.phases[-1].flops > short.phases[-1].flops


def test_most_songs_held_out_are_compared_with_the_trained_ones_that_there_are() -> None:
    songs = without(songs_of(8, 8, 8, 8), 0, 1, 2)
    spec = spec_of(epochs=1, validation={"songs": ["x"], "draws": 2})
    assert validation_passes(spec, songs) == 2 * 4 * 2
    off = spec_of(epochs=1)  # what an adapter before has held out is not trained on, and not measured
    assert validation_passes(off, songs) == 0
    assert "validation" not in make_plan(off, TINY, songs).job


@pytest.mark.parametrize("changes", [{"every_epochs": 1}, {"every_epochs": 3}, {"every_epochs": 9}])
def test_as_many_passes_as_a_run_makes(make_spec: MakeSpec, tmp_path: Any, changes: dict[str, int]) -> None:
    folder = write_songs(tmp_path / "five", [song(number) for number in range(5)])
    validation = {"songs": ["1"], "draws": 2, **changes}
    spec = make_spec(dataset_dir=folder, epochs=4, max_steps=7, validation=validation)
    trainer, progress = trainer_of(spec), Progress()
    run(trainer, progress)
    assert trainer.validator
    made = len(progress.validations) * len(trainer.validator)
    assert validation_passes(spec, without(songs_of(8, 8, 8, 8, 8), 1)) == made


def test_assumed_songs_are_held_out_by_number() -> None:
    def count(number: int, **validation: Any) -> int:
        found = assumed_songs(number, 8.0, spec_of(validation=validation).train.validation).outlook
        assert found and not found.is_known
        return found.count

    assert count(20, share=0.2) == 4
    assert count(20, share=0.01) == 2
    assert count(20, songs=["a", "b-*"]) == 2
    assert count(2, songs=["a", "b", "c"]) == 1
    assert count(20, songs=["a"], share=0.2) == 5
    assert assumed_songs(20, 8.0).outlook is None
    with pytest.raises(BadSpecError, match="7 songs"):
        count(7, share=0.2)
