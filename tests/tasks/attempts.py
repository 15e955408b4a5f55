"""A task by itself, as an attempt at a job begins it."""

from collections.abc import Callable
from typing import TypeVar

from sidestep.config.job import JobSpec
from sidestep.lifecycle.finish import TrainResult
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.tasks import run

Result = TypeVar("Result")


def run_task(task: Callable[[Job, Reporter], Result], spec: JobSpec) -> Result:
    job = Job(spec)
    with Reporter(job) as reporter:
        return task(job, reporter)


def train(spec: JobSpec) -> TrainResult:
    """All of a train job."""
    result = run(spec)
    assert result is not None
    return result
