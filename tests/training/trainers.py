"""Trainers of small jobs."""

from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.job import Job
from sidestep.tasks.setup import prepare_setup
from sidestep.tasks.trainer import build_trainer
from sidestep.training.loop import StepResult, Trainer
from sidestep.training.machine import Machine, choose_machine
from sidestep.training.numbers import Progress


def trainer_of(spec: JobSpec, machine: Machine | None = None) -> Trainer:
    job = Job(spec)
    setup = prepare_setup(
        *(job, Preprocessed(job.tensors), machine or choose_machine(spec.runtime)),
        quantize=spec.train.quantize,
        swapped=spec.train.block_swap,
    )
    return build_trainer(spec, setup)


def run(trainer: Trainer, progress: Progress) -> list[StepResult]:
    """Train to the end; what each step came to."""
    return list(trainer.steps(progress))
