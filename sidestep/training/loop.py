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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from sidestep.adapters import Adapter
from sidestep.data.tensors import Sample
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.progress import track
from sidestep.training import rng
from sidestep.training.flow import SamplingConfig, draw_batch, flow_loss
from sidestep.training.history import RunningLoss
from sidestep.training.metrics import Metrics, Throughput, peak_memory
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Group, Schedule

log = logging.getLogger(__name__)

EVALUATION_DRAWS = 16
SKIPPED_LIMIT = 10
SECONDS_TO_SAVE = 3.0  # of the time after notice that are left for saving when a step is ended or given up


class StepResult(NamedTuple):
    """What a step came to."""

    loss: float  # mean of the group
    grad_norm: float  # before clipping
    losses: list[float]  # of each micro-batch

    @property
    def is_finite(self) -> bool:
        return isfinite(self.loss) and isfinite(self.grad_norm)


@dataclass
class Trainer:
    """What a step needs. `model` is the transformer as Fabric has set it up, with its adapter in place."""

    fabric: Fabric
    model: nn.Module
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    samples: Sequence[Sample]
    null_condition: Tensor  # [1, 1, D]
    law: SamplingConfig
    schedule: Schedule
    max_grad_norm: float
    notice: Preemption = field(default_factory=Preemption)

    def run(
        self,
        progress: Progress,
        metrics: Metrics,
        log_every: int,
        log_heavy_every: int,
        after_step: Callable[[Progress, Group], None],
    ) -> None:
        """Train from `progress` to the schedule's end, or until notice comes; call `after_step` after each.

        Raises BadSpecError where `SKIPPED_LIMIT` steps in a row were skipped, or all of a shorter run.
        """
        total = self.schedule.total_steps
        precision = self.fabric.strategy.precision
        if progress.loss_scale:
            precision.load_state_dict(progress.loss_scale)
        pace, smooth = Throughput(), RunningLoss(progress.losses)
        if progress.step == 0:
            self.evaluate(progress, metrics)
        with track("Training", total=total, unit="steps", done=progress.step) as bar:
            while progress.step < total and not self.notice.came.is_set():
                group = self.schedule.group(progress.step)
                lr = self.schedule.learning_rate(progress.step)
                outcome = self.step(group, lr)
                if outcome is None:
                    log.info("Step %d is given up: it would not end in time", progress.step + 1)
                    break
                progress.step += 1
                progress.losses.append(outcome.loss)
                progress.loss_scale = precision.state_dict()
                if not outcome.is_finite:
                    what = "gradient" if isfinite(outcome.loss) else "loss"
                    self._tell_skipped(progress.step, group, what)
                _count_skipped(progress, outcome)
                pace.add(len(group.samples))
                smooth.add(outcome.loss)
                if progress.step % log_every == 0:
                    metrics.scalar("loss/train", outcome.loss, progress.step)
                    metrics.scalar("loss/smooth", smooth.value, progress.step)
                    metrics.losses_by_timestep(self.law, group, outcome.losses, progress.step)
                    metrics.scalar("lr", lr, progress.step)
                    metrics.scalar("skipped_steps", progress.skipped, progress.step)
                if progress.step % log_heavy_every == 0 or progress.step == 1:  # short runs have one, too
                    metrics.scalar("grad_norm/total", outcome.grad_norm, progress.step)
                    metrics.gradient_norms(self.adapter.parameters(), progress.step)
                if progress.step % log_heavy_every == 0:
                    metrics.scalar("samples_per_second", pace.rate(), progress.step)
                    metrics.scalar("memory/peak_gb", peak_memory(self.fabric.device), progress.step)
                    metrics.timesteps(self.timesteps(group, log_heavy_every, progress.step), progress.step)
                _refuse_to_diverge(progress, min(SKIPPED_LIMIT, total))
                if progress.step == total:
                    self.evaluate(progress, metrics)
                after_step(progress, group)
                bar.advance(
                    1, note=f"epoch {group.epoch + 1}/{self.schedule.epochs}, loss {outcome.loss:.4f}"
                )

    def step(self, group: Group, lr: float) -> StepResult | None:
        """One optimizer step.

        Where one of them is not finite, weights and optimizer stay as they are; so they do where the time
        after notice is too short for the rest of the step, and then the answer is None.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        started = time.monotonic()
        for index, sample in enumerate(group.samples, start=group.first_index):
            if self.notice.came.is_set() and losses:
                seconds = (time.monotonic() - started) / len(losses)
                rest = seconds * (len(group.samples) - len(losses))
                if self.notice.seconds_left() < rest + SECONDS_TO_SAVE:
                    return None
            rng.reseed_globals(self.law.seed, "micro-batch", index)
            loss = self.loss(self.samples[sample], index, self.law)
            # Divided by the group's own size: an epoch's short last group weighs each song the same.
            self.fabric.backward(loss / len(group.samples))
            losses.append(loss.detach())
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.max_grad_norm, error_if_nonfinite=False
        )
        assert norm is not None
        each = torch.stack(losses)
        outcome = StepResult(float(each.mean()), float(norm), each.tolist())
        if outcome.is_finite:
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = lr
            self.optimizer.step()
        # fp16 alone has a scaler. Clipping has unscaled the gradients and noted whether they are finite:
        # where they are not, the scale is halved, so that the next step's may be.
        if scaler := getattr(self.fabric.strategy.precision, "scaler", None):
            scaler.update()
        return outcome

    def loss(self, sample: Sample, index: int, law: SamplingConfig) -> Tensor:
        """The flow loss of one micro-batch."""
        return flow_loss(self.model, draw_batch(sample, self.null_condition, law, index, self.fabric.device))

    def timesteps(self, group: Group, steps: int, step: int) -> Tensor:
        """t of all micro-batches in the last `steps` steps, of which `group` was the last, number `step`."""
        first = self.schedule.group(max(step - steps, 0)).first_index
        return torch.cat(
            [self.law.timestep(index) for index in range(first, group.first_index + len(group.samples))]
        )

    def _tell_skipped(self, step: int, group: Group, what: str) -> None:
        songs = [self.samples[n].metadata.get("filename", f"number {n}") for n in group.samples]
        log.warning("Step %d is skipped: its %s is not finite (songs: %s)", step, what, ", ".join(songs))

    @torch.no_grad()
    def evaluate(self, progress: Progress, metrics: Metrics) -> None:
        """The mean loss over draws that are the same at every step, with dropout off and all conditions.

        The loss of single steps is ruled by the noise level that they drew; this one shows learning.
        Draws whose loss is not finite are left out; NaN where no other is left.
        """
        self.model.eval()
        law = replace(self.law, seed=rng.key(self.law.seed, "evaluation"), cfg_dropout=0)
        losses = [
            self.loss(self.samples[index % len(self.samples)], index, law)
            for index in range(EVALUATION_DRAWS)
        ]
        finite = [loss for loss in torch.stack(losses).tolist() if isfinite(loss)]
        progress.evaluations[progress.step] = sum(finite) / len(finite) if finite else nan
        metrics.scalar("loss/eval", progress.evaluations[progress.step], progress.step)


def _count_skipped(progress: Progress, outcome: StepResult) -> None:
    if outcome.is_finite:
        progress.skipped_in_row = 0
        return
    progress.skipped += 1
    progress.skipped_in_row += 1


def _refuse_to_diverge(progress: Progress, limit: int) -> None:
    if progress.skipped_in_row < limit:
        return
    raise BadSpecError(
        f"training has diverged: the loss or its gradient was not finite in {limit} steps in a row, "
        f"the last of them step {progress.step}\n"
        "  the newest checkpoint is from before that; the same settings would end here again\n"
        "  begin a new output_dir with a lower train.lr, or with runtime.precision fp32 if it was another"
    )
