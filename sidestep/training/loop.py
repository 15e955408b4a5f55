"""The training loop: groups of samples become optimizer steps, until the schedule ends.

Everything random is keyed by the run's seed and the sample's number, and everything planned is a
function of the step. So the loop can stop after any step and go on elsewhere from `Progress` alone.

A step whose loss or gradient is not finite is skipped: it changes neither weights nor optimizer, and
counts as a step. Ten in a row stop the run, as its weights have left what can be trained.

Where notice comes that the machine is taken away, the step is ended, or given up when the time is too short
for that: its gradients are dropped, and another attempt makes it anew.

Several processes make the same steps together: see `training.parallel`. Where they ask each other, all do,
and go on by the same answer.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from math import inf, isfinite, nan

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sidestep.adapters import Adapter
from sidestep.data.tensors import Sample
from sidestep.runtime.ahead import Ahead, ahead
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.progress import track
from sidestep.runtime.words import out_of
from sidestep.training import rng
from sidestep.training.batches import at_once, cut, join
from sidestep.training.dataset import fetching
from sidestep.training.dropout import Masks
from sidestep.training.ema import Ema
from sidestep.training.flow import Batch, SamplingConfig, draw_batch, flow_loss, flow_losses
from sidestep.training.numbers import Progress
from sidestep.training.offload import Offload
from sidestep.training.parallel import Sums
from sidestep.training.schedule import Entry, Group, Schedule
from sidestep.training.team import Team
from sidestep.training.validation import Validator
from sidestep.training.weighting import min_snr

log = logging.getLogger(__name__)

EVALUATION_DRAWS = 16
AHEAD = 2  # micro-batches that are read and drawn before their turn comes: each is some 12 MB a song
SKIPPED_LIMIT = 10
SECONDS_TO_SAVE = 3.0  # of the time after notice that are left for saving when a step is ended or given up


class GivenUpError(Exception):
    """A step cannot be made to its end, as notice has come."""


@dataclass(frozen=True)
class StepResult:
    """The numbers of one optimizer step."""

    step: int  # its number, from 1
    group: Group  # what it was trained on
    lr: float  # the schedule's
    loss: float  # mean of the group, by the weights of songs and noise levels
    losses: list[float]  # of each sample
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
    frames: Sequence[int]  # of each of them
    weights: Sequence[float]  # of each of them in a step's loss
    batch_size: int  # samples that are computed at once, at most
    null_condition: Tensor  # [1, 1, D]
    sampling: SamplingConfig
    schedule: Schedule
    max_grad_norm: float
    preemption: Preemption = field(default_factory=Preemption)
    validator: Validator | None = None
    validate_every: int = 0  # epochs
    ends: Callable[[Progress], bool] = lambda progress: (
        False
    )  # whether the run is to end before its last step
    watch: Callable[[int, int], None] = lambda done, total: None  # told how far a validation is
    ema: Ema | None = None  # the average of the adapter's weights, where one is kept
    offload: Offload | None = None  # where activations wait for the backward pass; None: on the device
    min_snr_gamma: float | None = None  # samples weigh by their noise level: see `training.weighting`
    team: Team = field(default_factory=Team)  # the processes that make the steps
    sums: Sums = field(default_factory=Sums)  # how they add up a step's gradients
    compiles: bool = False  # whether the decoder's blocks are compiled: see `training.compiled`
    why_plain: str = ""  # why what of them is not compiled by now is computed plainly
    _ahead: Ahead[Batch] | None = field(default=None, init=False)  # while steps are made: their samples

    def steps(self, progress: Progress) -> Iterator[StepResult]:
        """Make the steps that follow `progress`, kept up to date, until the schedule ends or notice comes.

        Before the first step and after the last one, the loss on fixed draws is taken. A validation is made
        before its step is yielded; where notice comes first, it is due, see `settle`.

        Raises BadSpecError where `SKIPPED_LIMIT` steps in a row were skipped, or all of a shorter run.
        """
        total = self.schedule.total_steps
        self.masks.law = progress.law
        if progress.loss_scale:
            self.fabric.strategy.precision.load_state_dict(progress.loss_scale)
        if progress.step == 0:
            progress.evaluations[0] = self.evaluate()
            self.validate(progress)
        with (
            self._drawing_ahead(progress.step),
            track("Training", total=total, unit="steps", done=progress.step) as bar,
        ):
            while progress.step < total and not (self.ends(progress) or self._noticed()):
                result = self.step(progress.step)
                if result is None:
                    log.info("Step %d is given up: it would not end in time", progress.step + 1)
                    break
                if self.compiles and self.team.is_any(bool(self.why_plain)):
                    self.why_plain = self.why_plain or "a block could not be compiled at another rank"
                self._count(result, progress)
                _check_convergence(progress, min(SKIPPED_LIMIT, total))
                self.settle(progress)
                yield result
                epoch = f"epoch {result.group.epoch + 1}/{self.schedule.epochs}"
                bar.advance(1, note=f"{epoch}, loss {result.loss:.4f}")

    def settle(self, progress: Progress) -> bool:
        """Make what is due after `progress`; whether anything was: a validation, see there, and where the run
        is over the loss on fixed draws."""
        made = self.validate(progress)
        if self.is_over(progress) and progress.step not in progress.evaluations:
            progress.evaluations[progress.step] = self.evaluate()
            made = True
        return made

    def is_over(self, progress: Progress) -> bool:
        """Whether no step follows: all are made, or the verdict ends the run. No validation is due then."""
        is_last = progress.step == self.schedule.total_steps
        return self.is_settled(progress) and (is_last or self.ends(progress))

    def is_settled(self, progress: Progress) -> bool:
        """Whether no validation is due."""
        if self.validator is None or progress.step in progress.validations:
            return True
        return not self.schedule.is_validated(progress.step, self.validate_every)

    def validate(self, progress: Progress) -> bool:
        """Make the validation that is due after `progress`, if any is; whether one was made.

        Due is one after each `validate_every` epochs, before the first step and after the last. It is given
        up where notice comes: held-out songs may take longer than any grace. Nothing of it is kept, and
        another attempt, which finds it due, makes it first.
        """
        if self.validator is None or self.is_settled(progress):
            return False
        step, losses = progress.step, dict[int, float]()
        self.model.eval()
        count, rank, ranks = len(self.validator), self.team.rank, self.team.count
        own = islice(self.validator.batches(self.null_condition, torch.device("cpu")), rank, None, ranks)
        with (
            torch.no_grad(),
            self.as_published(),
            ahead(self._sendable(own), AHEAD, "draws") as batches,
            track("Validating", count, "draws") as bar,
        ):
            for number in range(0, count, ranks):
                if self._noticed():
                    log.info("The validation after step %d is given up: the next attempt makes it", step)
                    return False
                if number + rank < count:
                    batch = next(batches).to(self.fabric.device)
                    losses[number + rank] = float(flow_loss(self.model, batch))
                together = min(ranks, count - number)
                bar.advance(together)
                self.watch(number + together, count)
        progress.validations[step] = self.validator.validation(self.team.shared(losses, count))
        progress.timesteps = tuple(self.validator.timesteps)
        return True

    def step(self, step: int) -> StepResult | None:
        """One optimizer step, after `step` others.

        Where its loss or gradient is not finite, weights and optimizer stay as they are. So they do where the
        time after notice is too short for the rest of the step, or a song is still being fetched; then the
        answer is None.
        """
        group, lr = self.schedule.group(step), self.schedule.learning_rate(step)
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)  # fp16 alone has one
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        entries = group.entries
        weights = torch.tensor(relative([self.weights[entry.song] for entry in entries]))
        if self.min_snr_gamma is not None:
            timesteps = torch.cat([self.sampling.timestep(entry.index) for entry in entries])
            weights = weights * min_snr(timesteps, self.min_snr_gamma)
        started, made = time.monotonic(), 0
        batches = self.micro_batches(entries)
        self.sums.begin()
        for first in range(0, len(batches), self.team.count):
            if made and self._is_too_late(time.monotonic() - started, made, len(entries)):
                return None
            dealt = batches[first : first + self.team.count]
            losses = None
            if self.team.rank < len(dealt):
                positions = dealt[self.team.rank]
                together = [entries[position] for position in positions]
                if not self._is_drawn():
                    return None
                self.masks.begin([entry.index for entry in together], self.fabric.device)
                try:
                    with self.offload or nullcontext():
                        losses = self.losses(together)
                    # Divided by the group's own size: an epoch's short last group weighs each song the same.
                    self.fabric.backward((losses * weights[positions].to(losses.device)).sum() / len(entries))
                except GivenUpError:
                    return None
                losses = losses.detach()
            elif scaler:
                scaler.scale(torch.zeros((), device=self.fabric.device))  # its scale is made by its first use
            self.sums.add(dealt, losses)
            made += sum(map(len, dealt))
        each = self.sums.finish(len(entries))
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.max_grad_norm, error_if_nonfinite=False
        )
        assert norm is not None
        mean = (each * weights.to(each.device)).mean()
        # At once, and for the first time in the step: each number that is asked for waits for the GPU.
        *numbers, loss, grad_norm = torch.cat([each, torch.stack([mean, norm])]).tolist()
        result = StepResult(step + 1, group, lr, loss, numbers, grad_norm)
        if result.is_finite:
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = lr * parameters.get("factor", 1)
            self.optimizer.step()
            if self.ema:
                self.ema.update(step + 1)
        # Clipping has unscaled the gradients and noted whether they are finite: where they are not, the scale
        # is halved, so that the next step's may be.
        if scaler:
            scaler.update()
        return result

    def _noticed(self) -> bool:
        """Whether notice has come to any rank."""
        return self.team.heard(self.preemption)[0] < inf

    def _is_too_late(self, seconds: float, made: int, count: int) -> bool:
        """Whether the rest of a step, whose `made` samples took `seconds`, is longer than the time after
        notice: by the rank that has the least of it, and by the slowest."""
        left, longest = self.team.heard(self.preemption, seconds)
        return left < longest / made * (count - made) + SECONDS_TO_SAVE

    def _is_drawn(self) -> bool:
        """Wait for the next micro-batch, whose songs may have to be fetched; False where notice comes first.

        Ranks cannot give up each by itself: of several, the process's own clock ends what waits too long.
        """
        if self._ahead is None or self.team.count > 1:
            return True
        return self._ahead.wait(lambda: self.preemption.requested)

    def losses(self, entries: Sequence[Entry]) -> Tensor:
        """The flow loss of each of these samples, [B], which are of one length."""
        sign_of_life()
        batch = self._batch(entries) if self._ahead is None else next(self._ahead)
        return flow_losses(self.model, batch.to(self.fabric.device))

    @contextmanager
    def _drawing_ahead(self, step: int) -> Iterator[None]:
        """Inside the block, the micro-batches of the steps from this one on are drawn before they are due.

        What each of them is follows from the step alone, and so it is the same. Of several processes, each
        draws its own.
        """

        def dealt() -> Iterator[list[Entry]]:
            for number in range(step, self.schedule.total_steps):
                entries = self.schedule.group(number).entries
                for positions in self.micro_batches(entries)[self.team.rank :: self.team.count]:
                    yield [entries[position] for position in positions]

        songs = (entry.song for together in dealt() for entry in together)
        batches = map(self._batch, dealt())
        with (
            fetching(self.samples, songs),
            ahead(self._sendable(batches), AHEAD, "samples") as self._ahead,
        ):
            try:
                yield
            finally:
                self._ahead = None

    def _sendable(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        """Each in memory that the device takes it from by itself, where it is a GPU."""
        for batch in batches:
            yield batch.pinned() if self.fabric.device.type == "cuda" else batch

    def _batch(self, entries: Sequence[Entry]) -> Batch:
        return join([self._drawn(entry) for entry in entries])

    def _drawn(self, entry: Entry) -> Batch:
        sample, sampling = self.samples[entry.song], self.sampling
        return draw_batch(
            *(sample, self.null_condition, sampling, entry.index, "cpu"), song=entry.song, visit=entry.visit
        )

    def micro_batches(self, entries: Sequence[Entry]) -> list[list[int]]:
        """The positions among `entries` of those that are computed at once: no rank is to be left without."""
        frames = [self.sampling.length(self.frames[entry.song]) for entry in entries]
        most = min(at_once(self.batch_size, self.masks.law), -(-len(entries) // self.team.count))
        return cut(frames, most)

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss over draws that are the same at every step, with dropout off and all conditions.

        The loss of single steps is ruled by the noise level that they drew; this one shows learning.
        NaN where a draw's is not finite: a mean of the others would be better, and the adapter worse.
        """
        self.model.eval()
        sampling = self.sampling.as_captioned(seed=rng.key(self.sampling.seed, "evaluation"))
        own = range(self.team.rank, EVALUATION_DRAWS, self.team.count)
        drawn = (
            draw_batch(self.samples[index % len(self.samples)], self.null_condition, sampling, index, "cpu")
            for index in own
        )
        losses = []
        with self.as_published(), ahead(self._sendable(drawn), AHEAD, "draws") as batches:
            for batch in batches:
                sign_of_life()
                losses.append(flow_loss(self.model, batch.to(self.fabric.device)))
        numbers: list[float] = torch.stack(losses).tolist() if losses else []
        found = self.team.shared(dict(zip(own, numbers, strict=True)), EVALUATION_DRAWS)
        if bad := sum(not isfinite(loss) for loss in found):
            log.warning("The loss on fixed draws is not finite in %s", out_of(bad, len(found), "draws"))
            return nan
        return sum(found) / len(found)

    def as_published(self) -> AbstractContextManager[None]:
        """Inside the block, the adapter is what is published: the average where that is in use."""
        return self.ema.in_place() if self.ema and self.ema.use else nullcontext()

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


def relative(weights: Sequence[float]) -> list[float]:
    """What the samples of a step weigh, so that their mean is 1. Equal ones are 1, to the bit."""
    if len(set(weights)) == 1:
        return [1.0] * len(weights)
    mean = sum(weights) / len(weights)
    return [weight / mean for weight in weights]


def _check_convergence(progress: Progress, limit: int) -> None:
    if progress.skipped_in_row < limit:
        return
    raise BadSpecError(
        f"training has diverged: the loss or its gradient was not finite in {limit} steps in a row, "
        f"the last of them step {progress.step}\n"
        "  the newest checkpoint is from before that; the same settings would end here again\n"
        "  start again in a new output_dir with a lower train.lr, or with runtime.precision fp32"
    )
