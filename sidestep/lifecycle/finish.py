"""The end of a run: the last record, and what is published after it; again, where that was cut off."""

import logging
from dataclasses import dataclass
from typing import Any

from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import Writer
from sidestep.lifecycle.events import FOLDER as RUNS
from sidestep.lifecycle.identity import LENGTH, refuse_another_run
from sidestep.lifecycle.job import Attempt
from sidestep.lifecycle.publish import FOLDER as ADAPTER
from sidestep.lifecycle.publish import publish
from sidestep.lifecycle.receipt import FILE as RECEIPT
from sidestep.lifecycle.receipt import write_receipt
from sidestep.lifecycle.resume import has_gone_on
from sidestep.report.curve import FILE as CURVE
from sidestep.report.curve import loss_curve
from sidestep.report.page import FILE as REPORT
from sidestep.report.page import write_report
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.training.history import FILE as HISTORY
from sidestep.training.numbers import NUMBERS_FILE, Progress, read_numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a finished run made. Losses are on fixed draws, before the first step and after the last."""

    adapter: str  # its place
    runs: str  # the place of the TensorBoard logs
    steps: int
    first_loss: float
    last_loss: float


def finish(
    attempt: Attempt, writer: Writer, progress: Progress, recipe: dict[str, Any], history: bytes
) -> TrainResult:
    """All steps are made and the last one is committed: say so, and publish. `history` is of history.json."""
    attempt.begin("publish")
    output = attempt.output
    output.store.write_bytes(HISTORY, history)
    output.store.write_bytes(CURVE, loss_curve(progress.losses, progress.evaluations, attempt.spec.name))
    done = writer.finish()
    publish(attempt.commits, done, attempt.workspace)
    write_receipt(attempt, done, recipe, progress)
    write_report(output.store, attempt.spec)
    if progress.skipped:
        log.warning(
            "%d of %d steps were skipped: see above, and skipped_steps", progress.skipped, progress.step
        )
    return _result(output.store.place, progress)


def finished_before(attempt: Attempt, done: Record, recipe: dict[str, Any]) -> TrainResult | None:
    """A run that is finished: make sure that it is this one, and that its adapter is there.

    None where there is more to do: the spec asks for more epochs or goes back to an older checkpoint, or
    the adapter is not there and the last checkpoint, which has it, is damaged.
    """
    try:
        return _published_again(attempt, done, recipe)
    except (BadDataError, MissingInputError) as error:
        log.warning("The run is finished, but its last checkpoint %s is damaged: %s", done.folder, error)
        return None


def _published_again(attempt: Attempt, done: Record, recipe: dict[str, Any]) -> TrainResult | None:
    spec, store = attempt.spec, attempt.output.store
    numbers = read_numbers(store.read_bytes(f"{done.folder}/{NUMBERS_FILE}"), done.folder)
    if spec.train.new_attempt and spec.train.resume_from and not has_gone_on(spec, attempt.commits, done):
        return None
    refuse_another_run(spec, numbers, recipe, store.place)
    if any(numbers.recipe.get(key) != recipe[key] for key in LENGTH):
        return None
    if spec.train.resume_from:
        log.warning(
            "This run is finished, so --resume-from plays no part: --extend goes on beyond its end, "
            "--new-attempt goes back to an older checkpoint"
        )
    was_lost = attempt.before.state != "done"  # its writer, after the last record
    if was_lost:
        attempt.speak()
        attempt.begin("publish")
        attempt.report(step=numbers.progress.step, steps=numbers.progress.step)
    publish(attempt.commits, done, attempt.workspace)
    if was_lost or store.stat(RECEIPT) is None:
        write_receipt(attempt, done, numbers.recipe, numbers.progress)
    if was_lost or store.stat(REPORT) is None:
        write_report(store, spec)
    result = _result(store.place, numbers.progress)
    log.info("Already finished after %d steps. Adapter: %s", result.steps, result.adapter)
    return result


def _result(place: str, progress: Progress) -> TrainResult:
    return TrainResult(
        adapter=f"{place}/{ADAPTER}",
        runs=f"{place}/{RUNS}",
        steps=progress.step,
        first_loss=progress.evaluations[min(progress.evaluations)],
        last_loss=progress.evaluations[max(progress.evaluations)],
    )
