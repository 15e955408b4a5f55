"""The training loop: groups of micro-batches become optimizer steps, until the schedule ends.

Everything random is keyed by the run's seed and the micro-batch's number, and everything planned is a
function of the step. So the loop can stop after any step and go on elsewhere from `Progress` alone.

A step whose loss or gradient is not finite is skipped: it changes neither weights nor optimizer, and
counts as a step. Ten in a row stop the run, as its weights have left what can be trained.

Where notice comes that the machine is taken away, the step is ended, or given up when the time is too short
for that: its gradients are dropped, and another attempt makes it anew.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from sidestep.adapters import Adapter
from sidestep.data.tensors import Sample
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.progress import track
from sidestep.training import rng
from sidestep.training.dropout import Masks
from sidestep.training.flow import SamplingConfig, draw_batch, flow_loss
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Group, Schedule

log = logging.getLogger(__name__)

EVALUATION_DRAWS = 16
SKIPPED_LIMIT = 10
SECONDS_TO_SAVE = 3.0  # of the time after notice that are left for saving when a step is ended or given up


@dataclass(frozen=True)
class StepResult:
    """The numbers of one optimizer step."""

    step: int  # its number, from 1
    group: Group  # what it was trained on
    lr: float
    loss: float  # mean of the group
    losses: list[float]  # of each micro-batch
    grad_norm: float  # before clipping

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite. If not, the step was skipped: weights and optimizer stay."""
        return isfinite(self.loss) and isfinite(self.grad_norm)


@dataclass
class Trainer:
    """Makes optimizer steps. `model` is the transformer with its adapter, as Fabric has set it up."""

    fabric: Fabric
    model: nn.Module
    adapter: Adapter
    masks: Masks  # of the adapter's dropout
    optimizer: torch.optim.Optimizer
    samples: Sequence[Sample]
    null_condition: Tensor  # [1, 1, D]
    sampling: SamplingConfig
    schedule: Schedule
    max_grad_norm: float
    preemption: Preemption = field(default_factory=Preemption)

    def steps(self, progress: Progress) -> Iterator[StepResult]:
        """Make the steps that follow `progress`, kept up to date, until the schedule ends or notice comes.

        Before the first step and after the last one, the loss on fixed draws is taken.

        Raises BadSpecError where `SKIPPED_LIMIT` steps in a row were skipped, or all of a shorter run.
        """
        total = self.schedule.total_steps
        self.masks.law = progress.law
        if progress.loss_scale:
            self.fabric.strategy.precision.load_state_dict(progress.loss_scale)
        if progress.step == 0:
            progress.evaluations[0] = self.evaluate()
        with track("Training", total=total, unit="steps", done=progress.step) as bar:
            while progress.step < total and not self.preemption.requested:
                result = self.step(progress.step)
                if result is None:
                    log.info("Step %d is given up: it would not end in time", progress.step + 1)
                    break
                self._count(result, progress)
                _check_convergence(progress, min(SKIPPED_LIMIT, total))
                if progress.step == total:
                    progress.evaluations[total] = self.evaluate()
                yield result
                epoch = f"epoch {result.group.epoch + 1}/{self.schedule.epochs}"
                bar.advance(1, note=f"{epoch}, loss {result.loss:.4f}")

    def step(self, step: int) -> StepResult | None:
        """One optimizer step, after `step` others.

        Where its loss or gradient is not finite, weights and optimizer stay as they are. So they do where the
        time after notice is too short for the rest of the step, and then the answer is None.
        """
        group, lr = self.schedule.group(step), self.schedule.learning_rate(step)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        started = time.monotonic()
        for index, sample in enumerate(group.samples, start=group.first_index):
            if self.preemption.requested and losses:
                seconds = (time.monotonic() - started) / len(losses)
                rest = seconds * (len(group.samples) - len(losses))
                if self.preemption.seconds_left() < rest + SECONDS_TO_SAVE:
                    return None
            self.masks.begin([index], self.fabric.device)
            loss = self.loss(self.samples[sample], index, self.sampling)
            # Divided by the group's own size: an epoch's short last group weighs each song the same.
            self.fabric.backward(loss / len(group.samples))
            losses.append(loss.detach())
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.max_grad_norm, error_if_nonfinite=False
        )
        assert norm is not None
        each = torch.stack(losses)
        result = StepResult(step + 1, group, lr, float(each.mean()), each.tolist(), float(norm))
        if result.is_finite:
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = lr
            self.optimizer.step()
        # fp16 alone has a scaler. Clipping has unscaled the gradients and noted whether they are finite:
        # where they are not, the scale is halved, so that the next step's may be.
        if scaler := getattr(self.fabric.strategy.precision, "scaler", None):
            scaler.update()
        return result

    def loss(self, sample: Sample, index: int, sampling: SamplingConfig) -> Tensor:
        """The flow loss of one micro-batch."""
        batch = draw_batch(sample, self.null_condition, sampling, index, self.fabric.device)
        return flow_loss(self.model, batch)

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss over draws that are the same at every step, with dropout off and all conditions.

        The loss of single steps is ruled by the noise level that they drew; this one shows learning.
        Draws whose loss is not finite are left out; NaN where no other is left.
        """
        self.model.eval()
        sampling = replace(self.sampling, seed=rng.key(self.sampling.seed, "evaluation"), cfg_dropout=0)
        losses = [
            self.loss(self.samples[index % len(self.samples)], index, sampling)
            for index in range(EVALUATION_DRAWS)
        ]
        finite = [loss for loss in torch.stack(losses).tolist() if isfinite(loss)]
        return sum(finite) / len(finite) if finite else nan

    def _count(self, result: StepResult, progress: Progress) -> None:
        progress.step = result.step
        progress.losses.append(result.loss)
        progress.loss_scale = self.fabric.strategy.precision.state_dict()
        if result.is_finite:
            progress.skipped_in_row = 0
            return
        progress.skipped += 1
        progress.skipped_in_row += 1
        what = "gradient" if isfinite(result.loss) else "loss"
        songs = [self.samples[n].metadata.get("filename", f"number {n}") for n in result.group.samples]
        log.warning(
            "Step %d is skipped: its %s is not finite (songs: %s)", result.step, what, ", ".join(songs)
        )


def _check_convergence(progress: Progress, limit: int) -> None:
    if progress.skipped_in_row < limit:
        return
    raise BadSpecError(
        f"training has diverged: the loss or its gradient was not finite in {limit} steps in a row, "
        f"the last of them step {progress.step}\n"
        "  the newest checkpoint is from before that; the same settings would end here again\n"
        "  start again in a new output_dir with a lower train.lr, or with runtime.precision fp32"
    )
