"""An attempt on which nothing advances ends with 76; one that works, waits or was paused does not."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Heartbeat, Lease, Watch
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle import watchdog as module
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.watchdog import Watchdog
from sidestep.runtime import liveness
from sidestep.runtime.errors import ExitCode, StalledError, StorageError
from sidestep.runtime.progress import track
from sidestep.storage.open import open_store
from sidestep.storage.retry import Retry
from sidestep.storage.store import no_progress
from sidestep.training import loop
from tests.clock import Clock
from tests.runs import train
from tests.songs import MakeSpec


@pytest.fixture
def reporter(tmp_path: Path) -> Iterator[Reporter]:
    spec = JobSpec.load(None, task="estimate", output_dir=tmp_path / "out")
    with Reporter(Job(spec), heartbeat_seconds=3600) as reporter:
        yield reporter


@pytest.fixture
def clock() -> Clock:
    return Clock()


def look(watchdog: Watchdog, clock: Clock, seconds: float) -> StalledError | None:
    """Look every second for so long, as its thread does."""
    for _ in range(round(seconds)):
        clock.now += 1
        if error := watchdog.look():
            return error
    return None


def watch(reporter: Reporter, clock: Clock, stall: float | None = 1, first: float | None = 4) -> Watchdog:
    return Watchdog(reporter, stall, first, lambda error: None, clock)


def test_what_does_not_advance_ends(reporter: Reporter, clock: Clock) -> None:
    reporter.begin("preprocess")
    watchdog = watch(reporter, clock)
    assert look(watchdog, clock, 59) is None
    error = look(watchdog, clock, 1)
    assert error is not None and error.exit_code is ExitCode.STALLED
    assert "preprocess" in str(error) and "runtime.stall_minutes (1)" in str(error)


def advance_a_bar() -> None:
    with track("Pulling", 10, "B") as bar:
        bar.advance(1)


@pytest.mark.parametrize(
    "sign", [liveness.sign_of_life, advance_a_bar, lambda: no_progress(1)], ids=["sign", "bar", "bytes"]
)
def test_any_progress_is_enough(reporter: Reporter, clock: Clock, sign: Callable[[], None]) -> None:
    reporter.begin("pull")
    watchdog = watch(reporter, clock)
    for _ in range(5):
        assert look(watchdog, clock, 59) is None
        sign()
    assert look(watchdog, clock, 62) is not None


def test_micro_batches_and_evaluation_draws_are_progress(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = Counter[str]()
    monkeypatch.setattr(loop, "sign_of_life", lambda: signs.update(["draws" if within else "steps"]))
    within: list[int] = []
    evaluate = loop.Trainer.evaluate

    def evaluating(self: loop.Trainer) -> float:
        within.append(1)
        try:
            return evaluate(self)
        finally:
            within.pop()

    monkeypatch.setattr(loop.Trainer, "evaluate", evaluating)
    train(make_spec(epochs=2))
    assert signs["draws"] == 2 * loop.EVALUATION_DRAWS
    assert signs["steps"] >= 4  # an accumulation of several is one step


def test_until_the_first_step_it_may_take_longer(reporter: Reporter, clock: Clock) -> None:
    reporter.begin("train")
    watchdog = watch(reporter, clock)
    assert look(watchdog, clock, 4 * 60 - 1) is None
    error = look(watchdog, clock, 1)
    assert error is not None and "runtime.first_step_minutes (4)" in str(error)


def test_after_the_first_step_it_may_not(reporter: Reporter, clock: Clock) -> None:
    reporter.begin("train")
    reporter.update(step=7)
    assert look(watch(reporter, clock), clock, 60) is not None


def test_the_guard_is_told_of_the_first_step(reporter: Reporter) -> None:
    told = [liveness.awaits_first_step()]
    reporter.begin("train")
    told.append(liveness.awaits_first_step())
    reporter.update(step=1)
    assert [*told, liveness.awaits_first_step()] == [False, True, False]


def test_a_bound_may_be_left_out(reporter: Reporter, clock: Clock) -> None:
    reporter.begin("pull")
    assert look(watch(reporter, clock, stall=None), clock, 7200) is None


def test_who_waits_for_another_s_lease_has_not_stalled(
    reporter: Reporter, clock: Clock, tmp_path: Path
) -> None:
    watchdog, errors = watch(reporter, clock), list[StalledError | None]()
    store = open_store(str(tmp_path / "out"), StorageSpec())
    waits = Clock()

    def sleep(seconds: float) -> None:
        waits.now += 1
        errors.append(look(watchdog, clock, 1))

    lease = Lease(300, waits, sleep)
    Heartbeat(store, 1, lease, lambda: True)
    Watch(store, 1, lease).wait()
    assert len(errors) >= 299 and not any(errors)


def test_who_waits_for_a_store_has_not_stalled(reporter: Reporter, clock: Clock) -> None:
    watchdog, errors = watch(reporter, clock), list[StalledError | None]()
    waits = Clock()

    def sleep(seconds: float) -> None:
        waits.sleep(seconds)
        errors.append(look(watchdog, clock, seconds))

    def gone() -> None:
        raise StorageError("it is out of reach")

    retry = Retry(seconds=600, first_pause=100, longest_pause=100, jitter=0, clock=waits, sleep=sleep)
    with pytest.raises(StorageError):
        retry.call(gone, lambda error: True)
    assert len(errors) >= 6 and not any(errors)
    assert look(watchdog, clock, 61) is not None  # and no longer than that


def test_a_process_that_was_paused_has_not_stalled(reporter: Reporter, clock: Clock) -> None:
    watchdog = watch(reporter, clock)
    clock.now += 24 * 3600
    assert watchdog.look() is None


def test_its_thread_tells_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "LOOKS_EVERY", 0.05)
    spec = JobSpec.load(None, task="estimate", output_dir=tmp_path / "out")
    ended, errors = threading.Event(), list[StalledError]()

    def end(error: StalledError) -> None:
        errors.append(error)
        ended.set()

    with Reporter(Job(spec), heartbeat_seconds=3600) as reporter:
        reporter.begin("estimate")
        with Watchdog(reporter, 0.005, 0.005, end):
            assert ended.wait(20)
        status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 76)
    assert "test_its_thread_tells_and_ends" in caplog.text  # where the main thread is


HANGS = """
import time
from sidestep.lifecycle.watchdog import Watchdog
from sidestep.training.loop import Trainer
step = Trainer.step
def hang(self, number):
    if number == 2:
        Watchdog._bound = lambda self: ("stall_minutes", 0.01)
        time.sleep(600)
    return step(self, number)
Trainer.step = hang
from sidestep.__main__ import entry
entry()
"""


@pytest.mark.slow
def test_a_training_that_hangs_is_ended_and_goes_on(make_spec: MakeSpec, tmp_path: Path) -> None:
    """In a real process: its main thread does nothing any more, and the same command ends the run."""
    spec = make_spec(epochs=2, checkpoint={"every_steps": 1, "every_minutes": None})
    Path("job.json").write_text(spec.changed({"runtime.lease_seconds": 1}).model_dump_json())

    def attempt(*program: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *program, "train", "--config", "job.json"]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    hung = attempt("-c", HANGS)
    assert hung.returncode == 76, hung.stderr
    status: dict[str, Any] = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 76, 2)
    assert "in hang" in (tmp_path / "out" / "logs" / "sidestep-1.log").read_text()
    assert attempt("-m", "sidestep").returncode == 0
