"""Event files: one for the steps between two commits, so that many attempts make one curve."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.summary import scalar

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


def test_a_file_that_tells_nothing_is_deleted(tmp_path: Path) -> None:
    events = EventFiles(tmp_path / "runs", 1)
    write(events, 1)
    events.rotate(2)
    events.close()
    assert [file.name for file in (tmp_path / "runs").iterdir()] == [
        "events.out.tfevents.0000000001.sidestep"
    ]


def test_stale_files_are_of_our_own_kind() -> None:
    names = [f"events.out.tfevents.{step:010}.sidestep" for step in (1, 40, 41, 120)]
    others = ["events.out.tfevents.1795381568.host.17.0", "notes.txt"]
    assert stale([*names, *others], 41) == names[2:]
