"""The training loop: groups of micro-batches become optimizer steps, until the schedule ends.

Everything random is keyed by the run's seed and the micro-batch's number, and everything planned is a
function of the step. So the loop can stop after any step and go on elsewhere from `Progress` alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from sidestep.adapters import Adapter
from sidestep.data.tensors import Sample
from sidestep.runtime.progress import track
from sidestep.training import draws
from sidestep.training.checkpoint import Progress
from sidestep.training.flow import Law, draw_batch, flow_loss
from sidestep.training.metrics import Metrics
from sidestep.training.schedule import Group, Schedule

EVALUATION_DRAWS = 16


@dataclass
class Trainer:
    """What a step needs. `model` is the transformer as Fabric has set it up, with its adapter in place."""

    fabric: Fabric
    model: nn.Module
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    samples: Sequence[Sample]
    null_condition: Tensor  # [1, 1, D]
    law: Law
    schedule: Schedule
    max_grad_norm: float

    def run(
        self,
        progress: Progress,
        metrics: Metrics,
        log_every: int,
        log_heavy_every: int,
        save: Callable[[Progress, Group], None],
    ) -> None:
        """Train from `progress` to the schedule's end; `save` is asked after each step whether to save."""
        total = self.schedule.total_steps
        if progress.step == 0:
            self.evaluate(progress, metrics)
        with track("Training", total=total, unit="steps", done=progress.step) as bar:
            while progress.step < total:
                group = self.schedule.group(progress.step)
                lr = self.schedule.learning_rate(progress.step)
                loss, grad_norm = self.step(group, lr)
                progress.step += 1
                progress.losses.append(loss)
                if progress.step % log_every == 0:
                    metrics.scalar("loss/train", loss, progress.step)
                    metrics.scalar("lr", lr, progress.step)
                if progress.step % log_heavy_every == 0:
                    metrics.scalar("grad_norm/total", grad_norm, progress.step)
                    metrics.gradient_norms(self.adapter.parameters(), progress.step)
                if progress.step == total:
                    self.evaluate(progress, metrics)
                save(progress, group)
                bar.advance(1, note=f"epoch {group.epoch + 1}/{self.schedule.epochs}, loss {loss:.4f}")

    def step(self, group: Group, lr: float) -> tuple[float, float]:
        """One optimizer step: the group's mean loss, and the norm of its gradient before clipping."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for index, sample in enumerate(group.samples, start=group.first_index):
            draws.reseed_globals(self.law.seed, "micro-batch", index)
            loss = self.loss(self.samples[sample], index, self.law)
            # Divided by the group's own size: an epoch's short last group weighs each song the same.
            self.fabric.backward(loss / len(group.samples))
            losses.append(loss.detach())
        norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.max_grad_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.optimizer.step()
        assert norm is not None
        return float(torch.stack(losses).mean()), float(norm)

    def loss(self, sample: Sample, index: int, law: Law) -> Tensor:
        """The flow loss of one micro-batch."""
        return flow_loss(self.model, draw_batch(sample, self.null_condition, law, index, self.fabric.device))

    @torch.no_grad()
    def evaluate(self, progress: Progress, metrics: Metrics) -> None:
        """The mean loss over draws that are the same at every step, with dropout off and all conditions.

        The loss of single steps is ruled by the noise level that they drew; this one shows learning.
        """
        self.model.eval()
        law = replace(self.law, seed=draws.key(self.law.seed, "evaluation"), cfg_dropout=0)
        losses = [
            self.loss(self.samples[index % len(self.samples)], index, law)
            for index in range(EVALUATION_DRAWS)
        ]
        progress.evaluations[progress.step] = float(torch.stack(losses).mean())
        metrics.scalar("loss/eval", progress.evaluations[progress.step], progress.step)
