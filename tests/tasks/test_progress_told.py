"""What a training tells of each of its steps."""

import math
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.training import TrainSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.status import Status
from sidestep.tasks.train_log import report_step
from sidestep.training.loop import StepResult
from sidestep.training.schedule import Schedule
from sidestep.training.throughput import Throughput
from tests.clock import Clock


@pytest.mark.parametrize(("loss", "told"), [(0.5, 0.5), (math.nan, None)])
def test_how_far_it_is_and_how_long_it_takes(tmp_path: Path, loss: float, told: float | None) -> None:
    schedule = Schedule.of(TrainSpec(epochs=10, accumulation=1), samples=4)
    job = Job(JobSpec(task="train", output_dir=str(tmp_path)))
    clock = Clock()
    throughput = Throughput(clock)
    with Reporter(job, heartbeat_seconds=3600) as reporter:
        reporter.speak()
        for step in (30, 31):  # the attempt's first ones, 5 s each
            clock.now += 5
            group = schedule.group(step - 1)
            report_step(reporter, StepResult(step, group, 1e-4, loss, [loss], 1.0), schedule, throughput)
        reporter.tell()
        status = Status.read((tmp_path / "status.json").read_bytes(), "status.json")
    assert (status.step, status.steps, status.epoch, status.epochs) == (31, 40, 8, 10)
    assert status.learning_rate == 1e-4
    assert (status.steps_per_second, status.seconds_left, status.loss) == (0.2, 45, told)
