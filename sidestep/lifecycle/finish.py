"""The end of a run: the last record, and what is published after it; again, where that was cut off."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sidestep.commitlog.lease import Watch
from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.best import Best, best_commit
from sidestep.lifecycle.card import keep_card
from sidestep.lifecycle.identity import check_same_run, is_extended, settings_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.output import RUNS
from sidestep.lifecycle.publish import FOLDER as ADAPTER
from sidestep.lifecycle.publish import publish, publish_command, refuse_if_older, warn_of_dots
from sidestep.lifecycle.receipt import FILE as RECEIPT
from sidestep.lifecycle.receipt import inference_of
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.results import damaged, mend, note_made, receipt_of, spent_by_receipt
from sidestep.lifecycle.resume import has_gone_on
from sidestep.report.curve import FILE as CURVE
from sidestep.report.curve import loss_curve
from sidestep.report.page import FILE as REPORT
from sidestep.report.page import write_report
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.words import as_typed, counted, out_of
from sidestep.training.history import FILE as HISTORY
from sidestep.training.numbers import NUMBERS_FILE, Numbers, Progress, read_numbers
from sidestep.training.verdict import judge, ranked, why_ended

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a finished run made. Losses are on fixed draws, before the first step and after the last."""

    adapter: str  # its place
    runs: str  # the place of the TensorBoard logs
    steps: int
    first_loss: float
    last_loss: float
    best_step: int | None = None
    """Of the lowest held-out loss; None where no songs are held out, or it was never finite."""
    best_held_out: float | None = None
    """By which it is the best: the mean of the last `train.validation.window` validations there."""
    held_out: dict[int, float] = field(default_factory=dict)
    """Step → the held-out loss, from before the first step on."""


def finish(
    job: Job,
    reporter: Reporter,
    writer: Writer,
    fingerprint: Mapping[str, Any],
    progress: Progress,
    history: bytes,
    best: Best,
    total_steps: int,
) -> TrainResult:
    """The run is over and its last step is committed: say so, and publish.

    Args:
        history: of history.json.
        best: knows the checkpoint with the lowest held-out loss.
        total_steps: those of the whole schedule: the run may have ended before.
    """
    reporter.begin("publish")
    reporter.update(step=progress.step, steps=total_steps)  # no step may have been left to be made
    if why := why_ended(progress, job.spec.train):
        words = f"ended after step {progress.step} of {total_steps}: {why}"
        log.info("The run has %s", words)
        reporter.update(message=words)
    writer.check_now()
    store, curve = job.output_store, loss_curve(progress.losses, progress.evaluations, job.spec.name)
    store.write_bytes(HISTORY, history)
    writer.check_now()
    store.write_bytes(CURVE, curve)
    assert writer.newest, "a run ends with a commit"
    done = writer.finish(best.to_publish(progress, writer.newest.kept))
    publish(job.commits, done, job.workspace)
    writer.check_now()
    store.write_bytes(RECEIPT, receipt_of(job, done, fingerprint, progress, reporter.spent()))
    keep_card(store, writer.check_now)
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
    settings = settings_of(job, Preprocessed(job.tensors), numbers)
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
    alive, TakenError is raised.
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
    progress = numbers.progress
    if is_extended(numbers.recipe, settings):
        if judge(progress, spec.train).end != "target_loss":
            return None
        log.warning(
            "--extend does not go on, as the held-out loss is at most train.target_loss, %s, already: with a "
            "lower one, or none, it does",
            spec.train.target_loss,
        )
    else:
        _say_how_to_go_on(spec, progress)
    _say_what_else_to_publish(job, done, newest, progress)
    if spec.train.resume_from:
        log.warning(
            "This run is finished, so --resume-from plays no part: --extend with more epochs than %d goes on "
            "from step %d, at the learning rate of the longer run; --new-attempt goes back to %s",
            *(spec.train.epochs, numbers.progress.step, spec.train.resume_from),
        )
    wanted = damaged(store, done)
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
    keep_card(store, lambda: refuse_if_older(job.commits, newest))
    log.info(
        "Already finished after %s. Adapter: %s/%s", counted(progress.step, "steps"), store.place, ADAPTER
    )
    return _result(job, progress)


def _say_how_to_go_on(spec: JobSpec, progress: Progress) -> None:
    if why := why_ended(progress, spec.train):
        log.info(
            "The run ended after step %d: %s. With --extend and more train.epochs, or another "
            "train.stop.patience, train.stop.min_delta or train.target_loss, it goes on from there",
            *(progress.step, why),
        )
    elif spec.train.extend:
        log.info("--extend goes on with more train.epochs than %d or train.max_steps", spec.train.epochs)


def _say_what_else_to_publish(job: Job, done: Record, newest: Record, progress: Progress) -> None:
    """Where the spec asks for another checkpoint than the run's end has published, and nobody since."""
    train, published = job.spec.train, done.published or done.folder
    if job.commits.published(newest) != done.published:
        return
    wanted: Record | None = done
    if train.publish == "best":
        wanted = best_commit(job.commits, done, ranked(progress.validations, train.validation.window))
    if wanted and wanted.folder != published:
        name = wanted.folder.rpartition("/")[2]
        log.warning(
            "The adapter is that of %s, as the run ended with another train.publish: `%s` makes it the %s",
            *(published, publish_command(job.spec, job.output_store.place, name), train.publish),
        )


def _result(job: Job, progress: Progress) -> TrainResult:
    verdict = judge(progress, job.spec.train)
    return TrainResult(
        adapter=f"{job.output_store.place}/{ADAPTER}",
        runs=f"{job.output_store.place}/{RUNS}",
        steps=progress.step,
        first_loss=progress.evaluations[min(progress.evaluations)],
        last_loss=progress.evaluations[max(progress.evaluations)],
        best_step=verdict.best,
        best_held_out=None if verdict.best is None else verdict.best_loss,
        held_out={step: found.held_out.mean for step, found in sorted(progress.validations.items())},
    )
