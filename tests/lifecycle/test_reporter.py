"""What a job says of itself: status.json over many attempts, and who may write it."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.writer import take_over
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.status import Status
from sidestep.runtime.errors import AgainError, BadDataError, StorageError, TakenError
from sidestep.storage.store import Store
from tests.clock import Clock

MakeReporter = Callable[..., Reporter]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    runtime = {"lease_seconds": 1, "grace_seconds": 5}
    return Job(JobSpec.load(None, task="estimate", output_dir=tmp_path / "out", runtime=runtime))


@pytest.fixture
def attempt(job: Job) -> MakeReporter:
    """Reports that tell of what happens only: none by the clock."""

    def make(**options: Any) -> Reporter:
        return Reporter(Job(job.spec), **{"heartbeat_seconds": 3600, **options})

    return make


def told(tmp_path: Path) -> Status:
    return Status.model_validate_json((tmp_path / "out" / "status.json").read_bytes())


def fail(reporter: Reporter, failure: BaseException, clock: Clock | None = None) -> None:
    """An attempt that works for 100 s, on two GPUs, and ends by `failure`."""

    def work() -> None:
        with reporter:
            reporter.begin("estimate", gpus=2)
            if clock:
                clock.now += 100
            raise failure

    with pytest.raises(type(failure)):
        work()


def test_from_the_first_phase_to_the_end(attempt: MakeReporter, tmp_path: Path) -> None:
    with attempt() as reporter:
        assert not (tmp_path / "out" / "status.json").exists()  # it might yet be refused
        reporter.begin("estimate")
        assert (told(tmp_path).state, told(tmp_path).phase) == ("running", "estimate")
        reporter.update(step=3, steps=12, loss=0.5)
    status = told(tmp_path)
    assert (status.state, status.exit_code, status.step, status.attempt) == ("done", 0, 3, 1)
    assert set(status.spent.seconds) == {"estimate", "pull"}
    assert (tmp_path / "out" / "logs" / "sidestep-1.log").exists()


@pytest.mark.parametrize(
    ("failure", "state", "code", "message"),
    [
        (BadDataError("the song is no song\n  take it out"), "failed", 65, "the song is no song"),
        (KeyError("oops"), "failed", 70, "'oops'"),
        (AgainError("stopped after step 3"), "preempted", 75, "stopped after step 3"),
        (KeyboardInterrupt(), "preempted", 75, "stopped by a signal"),
    ],
)
def test_how_it_ended(
    attempt: MakeReporter, tmp_path: Path, failure: BaseException, state: str, code: int, message: str
) -> None:
    fail(attempt(), failure)
    status = told(tmp_path)
    assert (status.state, status.exit_code, status.message) == (state, code, message)


def test_attempts_add_up(attempt: MakeReporter, tmp_path: Path) -> None:
    """The first is preempted, the second vanishes after step 9 and is made again from step 6."""
    clock = Clock()
    fail(attempt(clock=clock), KeyboardInterrupt(), clock)
    vanished = attempt(clock=clock)
    vanished.begin("train")
    clock.now += 30
    vanished.update(step=9)
    vanished.tell()
    with attempt(clock=clock) as reporter:
        reporter.begin("train", gpus=1)
        reporter.resumed_at(6)
        clock.now += 7
        reporter.begin("publish")
        clock.now += 2
    spent = told(tmp_path).spent
    assert (spent.attempts, spent.preemptions, spent.steps_repeated) == (3, 2, 3)
    assert spent.seconds == {"pull": 0, "estimate": 100, "train": 37, "publish": 2}
    assert spent.gpu_seconds == 2 * 100 + 9


@pytest.mark.parametrize(
    ("failure", "preemptions"), [(None, 0), (BadDataError("a song is broken"), 0), (AgainError("notice"), 1)]
)
def test_what_counts_as_a_preemption(
    attempt: MakeReporter, tmp_path: Path, failure: Exception | None, preemptions: int
) -> None:
    """That the machine was taken away, not that the job was run again."""
    if failure:
        fail(attempt(), failure)
    else:
        with attempt() as first:
            first.begin("estimate")
    with attempt() as second:
        second.begin("estimate")
    assert (told(tmp_path).spent.attempts, told(tmp_path).spent.preemptions) == (2, preemptions)


def test_a_run_that_has_ended_well_repeats_nothing(attempt: MakeReporter, tmp_path: Path) -> None:
    with attempt() as reporter:
        reporter.begin("train")
        reporter.update(step=9)
    with attempt() as extended:
        extended.begin("train")
        extended.resumed_at(6)
    spent = told(tmp_path).spent
    assert (spent.attempts, spent.preemptions, spent.steps_repeated) == (2, 0, 0)


def test_a_later_attempt_is_not_talked_over(attempt: MakeReporter, tmp_path: Path) -> None:
    """As by a machine that was paused, given up, and goes on."""
    with attempt() as earlier:
        earlier.begin("estimate")
        with attempt() as later:
            later.begin("estimate")
            earlier.update(step=1)
            earlier.tell()
            assert told(tmp_path).attempt == 2
    assert (told(tmp_path).attempt, told(tmp_path).step) == (2, None)


def test_the_writer_is_not_talked_over_by_one_that_came_too_late(
    attempt: MakeReporter, tmp_path: Path
) -> None:
    """Two attempts begun together on an empty output: the later one is refused, the other one trains."""
    with attempt() as writer:
        writer.begin("pull")
        with suppress(TakenError), attempt() as refused:
            refused.begin("pull")
            writer.tell()
            assert told(tmp_path).attempt == 2
            writer.update(generation=1)
            writer.tell()
            assert told(tmp_path).attempt == 1
            raise TakenError("another run is writing here")
        assert (told(tmp_path).attempt, told(tmp_path).state) == (1, "running")
    with attempt() as next_one:
        next_one.begin("pull")
        assert (told(tmp_path).attempt, told(tmp_path).generation) == (3, 1)  # the refused one was one


def test_nothing_is_told_while_another_writer_lives(attempt: MakeReporter, job: Job, tmp_path: Path) -> None:
    with take_over(job.commits, Lease(1), None, {}), attempt() as second:
        second.begin("pull")
    assert not (tmp_path / "out" / "status.json").exists()
    with attempt() as third:
        third.begin("pull")
    assert told(tmp_path).state == "done"


def test_it_is_told_again_and_again(attempt: MakeReporter, tmp_path: Path) -> None:
    with attempt(heartbeat_seconds=0.01) as reporter:
        reporter.begin("train")
        reporter.update(step=7)
        _until(lambda: told(tmp_path).step == 7)
        assert told(tmp_path).heartbeat_seconds == 0.01


def test_a_status_that_cannot_be_sent_stops_nothing(
    attempt: MakeReporter, job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def fails(self: Store, path: str, data: bytes) -> None:
        tried.append(path)
        raise StorageError("the store is gone")

    monkeypatch.setattr(type(job.output_store), "write_bytes", fails)
    with attempt(heartbeat_seconds=0.01) as reporter:
        reporter.begin("estimate")
        _until(lambda: len(tried) > 3)
    assert set(tried) == {"status.json", "attempts/000001.json"}
    (warning,) = [record for record in caplog.records if "status.json" in record.message]
    assert "the store is gone" in warning.message


@pytest.mark.parametrize("content", ['{"name": ', "[]", "{}"])
def test_a_damaged_status_is_begun_anew(
    attempt: MakeReporter, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "status.json").write_text(content)
    with attempt() as reporter:
        reporter.begin("estimate")
    assert told(tmp_path).attempt == 1
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "status.json" in warning.message


def test_a_folder_in_the_place_of_the_log_ends_the_attempt_with_its_path(
    attempt: MakeReporter, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "logs" / "sidestep-1.log"
    folder.mkdir(parents=True)

    def work() -> None:
        with attempt() as reporter:
            reporter.begin("estimate")

    with pytest.raises(BadDataError, match=str(folder)):
        work()


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
