"""Trainers of small jobs."""

from sidestep.config.job import JobSpec
from sidestep.runtime.workspace import open_workspace
from sidestep.tasks.setup import prepare_setup
from sidestep.tasks.train import build_trainer
from sidestep.training.loop import StepResult, Trainer
from sidestep.training.numbers import Progress


def trainer_of(spec: JobSpec) -> Trainer:
    return build_trainer(spec, prepare_setup(spec, open_workspace(spec.runtime.workspace)))


def run(trainer: Trainer, progress: Progress) -> list[StepResult]:
    """Train to the end; what each step came to."""
    return list(trainer.steps(progress))
