"""What a job says of itself: status.json over many attempts, and who may write it."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.commitlog.writer import take_over
from sidestep.config.job import JobSpec
from sidestep.lifecycle import job as attempt_module
from sidestep.lifecycle.job import Attempt
from sidestep.lifecycle.status import Status, now
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


@pytest.fixture
def running(tmp_path: Path) -> Status:
    return Status(
        name="my-lora",
        task="train",
        phase="train",
        step=120,
        steps=1000,
        epoch=3,
        epochs=25,
        loss=0.8125,
        steps_per_second=0.5,
        seconds_left=1760,
        last_commit={"folder": "checkpoints/checkpoint-step-100", "step": 100, "at": now()},
        spent={"attempts": 2, "preemptions": 1, "seconds": {"pull": 60, "train": 240}},
        attempt=2,
    )


def write(status: Status, tmp_path: Path) -> str:
    (tmp_path / "status.json").write_text(status.model_dump_json())
    return str(tmp_path)


def test_the_command_for_people(running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", write(running, tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "my-lora: running (train)",
        "  step 120 of 1000 (12%), epoch 3 of 25, loss 0.8125",
        "  0.5 steps/s, 29 min 20 s left",
        "  newest checkpoint: checkpoints/checkpoint-step-100, after step 100",
        "  attempt 2, 1 of them preempted, 5 min 00 s in all",
    ]


def test_a_stale_heartbeat_is_said(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running.heartbeat = now() - timedelta(hours=2)
    assert main(["status", write(running, tmp_path)]) == 0
    assert "no sign of life for 2 h 00 min: its machine is gone" in capsys.readouterr().out


def test_the_command_for_programs(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", write(running, tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last_commit"]["step"] == 100


def test_watching_ends_with_the_job(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(running, tmp_path)

    def ends(seconds: float) -> None:
        write(running.model_copy(update={"state": "done"}), tmp_path)

    monkeypatch.setattr("sidestep.commands.status.time.sleep", ends)
    assert main(["status", place, "--watch"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("my-lora")]
    assert shown == ["my-lora: running (train)", "my-lora: done"]


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_no_status(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content:
        (tmp_path / "status.json").write_text(content)
    assert main(["status", str(tmp_path)]) == (65 if content else 66)
    said = capsys.readouterr().err
    assert "status.json" in said
    assert "Traceback" not in said
