"""Attempts are facts in the output: counted before they do anything, added up, and bounded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.shards import Shard
from sidestep.lifecycle import reporter as module
from sidestep.lifecycle.attempts import attempts_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import (
    AgainError,
    BadDataError,
    BadSpecError,
    ExitCode,
    SideStepError,
    StorageError,
)
from sidestep.runtime.preemption import Preemption
from sidestep.tasks import run, train
from sidestep.tasks.train_log import report_step
from tests.clock import Clock
from tests.songs import MakeSpec


def spec_of(tmp_path: Path, **runtime: Any) -> JobSpec:
    return JobSpec.load(None, task="estimate", output_dir=tmp_path / "out", runtime=runtime)


def attempt(spec: JobSpec, hours: float = 0, failure: BaseException | None = None, gpus: int = 0) -> None:
    """One that takes some hours."""
    clock = Clock()
    with Reporter(Job(spec), 3600, clock) as reporter:
        reporter.begin("estimate", gpus=gpus)
        clock.now += 3600 * hours
        if failure:
            raise failure


def files(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(tmp_path.glob("out/attempts/*.json"))]


def test_an_attempt_says_how_it_ended_and_what_it_cost(tmp_path: Path) -> None:
    with pytest.raises(BadDataError):
        attempt(spec_of(tmp_path), 2, BadDataError("no song"), gpus=1)
    attempt(spec_of(tmp_path), 1, gpus=1)
    first, second = files(tmp_path)
    assert (first["code"], first["phase"], first["seconds"]["estimate"], first["gpu_seconds"]) == (
        *(65, "estimate", 7200, 7200),
    )
    assert (second["code"], second["seconds"]["estimate"]) == (0, 3600)
    spent = json.loads((tmp_path / "out" / "status.json").read_text())["spent"]
    assert (spent["attempts"], spent["seconds"]["estimate"], spent["gpu_seconds"]) == (2, 10800, 10800)


def test_sums_do_not_need_the_status(tmp_path: Path) -> None:
    attempt(spec_of(tmp_path), 2)
    (tmp_path / "out" / "status.json").unlink()
    attempt(spec_of(tmp_path), 1)
    spent = json.loads((tmp_path / "out" / "status.json").read_text())["spent"]
    assert (spent["attempts"], spent["seconds"]["estimate"]) == (2, 10800)


def test_attempts_of_an_older_version_are_added(tmp_path: Path) -> None:
    attempt(spec_of(tmp_path), 2)
    for file in (tmp_path / "out" / "attempts").iterdir():
        file.unlink()
    for _ in range(2):
        attempt(spec_of(tmp_path), 1)
    spent = json.loads((tmp_path / "out" / "status.json").read_text())["spent"]
    assert (spent["attempts"], spent["seconds"]["estimate"]) == (3, 4 * 3600)
    assert [file.name for file in sorted((tmp_path / "out" / "attempts").iterdir())] == [
        *("000002.json", "000003.json"),
    ]


KILLED = """
import os, signal, sys
from sidestep.lifecycle import reporter
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
reporter.Reporter.speak = die
from sidestep.__main__ import entry
entry()
"""


@pytest.mark.slow
def test_one_that_was_killed_before_its_first_status_is_counted(make_spec: MakeSpec, tmp_path: Path) -> None:
    Path("job.json").write_text(make_spec(epochs=1).model_dump_json())
    words = [sys.executable, "-c", KILLED, "train", "--config", "job.json"]
    assert subprocess.run(words, env=os.environ).returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "status.json").exists()
    (killed,) = files(tmp_path)
    assert killed["code"] is None
    run(make_spec(epochs=1))
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert (receipt["attempts"], receipt["preemptions"]) == (2, 1)


def test_a_finished_job_writes_none(make_spec: MakeSpec, tmp_path: Path) -> None:
    run(make_spec(epochs=1))
    before = files(tmp_path)
    run(make_spec(epochs=1))
    assert files(tmp_path) == before and len(before) == 1


def test_two_that_begin_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    first, second = (Reporter(Job(spec_of(tmp_path)), 3600) for _ in range(2))
    first.count()
    second.count()
    second.count()  # once
    assert list(attempts_of(Job(spec_of(tmp_path)).output_store)) == [1, 2]


def test_a_shard_that_is_run_twice_at_once_was_not_preempted(tmp_path: Path) -> None:
    """Nothing keeps two apart there: the one that began first goes on, or has ended since."""
    spec = JobSpec.load(None, task="preprocess", audio_dir="songs", output_dir=tmp_path / "out")
    clock = Clock()
    first, second, third = (Reporter(Job(spec, shard=Shard(0, 2)), 3600, clock) for _ in range(3))

    def preemptions() -> int:
        told = json.loads((tmp_path / "out" / "shards" / "0-of-2" / "status.json").read_text())
        return int(told["spent"]["preemptions"])

    first.count()  # and is killed
    with second:
        second.begin("preprocess")
        with third:
            third.begin("preprocess")
            assert preemptions() == 2  # nobody knows yet
            clock.now += 9
            second.tell()
        assert preemptions() == 1


def test_one_that_has_ended_while_it_was_waited_for_was_not_preempted(tmp_path: Path) -> None:
    """A run that begins beside another one waits for that one's lease, and is counted before."""
    spec = spec_of(tmp_path)
    first, second = Reporter(Job(spec), 3600), Reporter(Job(spec), 3600)
    with first:
        first.begin("train")
        second.count()
    with second:
        second.begin("train")
        told = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (told["attempt"], told["spent"]["preemptions"]) == (2, 0)


def test_a_damaged_file_is_an_attempt_all_the_same(tmp_path: Path) -> None:
    attempt(spec_of(tmp_path), 1)
    (tmp_path / "out" / "attempts" / "000001.json").write_text("{")
    attempt(spec_of(tmp_path), 1)
    assert list(attempts_of(Job(spec_of(tmp_path)).output_store)) == [1, 2]
    assert json.loads((tmp_path / "out" / "status.json").read_text())["spent"]["attempts"] == 2


class TestAttemptsWithoutProgress:
    @pytest.mark.parametrize("failure", [AgainError("notice"), StorageError("it is out of reach")])
    def test_many_in_a_row_are_the_last(self, tmp_path: Path, failure: SideStepError) -> None:
        spec = spec_of(tmp_path, max_attempts=3)
        for _ in range(3):
            with pytest.raises(type(failure)):
                attempt(spec, failure=failure)
        with pytest.raises(SideStepError, match=r"3 attempts in a row .*max_attempts") as refused:
            attempt(spec)
        assert refused.value.exit_code is ExitCode.BUG
        assert len(files(tmp_path)) == 3  # what is refused is no attempt
        attempt(spec_of(tmp_path, max_attempts=4))

    def test_a_word_lets_it_pass(self, tmp_path: Path) -> None:
        spec = spec_of(tmp_path, max_attempts=1)
        with pytest.raises(AgainError):
            attempt(spec, failure=AgainError("notice"))
        attempt(spec.changed({"train.new_attempt": True}))

    def test_progress_begins_the_count_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec, at = spec_of(tmp_path, max_attempts=2), ["0", "0", "1", "1", "2"]
        monkeypatch.setattr(module, "position", lambda job: at.pop(0))
        for _ in range(5):
            with pytest.raises(AgainError):
                attempt(spec, failure=AgainError("notice"))

    def test_what_only_a_person_runs_again_does_not_count(self, tmp_path: Path) -> None:
        spec = spec_of(tmp_path, max_attempts=2)
        for _ in range(5):
            with pytest.raises(BadSpecError):
                attempt(spec, failure=BadSpecError("a wrong setting"))


class TestHoursAndCost:
    @pytest.mark.parametrize(
        ("bound", "setting"),
        [({"max_hours": 3}, "max_hours"), ({"max_cost": 6, "price_per_hour": 2}, "max_cost")],
    )
    def test_what_is_used_up_begins_no_more(
        self, tmp_path: Path, bound: dict[str, float], setting: str
    ) -> None:
        attempt(spec_of(tmp_path, **bound), 2)
        attempt(spec_of(tmp_path, **bound), 1.1)
        with pytest.raises(SideStepError, match=f"runtime.{setting}") as refused:
            attempt(spec_of(tmp_path, **bound))
        assert refused.value.exit_code is ExitCode.BUG
        attempt(spec_of(tmp_path, **{**bound, setting: 100}))

    def test_a_cost_needs_a_price(self, tmp_path: Path) -> None:
        with pytest.raises(BadSpecError, match=r"runtime\.max_cost"):
            spec_of(tmp_path, max_cost=3)

    def test_a_training_that_reaches_it_has_saved_and_goes_on(
        self, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Reporter.__init__, "__defaults__", (0.05, time.monotonic))
        spec = make_spec(epochs=3000, checkpoint={"every_steps": 100_000, "every_minutes": None})
        bounded, reached = spec.changed({"runtime.grace_seconds": 1}), list[int]()
        message = "runtime.max_hours (1) is reached"
        monkeypatch.setattr(module, "bound_reached", lambda spec, spent: message if reached else "")

        def report(*given: Any) -> None:
            report_step(*given)
            reached.append(1)

        monkeypatch.setattr(train, "report_step", report)
        with (
            Preemption(1, end_process=lambda code: pytest.fail("there is no hurry")) as preemption,
            pytest.raises(SideStepError, match=r"runtime\.max_hours") as ended,
        ):
            run(bounded, preemption)
        assert ended.value.exit_code is ExitCode.BUG
        status = json.loads((tmp_path / "out" / "status.json").read_text())
        assert (status["state"], status["exit_code"]) == ("failed", 70)
        assert status["last_commit"]["step"] == status["step"] > 0
        assert files(tmp_path)[0]["code"] == 70
