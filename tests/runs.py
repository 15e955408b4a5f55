"""Runs and single tasks, runs that are cut off or fail, and what they came to."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sidestep import adapters
from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.finish import TrainResult
from sidestep.lifecycle.identity import settings_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import (
    AgainError,
    SideStepError,
)
from sidestep.runtime.preemption import Preemption
from sidestep.storage.open import open_store
from sidestep.tasks import run
from sidestep.tasks import train as train_task
from sidestep.training.numbers import Numbers

Result = TypeVar("Result")

EVERY_STEP = {"epochs": 4, "checkpoint": {"every_steps": 1, "every_minutes": None}}


def run_task(task: Callable[[Job, Reporter], Result], spec: JobSpec) -> Result:
    """One task of a job by itself."""
    job = Job(spec)
    with Reporter(job) as reporter:
        return task(job, reporter)


def settings_of_job(spec: JobSpec, before: Numbers | None = None) -> dict[str, Any]:
    """The fingerprint of a job, as far as it is known before its inputs are here."""
    job = Job(spec)
    return settings_of(job, Preprocessed(job.tensors), before)


def train(spec: JobSpec) -> TrainResult:
    """All of a train job."""
    result = run(spec)
    assert result is not None
    return result


class Stopped(Exception):
    """The machine is gone."""


def train_until_stopped(spec: JobSpec, monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """Let a run die right after its commit number `commits`."""
    original = Writer.commit
    made = []

    def commit(self: Writer, *args: Any) -> Any:
        made.append(original(self, *args))
        if len(made) == commits:
            raise Stopped
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit)
        with pytest.raises(Stopped):
            train(spec)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def outcome(spec: JobSpec) -> tuple[dict[str, bytes], list[float]]:
    """The adapter's bytes and the losses of all steps, from the output alone."""
    output = Path(spec.output_dir or "")
    done = CommitLog(open_store(str(output), spec.storage)).tail()
    assert done
    assert done.kind == "done"
    state = adapters.adapter.read_safetensors(output / done.folder / "training_state.safetensors")[0]
    return files(output / "adapter"), state["history.losses"].tolist()


def log_of(spec: JobSpec) -> CommitLog:
    return CommitLog(open_store(spec.output_place, spec.storage))


def newest(spec: JobSpec) -> Record:
    log = log_of(spec)
    record = log.newest_commit(log.tail())
    assert record
    return record


def adapter(spec: JobSpec) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(spec.output_place, "adapter").iterdir()}


def train_with_notice_after(spec: JobSpec, step: int, *, request: bool = True) -> str:
    """Notice comes while step number `step` is made, or is requested by somebody else. What is said then."""

    class Noticed(Reporter):
        def update(self, **changes: Any) -> None:
            super().update(**changes)
            if request and changes.get("step") == step:
                job.preemption.request()

    job = Job(spec, Preemption(spec.runtime.grace_seconds, end_process=lambda code: None))

    def run() -> None:
        with Noticed(job) as reporter:
            train_task.train(job, reporter)

    with pytest.raises(AgainError, match=f"stopped after step {step} of") as said:
        run()
    return str(said.value)


def fail_commits(monkeypatch: pytest.MonkeyPatch, failures: Iterator[SideStepError | None]) -> None:
    original = Writer.commit

    def commit(self: Writer, *args: Any) -> Record:
        if failure := next(failures, None):
            raise failure
        return original(self, *args)

    monkeypatch.setattr(Writer, "commit", commit)
