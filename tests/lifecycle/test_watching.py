"""Those who watch a job from elsewhere: what they hear, and that a run never stops or waits for them."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.watching import Watching
from sidestep.runtime import jsonlines

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """An estimate, with these settings of `runtime`."""

    def make(**runtime: Any) -> Job:
        return Job(
            JobSpec.load(None, name="night", task="estimate", output_dir=tmp_path / "out", runtime=runtime)
        )

    return make


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    jsonlines.about(dict)  # another file's test may have run a job before
    yield
    jsonlines.about(dict)


def of_a_line() -> list[Any]:
    """What a line of JSON says of the job."""
    import json

    record = logging.LogRecord("sidestep", logging.INFO, "", 0, "said", None, None)
    line = json.loads(jsonlines.json_line(record))
    return [line[key] for key in jsonlines.OF_A_JOB]


def test_lines_say_what_the_job_does_until_after_its_end(make_job: MakeJob) -> None:
    job = make_job()
    assert of_a_line() == [None] * 5
    with Watching(job.spec, job.preemption) as watching:
        assert of_a_line() == ["night", None, None, None, None]
        with Reporter(job, heartbeat_seconds=3600, watching=watching) as reporter:
            reporter.begin("estimate")
            assert of_a_line() == ["night", 1, "estimate", None, None]
            reporter.update(step=3, loss=0.5)
    assert of_a_line() == ["night", 1, "estimate", 3, 0.5]
