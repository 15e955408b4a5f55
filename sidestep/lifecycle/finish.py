"""The end of a run: the last record, and what is published after it; again, where that was cut off."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sidestep.commitlog.lease import Watch
from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import Writer
from sidestep.lifecycle.identity import check_same_run, length_before, settings_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.output import RUNS
from sidestep.lifecycle.publish import FOLDER as ADAPTER
from sidestep.lifecycle.publish import publish, warn_of_dots
from sidestep.lifecycle.receipt import FILE as RECEIPT
from sidestep.lifecycle.receipt import inference_of, receipt_bytes
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.results import damaged, mend, note_made, spent_by_receipt
from sidestep.lifecycle.resume import has_gone_on
from sidestep.report.curve import FILE as CURVE
from sidestep.report.curve import loss_curve
from sidestep.report.page import FILE as REPORT
from sidestep.report.page import write_report
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.words import as_typed, counted, out_of
from sidestep.training.history import FILE as HISTORY
from sidestep.training.numbers import NUMBERS_FILE, Numbers, Progress, read_numbers

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
    job: Job,
    reporter: Reporter,
    writer: Writer,
    fingerprint: Mapping[str, Any],
    progress: Progress,
    history: bytes,
) -> TrainResult:
    """All steps are made and the last one is committed: say so, and publish. `history` is of history.json."""
    reporter.begin("publish")
    writer.check_now()
    store, curve = job.output_store, loss_curve(progress.losses, progress.evaluations, job.spec.name)
    store.write_bytes(HISTORY, history)
    writer.check_now()
    store.write_bytes(CURVE, curve)
    done = writer.finish()
    publish(job.commits, done, job.workspace)
    writer.check_now()
    store.write_bytes(RECEIPT, receipt_bytes(job.spec, done, fingerprint, progress, reporter.spent()))
    writer.check_now()
    write_report(store, job.spec, job.tensors)
    writer.check_now()
    note_made(store, done)
    if inference := inference_of(job.spec):
        said = ", ".join(f"{name} {as_typed(value)}" for name, value in inference.items())
        log.info("Kept for inference in %s/%s: %s", store.place, RECEIPT, said)
    warn_of_dots(job.spec.name, PurePosixPath(store.place).name)
    if progress.skipped:
        log.warning(
            "Skipped: %s, see above, and skipped_steps", out_of(progress.skipped, progress.step, "steps")
        )
    return _result(job, progress)


def finished_before(job: Job, reporter: Reporter) -> TrainResult | None:
    """What a finished run has made, once it is sure that it is this run, and that its adapter is there.

    None where there is more to do: it is not finished, the spec asks for more epochs or goes back to an older
    checkpoint, or the adapter is not there and the last checkpoint, which has it, is damaged.

    Raises BadSpecError where it was made with other settings.
    """
    end = _end(job, reporter)
    if end is None:
        return None
    done, newest = end
    try:
        numbers = read_numbers(job.output_store.read_small(f"{done.folder}/{NUMBERS_FILE}"), done.folder)
    except (BadDataError, MissingInputError) as error:
        _log_damaged(done, error)
        return None
    settings = settings_of(job, numbers)
    try:
        return _published_again(job, reporter, done, newest, numbers, settings)
    except (BadDataError, MissingInputError) as error:
        if job.commits.published(newest):  # no further training makes that adapter
            raise
        _log_damaged(done, error)
        return None


def _end(job: Job, reporter: Reporter) -> tuple[Record, Record] | None:
    """The record that ends the run, and the newest of all; None where the run is not finished.

    The newest may be that of `sidestep publish`, or of a writer that has come no further: where that one is
    alive, AgainError is raised.
    """
    newest = job.commits.tail()
    done = job.commits.newest_commit(newest)
    if newest is None or done is None or done.kind != "done":
        return None
    if newest.kind == "take-over":
        watch = reporter.watch
        if watch is None or watch.generation != newest.generation:
            watch = Watch(job.output_store, newest.generation, reporter.lease)
        watch.wait()
        if job.commits.tail() != newest:  # it has gone on, and has ended meanwhile
            return _end(job, reporter)
    return done, newest


def _log_damaged(done: Record, error: Exception) -> None:
    log.warning("The run is finished, but its last checkpoint %s is damaged: %s", done.folder, error)


def _published_again(
    job: Job,
    reporter: Reporter,
    done: Record,
    newest: Record,
    numbers: Numbers,
    settings: Mapping[str, Any],
) -> TrainResult | None:
    spec, store = job.spec, job.output_store
    if spec.train.new_attempt and spec.train.resume_from and not has_gone_on(spec, job.commits, done):
        return None
    check_same_run(spec, numbers, settings, store.place)
    if length_before(numbers.recipe, settings):
        return None
    if spec.train.resume_from:
        log.warning(
            "This run is finished, so --resume-from plays no part: --extend with more epochs than %d goes on "
            "from step %d, at the learning rate of the longer run; --new-attempt goes back to %s",
            *(spec.train.epochs, numbers.progress.step, spec.train.resume_from),
        )
    progress, wanted = numbers.progress, damaged(store, done)
    was_lost = reporter.before.state != "done"  # its writer, after the last record
    if reporter.before.attempt == 0 and RECEIPT not in wanted:  # its status alone
        reporter.recall(spent_by_receipt(store))
    elif was_lost:
        wanted |= {RECEIPT, REPORT}
    if was_lost:
        reporter.speak()
        reporter.begin("publish")
        reporter.update(step=progress.step, steps=progress.step)
    publish(job.commits, done, job.workspace, newest)
    spent = reporter.spent() if was_lost else reporter.before.spent
    mend(job, done, newest, numbers, spent, wanted)
    log.info(
        "Already finished after %s. Adapter: %s/%s", counted(progress.step, "steps"), store.place, ADAPTER
    )
    return _result(job, progress)


def _result(job: Job, progress: Progress) -> TrainResult:
    return TrainResult(
        adapter=f"{job.output_store.place}/{ADAPTER}",
        runs=f"{job.output_store.place}/{RUNS}",
        steps=progress.step,
        first_loss=progress.evaluations[min(progress.evaluations)],
        last_loss=progress.evaluations[max(progress.evaluations)],
    )
