"""The checkpoint with the lowest held-out loss is always there, whatever is saved, deleted and given up."""

import threading
from dataclasses import replace
from itertools import product
from math import nan
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.writer import Writer
from sidestep.config.training import CheckpointSpec, TrainSpec
from sidestep.lifecycle.best import Best, best_commit
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.runtime.errors import StorageError
from sidestep.storage.retry import Retry
from sidestep.training.numbers import Losses, Progress, Validation
from sidestep.training.schedule import Schedule
from sidestep.training.verdict import judge
from tests.lifecycle.test_saver import Run, raising, until

JUDGED: dict[str, Any] = {"best": True, "validation": {"share": 0.2, "window": 1}}
CURVE = [3.0, 2.0, 2.5, nan, 1.5, 1.9, 1.8, 1.7, 1.6, 1.4, 2.0, 2.2]  # best: steps 2, 5, 10


def progress(step: int, every: int = 1, **fields: Any) -> Progress:
    """After `step` steps, of which every so many were validated."""
    made = {at: CURVE[at - 1] for at in range(every, step + 1, every)}
    losses = {at: Losses((loss,), (loss,)) for at, loss in made.items()}
    return Progress(step, validations={at: Validation(of, of) for at, of in losses.items()}, **fields)


def save(run: Run, now: Progress) -> None:
    run.saver.save(f"checkpoint-step-{now.step}", now)


def there(run: Run) -> list[int]:
    """The steps whose checkpoints are in the output, by its files."""
    return sorted(int(file.parent.name.split("-")[2].split(".")[0]) for file in _states(run))


def _states(run: Run) -> list[Path]:
    return list(Path(run.job.output_store.place, "checkpoints").glob("*/state.json"))


@pytest.mark.parametrize(("every", "validated", "keep"), [*product((1, 2, 3, 4), repeat=3)])
def test_kept_are_the_newest_and_the_best(every: int, validated: int, keep: int) -> None:
    """Neither interval has to be a multiple of the other."""
    schedule = Schedule.of(TrainSpec(epochs=len(CURVE)), samples=1)
    policy = CheckpointPolicy(CheckpointSpec(keep=keep, every_steps=every), schedule)
    best, kept, saved = Best(_spec()), list[str](), list[int]()
    for step in range(1, len(CURVE) + 1):
        now = progress(step, validated)
        group = replace(schedule.group(step - 1), ends_epoch=False)
        if name := policy.due(now, group, must=best.wins(now)):
            saved.append(step)
            best.folders[step] = name
            there = [name, *kept]
            kept = policy.keep(there, best.folder(best.ranked(now), there))
        if best_step := judge(now, best.train).best:
            assert f"checkpoint-step-{best_step}" in kept
        steps = {*saved[-keep:], *([best_step] if best_step else [])}
        assert sorted(kept) == sorted(f"checkpoint-step-{at}" for at in steps)


def test_the_same_on_the_disk(tmp_path: Path) -> None:
    """With one kept besides the best: the best is the newest, and the oldest."""
    run = Run(tmp_path, keep=1, **JUDGED)
    for step, kept in ((1, [1]), (2, [2]), (3, [2, 3]), (4, [2, 4]), (5, [5]), (6, [5, 6])):
        save(run, progress(step))
        until(run.saver._is_idle)
        assert there(run) == kept


def test_the_best_is_named_by_its_step_wherever_it_lies(tmp_path: Path) -> None:
    """Of an earlier generation; and of a step that was committed twice the newer."""
    first = Run(tmp_path, keep=1, **JUDGED)
    for step in (1, 2, 3):
        save(first, progress(step))
        until(first.saver._is_idle)
    first.writer.release()
    second = Run(tmp_path, keep=1, **JUDGED)
    found = best_commit(second.job.commits, second.writer.newest, [2, 1, 3])
    assert found and (found.step, found.folder) == (2, "checkpoints/checkpoint-step-2")
    second.best.folders[2] = found.folder
    save(second, progress(4))
    until(second.saver._is_idle)
    assert second.newest.kept == ["checkpoints/checkpoint-step-4.g2", "checkpoints/checkpoint-step-2"]
    again = best_commit(second.job.commits, second.newest, [7, 3, 2])  # 7 was never made, 3 is gone
    assert again and again.step == 2
    assert best_commit(second.job.commits, second.newest, [7]) is None


def test_of_two_of_one_step_the_newer_is_the_best(tmp_path: Path) -> None:
    """As where notice had cut its validation off: the first was saved without that."""
    first = Run(tmp_path, keep=3, **JUDGED)
    save(first, progress(1))
    until(first.saver._is_idle)
    first.saver.save("checkpoint-epoch-1", progress(1))
    until(first.saver._is_idle)
    save(first, progress(3))
    until(first.saver._is_idle)
    found = best_commit(first.job.commits, first.newest, [4, 1, 3])
    assert found and found.folder == "checkpoints/checkpoint-epoch-1"


def test_where_the_best_is_lost_in_the_workspace_the_training_ends(tmp_path: Path) -> None:
    run = Run(tmp_path, **JUDGED)
    put = PendingCheckpoints.put

    def put_badly(*given: Any) -> Path:
        folder = put(*given)
        (folder / "state.json").write_bytes(b"damaged")
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PendingCheckpoints, "put", put_badly)
        save(run, progress(2))
        until(run.saver._is_idle)
    with pytest.raises(StorageError, match="damaged or deleted"):
        run.saver.check()
    assert run.committed == []


def test_the_best_is_not_given_up_for_a_newer_one(
    tmp_path: Path, commits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is out of reach until the training waits for it: any other snapshot would be given up."""
    run = Run(tmp_path, retry=Retry(tries=1, seconds=60, first_pause=0.01, longest_pause=0.01), **JUDGED)
    waits = threading.Event()

    def fail(step: int) -> None:
        if step == 2 and not waits.is_set():
            raise StorageError("the store is gone")

    commits(fail)
    save(run, progress(2))
    until(lambda: run.saver._failure is not None)
    threading.Timer(0.1, waits.set).start()
    save(run, progress(3))
    until(run.saver._is_idle)
    assert run.committed == [3, 2]


def test_one_that_is_not_the_best_is(tmp_path: Path, commits: Any) -> None:
    """The twin: three is no better than two."""
    run = Run(tmp_path, retry=Retry(tries=1, seconds=60, first_pause=0.01, longest_pause=0.01), **JUDGED)
    save(run, progress(2))
    until(run.saver._is_idle)
    commits(raising(3, StorageError("the store is gone")))
    save(run, progress(3))
    save(run, progress(4))
    until(run.saver._is_idle)
    assert run.committed == [4, 2]


def test_where_the_best_cannot_be_sent_the_training_ends_and_it_waits(tmp_path: Path, commits: Any) -> None:
    run = Run(tmp_path, **JUDGED)
    commits(raising(2, StorageError("the store is gone")))
    save(run, progress(2))
    until(run.saver._is_idle)
    with pytest.raises(StorageError, match=r"checkpoint-step-2.*workspace"):
        run.saver.check()
    with pytest.raises(StorageError):
        save(run, progress(3))
    assert (run.committed, run.waits) == ([], 2)


@pytest.mark.parametrize(("step", "waits"), [(2, 2), (3, 4)])
def test_after_notice_nothing_is_kept_behind_the_best_that_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, waits: int
) -> None:
    """The next attempt would go on from there, and the best be lost. Behind any other one it is kept."""
    run = Run(tmp_path, grace_seconds=1, **JUDGED)
    if step != 2:
        save(run, progress(2))
        until(run.saver._is_idle)
    hangs, commit = threading.Event(), Writer.commit

    def hang(writer: Writer, *given: Any) -> Any:
        hangs.wait()
        return commit(writer, *given)

    monkeypatch.setattr(Writer, "commit", hang)
    save(run, progress(step))
    until(lambda: run.saver.saved_step == step)
    run.job.preemption.request()
    run.saver.save_in_time("checkpoint-step-4", progress(4))
    assert run.waits == waits
    hangs.set()
    until(run.saver._is_idle)


def test_the_best_that_waited_is_not_given_up_either(tmp_path: Path, commits: Any) -> None:
    commits(raising(2, StorageError("the store is gone")))
    first = Run(tmp_path, **JUDGED)
    save(first, progress(2))
    until(first.saver._is_idle)
    first.writer.release()
    second = Run(tmp_path, **JUDGED)
    unsent = second.job.pending.unsent(second.job.commits, second.writer.newest)
    assert unsent
    second.saver.send(unsent, progress(2))
    until(second.saver._is_idle)
    with pytest.raises(StorageError):
        second.saver.check()


def test_what_is_published_at_the_end() -> None:
    def published(folders: dict[int, str], kept: list[str], **train: Any) -> str:
        run = Best(_spec(**train), folders)
        return run.to_publish(progress(12), kept)

    folders = {10: "ten", 5: "five", 12: "twelve"}
    everything = list(folders.values())
    assert published(folders, everything) == "ten"
    assert published(folders, ["twelve", "five"]) == "five"  # the best is lost
    assert published(folders, everything, publish="last") == ""
    assert published(folders, everything, best=False) == ""
    assert published(folders, everything, best=False, publish="best") == "ten"
    assert published({}, everything) == ""


def _spec(**train: Any) -> TrainSpec:
    return TrainSpec.model_validate({**JUDGED, **train})
