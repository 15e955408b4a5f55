"""Event files: one for the steps between two commits, so that many attempts make one curve."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.summary import scalar

from sidestep.runtime.errors import TakenError
from sidestep.training.events import EventFiles, stale


def write(events: EventFiles, *steps: int) -> None:
    for step in steps:
        events.add(scalar("loss", step / 10), step)


def steps_told(folder: Path) -> list[int]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("loss")]


def test_an_attempt_that_goes_on_leaves_neither_gap_nor_overlap(tmp_path: Path) -> None:
    first = EventFiles(tmp_path, 1)
    write(first, 1, 2)
    assert first.rotate(3) == "events.out.tfevents.0000000001.sidestep"
    write(first, 3, 4)
    first.rotate(5)  # committed at 4
    write(first, 5, 6)
    first.rotate(7)  # sent, but its record was not
    write(first, 7, 8)
    first._file.close()  # killed: what it wrote may be there or not
    second = EventFiles(tmp_path, 5)
    write(second, 5, 6, 7, 8, 9)
    second.close()
    assert steps_told(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_what_comes_after_the_last_step_is_a_file_of_its_own(tmp_path: Path) -> None:
    events = EventFiles(tmp_path, 1)
    write(events, 1, 2)
    events.rotate(3)
    assert events.complete() is None, "it tells nothing"
    write(events, 2)
    assert events.complete() == "events.out.tfevents.0000000003.sidestep"
    events.close()
    assert steps_told(tmp_path) == [1, 2, 2]


def test_a_file_that_tells_nothing_is_deleted(tmp_path: Path) -> None:
    events = EventFiles(tmp_path / "runs", 1)
    write(events, 1)
    assert events.rotate(2) == "events.out.tfevents.0000000001.sidestep"
    assert events.rotate(2) is None  # no step was made since
    events.close()
    assert [file.name for file in (tmp_path / "runs").iterdir()] == [
        "events.out.tfevents.0000000001.sidestep"
    ]


def test_a_writer_that_was_given_up_does_not_touch_the_files_of_the_next(tmp_path: Path) -> None:
    """On a disk that both have: it was paused, and goes on when the other one is past it."""
    paused = EventFiles(tmp_path, 1)
    write(paused, 1)
    paused.rotate(2)
    following = EventFiles(tmp_path, 2)
    write(following, 2)
    following.rotate(3)
    write(following, 3)
    with pytest.raises(TakenError, match=str(tmp_path)):
        paused.rotate(3)
    paused.close()
    idle = EventFiles(tmp_path / "other", 5)
    again = EventFiles(tmp_path / "other", 5)
    write(again, 5)
    idle.close()
    again.close()
    following.close()
    assert steps_told(tmp_path) == [1, 2, 3]
    assert steps_told(tmp_path / "other") == [5]


def test_stale_files_are_of_our_own_kind() -> None:
    names = [f"events.out.tfevents.{step:010}.sidestep" for step in (1, 40, 41, 120)]
    others = ["events.out.tfevents.1795381568.host.17.0", "notes.txt"]
    assert stale([*names, *others], 41) == names[2:]
