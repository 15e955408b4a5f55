"""After which steps a run is saved, and which checkpoints stay."""

from typing import Any

import pytest

from sidestep.config.training import CheckpointSpec, TrainSpec
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Schedule
from tests.clock import Clock


@pytest.fixture
def schedule() -> Schedule:
    """Three steps an epoch, 40 epochs."""
    return Schedule.of(TrainSpec(epochs=40, accumulation=1), samples=3)


def due(policy: CheckpointPolicy, schedule: Schedule, step: int, **progress: Any) -> str | None:
    return policy.due(Progress(step, **progress), schedule.group(step - 1))


def test_by_epochs_and_steps(schedule: Schedule) -> None:
    spec = CheckpointSpec(every_epochs=10, every_steps=50, every_minutes=None, keep_every_epochs=15)
    policy = CheckpointPolicy(spec, schedule)
    assert [name for step in range(1, 121) if (name := due(policy, schedule, step))] == [
        *("checkpoint-epoch-10", "checkpoint-epoch-15", "checkpoint-step-50", "checkpoint-epoch-20"),
        *("checkpoint-epoch-30", "checkpoint-step-100", "checkpoint-epoch-40"),
    ]


def test_by_minutes(schedule: Schedule) -> None:
    clock = Clock()
    policy = CheckpointPolicy(CheckpointSpec(every_minutes=10), schedule, clock)
    clock.now = 599
    assert due(policy, schedule, 1) is None
    clock.now = 600
    assert due(policy, schedule, 2) == "checkpoint-step-2"
    policy.saved()
    assert due(policy, schedule, 3) is None
    clock.now = 1200
    assert due(policy, schedule, 4) == "checkpoint-step-4"


def test_not_in_a_row_of_skipped_steps_but_at_the_end(schedule: Schedule) -> None:
    """Should the row stop the run, the newest checkpoint is from before it."""
    policy = CheckpointPolicy(CheckpointSpec(every_steps=1), schedule)
    assert due(policy, schedule, 2, skipped_in_row=1) is None
    assert due(policy, schedule, 2) == "checkpoint-step-2"
    assert due(policy, schedule, 120, skipped_in_row=1) == "checkpoint-epoch-40"


def test_which_checkpoints_stay(schedule: Schedule) -> None:
    folders = [
        f"checkpoints/checkpoint-{name}" for name in ("step-99", "epoch-31", "epoch-30.g2", "epoch-15")
    ]
    assert CheckpointPolicy(CheckpointSpec(keep=2), schedule).keep(folders) == folders[:2]
    kept = CheckpointPolicy(CheckpointSpec(keep=1, keep_every_epochs=15), schedule).keep(folders)
    assert kept == [folders[0], folders[2], folders[3]]
