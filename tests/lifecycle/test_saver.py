"""How the saver keeps and sends checkpoints, and that a store which hangs holds nothing up."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import take_over
from sidestep.config.job import JobSpec
from sidestep.config.training import CheckpointSpec, TrainSpec
from sidestep.lifecycle.best import Best
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.saver import Saver
from sidestep.runtime.canonical import Parts
from sidestep.runtime.errors import AccessError, AgainError, SideStepError, StorageError, TakenError
from sidestep.runtime.preemption import Preemption
from sidestep.storage.retry import Retry
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Schedule
from tests.songs import MakeSpec

HANGS = """
# Loaded by Python itself: an upload of a checkpoint never ends.
import time
from pathlib import Path

import sidestep.storage.local as local

def hang(store, source, path, *rest, upload=local.LocalStore.upload):
    if path.startswith("checkpoints/"):
        Path("hangs").touch()
        time.sleep(3600)
    upload(store, source, path, *rest)

local.LocalStore.upload = hang
"""
GRACE = 6
AT_ONCE = Retry(tries=1, seconds=0)  # to give up


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "from sidestep.cli import entry; entry()",
        pytest.param(
            "import sidestep; sidestep.run(sidestep.JobSpec.load('job.json'))", marks=pytest.mark.slow
        ),
    ],
    ids=["the command", "from Python"],
)
def test_a_store_that_hangs_does_not_hold_up_the_end_after_notice(
    make_spec: MakeSpec, tmp_path: Path, program: str
) -> None:
    """In real processes. What is on this machine's disk is enough to go on."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGS)
    spec = make_spec(epochs=10_000, checkpoint={"every_steps": 1})
    spec = spec.changed({"runtime.grace_seconds": GRACE, "runtime.workspace": str(tmp_path / "ws")})
    Path("job.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-c", program, "train", "--config", "job.json"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: Path("hangs").exists() or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        said = process.communicate(timeout=60)[1]
    if "entry" in program:  # else Python takes its time to end, and ends with 1
        assert time.monotonic() - began < GRACE, said
        assert process.returncode == 75, said
    (note,) = (tmp_path / "ws").glob("scratch/outbox-*/newest.json")
    assert json.loads(note.read_text())["step"] >= 1
    assert not (tmp_path / "out" / "checkpoints").exists()


class State:
    """Stands in for a snapshot: one file, which says the step."""

    def __init__(self) -> None:
        self.step = -1

    def take(self, progress: Progress) -> None:
        self.step = progress.step

    def files(self) -> dict[str, Parts]:
        return {"state.json": (b"%d" % self.step,)}


class Run:
    """A run that is saved after its steps, as train does it."""

    def __init__(
        self,
        folder: Path,
        grace_seconds: float = 30,
        retry: Retry = AT_ONCE,
        keep: int = 2,
        **train: Any,
    ) -> None:
        runtime = {"workspace": str(folder / "ws"), "grace_seconds": grace_seconds}
        spec = JobSpec.load(None, task="train", output_dir=folder / "out", runtime=runtime)
        self.job = Job(spec, Preemption(grace_seconds, end_process=lambda code: None))
        self.reporter = Reporter(self.job, heartbeat_seconds=3600)
        self.writer = take_over(self.job.commits, Lease(60), None, {})
        schedule = Schedule.of(TrainSpec(epochs=100), samples=3)
        policy = CheckpointPolicy(CheckpointSpec(keep=keep), schedule)
        events = EventsToSend(self.job.output, newest=0, now=0)
        self.best = Best(TrainSpec.model_validate(train))
        saver = Saver(self.job, self.reporter, self.writer, State(), policy, events, self.best, retry)  # type: ignore[arg-type]
        self.saver = saver

    def save(self, step: int) -> None:
        self.saver.save(f"checkpoint-step-{step}", Progress(step))

    def stop(self, step: int, **progress: Any) -> None:
        self.saver.save_in_time(f"checkpoint-step-{step}", Progress(step, **progress))

    @property
    def newest(self) -> Record:
        assert self.writer.newest
        return self.writer.newest

    @property
    def committed(self) -> list[int]:
        return [record.step for record in self.job.commits.back_from(self.job.commits.tail()) if record.files]

    @property
    def waits(self) -> int | None:
        """The step that waits on this machine."""
        unsent = self.job.pending.unsent(self.job.commits, self.writer.newest)
        return unsent.step if unsent else None


def raising(step: int, failure: SideStepError) -> Callable[[int], None]:
    def do(committed: int) -> None:
        if committed == step:
            raise failure

    return do


def test_each_snapshot_is_committed_and_the_policy_s_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.save(step)
    run.saver.finish()
    assert run.committed == [3, 2, 1]
    assert {path.name for path in (tmp_path / "out" / "checkpoints").iterdir() if any(path.iterdir())} == {
        *("checkpoint-step-2", "checkpoint-step-3")
    }
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-step-3" / "state.json").read_text() == "3"
    assert run.waits is None
    assert not list((tmp_path / "ws").glob("scratch/outbox-*/checkpoint-*"))  # nor takes it any room


def test_a_snapshot_waits_for_the_one_before(tmp_path: Path, commits: Any) -> None:
    """So that none is lost: but the training goes on meanwhile."""
    may_go, run = threading.Event(), Run(tmp_path)
    commits(lambda step: may_go.wait(30) if step == 1 else None)
    run.save(1)
    assert run.committed == []  # and here is the training again
    threading.Timer(0.2, may_go.set).start()
    run.save(2)
    run.saver.finish()
    assert run.committed == [2, 1]


def test_a_newer_snapshot_ends_the_trying_of_the_one_before(tmp_path: Path, commits: Any) -> None:
    run = Run(tmp_path, retry=Retry(tries=1, seconds=3600, first_pause=3600, longest_pause=3600))
    commits(raising(1, StorageError("the store is gone")))
    run.save(1)
    until(lambda: run.waits == 1)
    run.save(2)
    run.saver.finish()
    assert run.committed == [2]


def test_the_last_one_that_cannot_be_sent_is_said(tmp_path: Path, commits: Any) -> None:
    run = Run(tmp_path)
    commits(raising(1, StorageError("the store is gone\n  look there")))
    run.save(1)
    with pytest.raises(StorageError, match="the store is gone"):
        run.saver.finish()
    assert run.waits == run.saver.saved_step == 1
    run.reporter.begin("train")
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert "checkpoint-step-1" in status["message"] and "the store is gone" in status["message"]


def test_what_is_damaged_in_the_workspace_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    put = PendingCheckpoints.put

    def put_and_damage(self: PendingCheckpoints, name: str, step: int, *rest: Any) -> Path:
        folder = put(self, name, step, *rest)
        if step in (2, 3):
            (folder / "state.json").write_bytes(b"9")
        return folder

    monkeypatch.setattr(PendingCheckpoints, "put", put_and_damage)
    run.save(1)
    run.save(2)
    run.save(4)
    run.saver.finish()
    assert run.committed == [4, 1] and "checkpoint-step-2 is lost" in caplog.text
    run.save(3)
    with pytest.raises(StorageError, match="damaged or deleted before it was sent"):
        run.saver.finish()


@pytest.mark.parametrize("what", ["changed", "deleted"])
def test_what_is_damaged_while_it_is_sent_is_not_committed(tmp_path: Path, commits: Any, what: str) -> None:
    def damage(step: int) -> None:
        for file in (tmp_path / "ws").glob("scratch/outbox-*/checkpoint-step-2/state.json"):
            file.unlink() if what == "deleted" else file.write_bytes(b"9")

    run = Run(tmp_path)
    commits(damage)
    for step in (1, 2):
        run.save(step)
    with pytest.raises(StorageError, match="damaged or deleted before it was sent"):
        run.saver.finish()
    assert run.committed == [1]


def test_other_failures_end_the_run_and_keep_the_state(tmp_path: Path, commits: Any) -> None:
    run = Run(tmp_path)
    commits(raising(1, AccessError("the key has expired")))
    run.save(1)
    until(lambda: run.saver.saved_step == 1)
    time.sleep(0.1)
    with pytest.raises(AccessError, match="the key has expired"):
        run.saver.check()
    with pytest.raises(AccessError):
        run.stop(2)
    assert run.saver.saved_step == 2


def test_after_notice_the_newer_state_is_kept_first(tmp_path: Path, commits: Any) -> None:
    """The one before is still on its way when the time is over."""
    over, run = threading.Event(), Run(tmp_path, grace_seconds=2)
    commits(lambda step: over.wait(30))
    run.save(1)
    run.job.preemption.request()
    began = time.monotonic()
    run.stop(2)
    assert time.monotonic() - began < 2
    assert (run.committed, run.waits, run.saver.saved_step) == ([], 2, 2)
    over.set()


def test_after_notice_a_save_that_was_due_does_not_wait_either(tmp_path: Path, commits: Any) -> None:
    over, run = threading.Event(), Run(tmp_path, grace_seconds=2)
    commits(lambda step: over.wait(30))
    run.save(1)
    threading.Timer(0.2, run.job.preemption.request).start()
    run.save(2)
    with pytest.raises(AgainError, match="waits in the workspace"):
        run.saver.finish()
    assert run.waits == 2
    over.set()


def test_in_time_both_are_sent(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(1)
    run.job.preemption.request()
    run.stop(2)
    assert run.committed == [2, 1]


@pytest.mark.parametrize("progress", [{"step": 0}, {"step": 2, "skipped_in_row": 1}])
def test_nothing_new_is_saved_before_the_first_step_or_in_a_skipped_row(
    tmp_path: Path, progress: dict[str, int]
) -> None:
    run = Run(tmp_path)
    run.job.preemption.request()
    run.stop(**progress)
    assert (run.committed, run.saver.saved_step) == ([], -1)


def test_what_an_attempt_goes_on_from_is_not_saved_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.saver.goes_on_from(2)
    run.stop(step=2)
    assert (run.committed, run.saver.saved_step) == ([], -1)
    run.stop(step=3)
    assert run.committed == [3]


def test_a_writer_that_is_fenced_stops(tmp_path: Path) -> None:
    run = Run(tmp_path)
    take_over(run.job.commits, Lease(0), None, {})
    run.save(1)
    with pytest.raises(TakenError, match=r"taken .* over"):
        run.saver.finish()
    assert not (tmp_path / "out" / "checkpoints").exists()


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
