"""What validations find, as it is told while a run trains: in the log, in status.json, and in doubt once."""

import logging
from math import isfinite

from sidestep.config.training import TrainSpec
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.status import Validated, Validating
from sidestep.training.numbers import Progress
from sidestep.training.verdict import DOUBT_SHARE, doubt, gain, judge

log = logging.getLogger(__name__)


class Judgements:
    """Tells what an attempt's validations find, once each: an earlier attempt has told of its own."""

    def __init__(self, reporter: Reporter, train: TrainSpec, total_steps: int, progress: Progress) -> None:
        """`progress` is where the attempt begins, and is kept up to date by its trainer."""
        self._reporter, self._train, self._total_steps = reporter, train, total_steps
        self._progress, self._told = progress, set(progress.validations)
        if progress.validations:
            reporter.update(validation=validated(progress, train))

    def watch(self, done: int, total: int) -> None:
        """A validation has come so far."""
        at = Validating(step=self._progress.step, done=done, total=total)
        self._reporter.update(validating=None if done == total else at)

    def tell(self) -> None:
        """Say what has been found since the last time."""
        new = self._progress.validations.keys() - self._told
        if not new:
            return
        self._told |= new
        found = validated(self._progress, self._train)
        self._reporter.update(validation=found)
        log.info("Validation after step %d: %s", found.step, found)
        if found.held_out is None:
            log.warning(
                "The held-out loss after step %d is not finite: it is no improvement, and never the best",
                found.step,
            )
        if doubted := doubt(self._progress, self._total_steps):
            log.warning(
                "Nothing has been learnt that the held-out songs can tell: after %.0f %% of the run, their "
                "loss has changed by %+.4f, with a standard error of %.4f\n"
                "  a train.lr three times as high or more train.adapter.target_modules learn faster\n"
                "  more songs held out tell smaller differences",
                *(100 * DOUBT_SHARE, doubted.mean, doubted.error),
            )


def validated(progress: Progress, train: TrainSpec) -> Validated:
    """The newest validation, of at least one."""
    step = max(progress.validations)
    found, verdict = progress.validations[step], judge(progress, train)
    gained = gain(progress.validations, step) if step else None
    return Validated(
        step=step,
        held_out=_known(found.held_out.mean),
        trained=_known(found.trained.mean),
        gain=gained.mean if gained else None,
        gain_error=gained.error if gained else None,
        best_step=verdict.best,
        best_held_out=_known(verdict.best_loss),
    )


def _known(loss: float) -> float | None:
    return loss if isfinite(loss) else None
