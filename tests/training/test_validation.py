"""Held-out songs: never trained on, and judged on draws that are the same each time."""

from math import isfinite
from pathlib import Path

import pytest
from torch import Tensor

from sidestep.runtime.preemption import Preemption
from sidestep.training.flow import Batch
from sidestep.training.loop import Trainer
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Entry
from tests.songs import MakeSpec, song, write_songs
from tests.training.trainers import run, trainer_of

HELD_OUT = {"songs": ["3", "5"], "every_epochs": 1, "draws": 3}


@pytest.fixture
def make_judged(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """A spec with eight songs, of which two are held out; four epochs of three steps."""
    folder = write_songs(tmp_path / "eight", [song(number) for number in range(8)])
    settings = {"dataset_dir": folder, "epochs": 4, "validation": HELD_OUT}
    return lambda output="out", **changes: make_spec(output, **{**settings, **changes})


def test_a_validation_before_the_first_step_and_after_every_epoch_asked_for(make_judged: MakeSpec) -> None:
    progress = Progress()
    trainer = trainer_of(make_judged(validation={**HELD_OUT, "every_epochs": 3}))
    run(trainer, progress)
    assert trainer.schedule.steps_per_epoch == 3
    assert list(progress.validations) == [0, 9, 12]
    found = progress.validations[12]
    for losses in (found.held_out, found.trained):
        assert (len(losses.by_song), len(losses.by_draw)) == (2, 3)
        assert all(map(isfinite, losses.by_song + losses.by_draw))


def test_a_held_out_song_is_never_trained_on(make_judged: MakeSpec) -> None:
    trainer = trainer_of(make_judged())
    seen = {str(sample.metadata["caption"]) for sample in trainer.samples}
    assert seen == {"0", "1", "2", "4", "6", "7"}
    assert {n for step in range(12) for n in trainer.schedule.group(step).samples} == set(range(6))


def test_validations_change_nothing_of_the_training(make_judged: MakeSpec) -> None:
    def losses(every: int) -> list[float]:
        progress = Progress()
        run(trainer_of(make_judged(validation={**HELD_OUT, "every_epochs": every})), progress)
        return progress.losses

    assert losses(1) == losses(4)


@pytest.mark.parametrize("chunks", ["random", "cover"])
def test_chunks_stay_on_their_song_s_side_and_are_the_same_at_each_validation(
    make_judged: MakeSpec, tmp_path: Path, chunks: str
) -> None:
    """Songs of 60 latents are seen in parts of 25, which show by their content whose they are."""
    long = [song(number, frames=60) for number in range(8)]
    folder = write_songs(tmp_path / "long", long)
    trainer = trainer_of(make_judged(dataset_dir=folder, chunk_duration=1, chunks=chunks))
    by_row = {tuple(row.tolist()): number for number, one in enumerate(long) for row in one.target_latents}

    def seen(latents: Tensor) -> tuple[int, ...]:
        assert latents.shape == (1, 25, 64)
        return tuple({by_row[tuple(row.tolist())] for row in latents[0]})

    taken: list[int] = []
    drawn = Trainer._drawn

    def watched(self: Trainer, entry: Entry) -> Batch:
        batch = drawn(self, entry)
        taken.extend(seen(batch.latents))
        return batch

    def drawn_now() -> list[Batch]:
        assert trainer.validator
        return list(trainer.validator.batches(trainer.null_condition, trainer.fabric.device))

    before = drawn_now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_drawn", watched)
        run(trainer, Progress())
    assert len(taken) == 24 and set(taken) == {0, 1, 2, 4, 6, 7}
    of = [seen(batch.latents) for batch in before]
    assert {number for (number,) in of[:6]} == {3, 5}
    assert {number for (number,) in of[6:]} <= {0, 1, 2, 4, 6, 7}
    for batch, again in zip(before, drawn_now(), strict=True):
        assert batch.latents.equal(again.latents) and batch.noise.equal(again.noise)


def test_without_a_step_two_validations_are_equal(make_judged: MakeSpec) -> None:
    trainer, first, second = trainer_of(make_judged()), Progress(), Progress()
    assert trainer.validate(first) and trainer.validate(second)
    assert first.validations == second.validations
    assert not trainer.validate(first)  # it is there


def test_one_that_notice_cuts_off_is_due_and_made_first_by_the_next_attempt(make_judged: MakeSpec) -> None:
    whole = Progress()
    run(trainer_of(make_judged()), whole)
    preemption = Preemption()
    trainer = trainer_of(make_judged())
    trainer.preemption = preemption
    progress = Progress()
    steps = trainer.steps(progress)
    for _ in range(2):
        next(steps)
    calls: list[int] = []

    def count(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:  # the third step has two passes: this is in the validation after it
            preemption.request()

    handle = trainer.model.register_forward_pre_hook(count)
    assert next(steps).step == 3
    assert list(progress.validations) == [0]
    assert next(steps, None) is None
    handle.remove()
    trainer.preemption = Preemption()
    assert trainer.validate(progress)
    assert progress.validations == {step: whole.validations[step] for step in (0, 3)}


def test_patience_ends_the_run(make_judged: MakeSpec) -> None:
    progress = Progress()
    trainer = trainer_of(make_judged(lr=1e-12, stop={"patience": 2, "min_delta": 0.5}, epochs=40))
    run(trainer, progress)
    assert progress.step == 9  # the first counts as a gain over nothing
    assert list(progress.evaluations) == [0, 9]
