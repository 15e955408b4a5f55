"""What a job says of itself: status.json over many attempts, and who may write it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sidestep.commitlog.writer import take_over
from sidestep.config.job import JobSpec
from sidestep.lifecycle import job as attempt_module
from sidestep.lifecycle.job import Attempt
from sidestep.lifecycle.status import Status
from sidestep.runtime.errors import AgainError, BadDataError, StorageError
from sidestep.runtime.preemption import Preemption
from sidestep.storage.store import Store

MakeAttempt = Callable[[], Attempt]


@pytest.fixture
def make_attempt(tmp_path: Path) -> MakeAttempt:
    def make() -> Attempt:
        spec = JobSpec.load(
            None,
            task="estimate",
            output_dir=tmp_path / "out",
            runtime={"lease_seconds": 1, "grace_seconds": 5},
        )
        return Attempt(spec, Preemption())

    return make


def told(tmp_path: Path) -> Status:
    return Status.model_validate_json((tmp_path / "out" / "status.json").read_bytes())


def fail(attempt: Attempt, failure: BaseException) -> None:
    def work() -> None:
        with attempt:
            attempt.begin("estimate")
            raise failure

    with pytest.raises(type(failure)):
        work()


def test_from_the_first_phase_to_the_end(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    with make_attempt() as attempt:
        assert not (tmp_path / "out" / "status.json").exists()  # it might yet be refused
        attempt.begin("estimate")
        assert (told(tmp_path).state, told(tmp_path).phase) == ("running", "estimate")
        attempt.report(step=3, steps=12, loss=0.5)
    status = told(tmp_path)
    assert (status.state, status.exit_code, status.step, status.attempt) == ("done", 0, 3, 1)
    assert list(status.spent.seconds) == ["estimate", "pull"]
    assert (tmp_path / "out" / "logs" / "sidestep-1.log").exists()


@pytest.mark.parametrize(
    ("failure", "state", "code"),
    [
        (BadDataError("the song is no song\n  take it out"), "failed", 65),
        (KeyError("oops"), "failed", 70),
        (KeyboardInterrupt(), "preempted", 75),
    ],
)
def test_how_it_ended(
    make_attempt: MakeAttempt, tmp_path: Path, failure: BaseException, state: str, code: int
) -> None:
    fail(make_attempt(), failure)
    status = told(tmp_path)
    assert (status.state, status.exit_code) == (state, code)
    assert status.message in ("the song is no song", "'oops'", "stopped by a signal")


def test_attempts_add_up(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    """The first is preempted, the second vanishes after step 9 and is made again from step 6."""
    preempted = make_attempt()
    preempted.gpus, preempted._since = 2, preempted._since - 100
    fail(preempted, KeyboardInterrupt())
    vanished = make_attempt()
    vanished.begin("train")
    vanished.report(step=9)
    vanished._tell()
    vanished._end.set()
    with make_attempt() as attempt:
        attempt.begin("train")
        attempt.resumed_at(6)
    spent = told(tmp_path).spent
    assert (spent.attempts, spent.preemptions, spent.steps_repeated) == (3, 2, 3)
    assert 100 <= sum(spent.seconds.values()) < 160
    assert 200 <= spent.gpu_seconds < 320


def test_a_later_attempt_is_not_talked_over(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    """As by a machine that was paused, given up, and goes on."""
    with make_attempt() as earlier:
        earlier.begin("estimate")
        with make_attempt() as later:
            later.begin("estimate")
            earlier.report(step=1)
            earlier._tell()
            assert told(tmp_path).attempt == 2
    assert (told(tmp_path).attempt, told(tmp_path).step) == (2, None)


def test_the_writer_is_not_talked_over_by_one_that_came_too_late(
    make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    """Two attempts begun together on an empty output: the later one is refused, the other one trains."""
    with make_attempt() as writer:
        writer.begin("pull")
        with suppress(AgainError), make_attempt() as refused:
            refused.begin("pull")
            writer._tell()
            assert told(tmp_path).attempt == 2
            writer.became_writer(1)
            writer._tell()
            assert told(tmp_path).attempt == 1
            raise AgainError("another run is writing here")
        assert (told(tmp_path).attempt, told(tmp_path).state) == (1, "running")
    with make_attempt() as next_one:
        next_one.begin("pull")
        assert (told(tmp_path).attempt, told(tmp_path).generation) == (2, 1)


def test_nothing_is_told_while_another_writer_lives(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    first = make_attempt()
    writer = take_over(first.commits, first.lease, None, {})
    with make_attempt() as second:
        second.begin("pull")
    assert not (tmp_path / "out" / "status.json").exists()
    writer.release()
    with make_attempt() as third:
        third.begin("pull")
    assert told(tmp_path).state == "done"


def test_a_status_that_cannot_be_sent_stops_nothing(
    make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Store, path: str, data: bytes) -> None:
        raise StorageError("the store is gone")

    monkeypatch.setattr(attempt_module, "HEARTBEAT_SECONDS", 0.05)
    with make_attempt() as attempt:
        monkeypatch.setattr(type(attempt.output.store), "write_bytes", fails)
        attempt.begin("estimate")
        attempt._end.wait(0.5)
    assert caplog.text.count("status.json could not be written, and is tried again") == 1


def test_a_damaged_status_is_begun_anew(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "status.json").write_text('{"name": ')
    with make_attempt() as attempt:
        attempt.begin("estimate")
    assert told(tmp_path).attempt == 1
