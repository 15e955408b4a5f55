"""Trainers of small jobs, and who listens to them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sidestep.config.job import JobSpec
from sidestep.runtime.workspace import open_workspace
from sidestep.tasks.setup import prepare_setup
from sidestep.tasks.train import build_trainer
from sidestep.training.loop import StepResult, Trainer
from sidestep.training.numbers import Progress


def trainer_of(spec: JobSpec) -> Trainer:
    return build_trainer(spec, prepare_setup(spec, open_workspace(spec.runtime.workspace)))


@dataclass
class Recorder:
    """Keeps what a trainer tells."""

    results: list[StepResult] = field(default_factory=list)
    evaluations: dict[int, float] = field(default_factory=dict)

    def log_step(self, result: StepResult) -> None:
        self.results.append(result)

    def log_evaluation(self, step: int, loss: float) -> None:
        self.evaluations[step] = loss


def run(
    trainer: Trainer, progress: Progress, after_step: Callable[[StepResult], None] = lambda _: None
) -> Recorder:
    """Train to the end; what was told."""
    told = Recorder()
    trainer.run(progress, told, after_step)
    return told
