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
    none = CheckpointSpec(keep=2, keep_every_epochs=None)
    assert CheckpointPolicy(none, schedule).keep(folders) == folders[:2]
    kept = CheckpointPolicy(CheckpointSpec(keep=1, keep_every_epochs=15), schedule).keep(folders)
    assert kept == [folders[0], folders[2], folders[3]]


def kept_of(epochs: int, **settings: Any) -> list[int]:
    """The epochs whose checkpoints stay at the end of a run of one step an epoch, of the newest one alone."""
    schedule = Schedule.of(TrainSpec(epochs=epochs, accumulation=1), samples=1)
    policy = CheckpointPolicy(CheckpointSpec(keep=1, every_minutes=None, **settings), schedule)
    folders: list[str] = []
    for step in range(1, epochs + 1):
        if name := due(policy, schedule, step):
            folders = policy.keep([f"checkpoints/{name}", *folders])
    kept = sorted(int(folder.rpartition("-")[2]) for folder in folders)
    assert len(kept) - policy.milestones in (0, 1)  # the newest may be one of them
    return kept


def test_ten_of_a_run_stay_by_default() -> None:
    assert kept_of(100) == [
        10,
        20,
        30,
        40,
        50,
        60,
        70,
        80,
        90,
        100,
    ]  # so the guide's checkpoint-epoch-50 does
    assert kept_of(500) == [50, 100, 150, 200, 250, 300, 350, 400, 450, 500]
    assert kept_of(104) == [20, 40, 60, 80, 100, 104]
    assert kept_of(3, every_epochs=1) == [1, 2, 3]
    assert kept_of(40, every_epochs=15) == [15, 30, 40]
    assert kept_of(100, keep_every_epochs=None) == [100]
    assert kept_of(100, keep_every_epochs=33) == [33, 66, 99, 100]


def test_of_an_epoch_that_was_made_twice_the_newer_stays(schedule: Schedule) -> None:
    """The run went back: the older one counts no more."""
    numbers = ("epoch-40.g2", "epoch-30.g2", "step-35", "epoch-30", "epoch-20")
    folders = [f"checkpoints/checkpoint-{number}" for number in numbers]
    policy = CheckpointPolicy(CheckpointSpec(keep=1), schedule)
    assert policy.keep(folders) == [folders[0], folders[1], folders[4]]
    assert CheckpointPolicy(CheckpointSpec(keep=4), schedule).keep(folders) == folders


def test_what_must_be_saved_is(schedule: Schedule) -> None:
    """The best, or an early end: whatever the intervals say, and within a row of skipped steps too."""
    policy = CheckpointPolicy(CheckpointSpec(every_epochs=100, every_minutes=None), schedule)
    for skipped in (0, 1):
        step = Progress(4, skipped_in_row=skipped)
        assert policy.due(step, schedule.group(3), must=True) == "checkpoint-step-4"
        assert policy.due(Progress(6, skipped_in_row=skipped), schedule.group(5), must=True) == (
            "checkpoint-epoch-2"
        )
    assert policy.due(Progress(6), schedule.group(5)) is None
