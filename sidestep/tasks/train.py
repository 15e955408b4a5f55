"""The train task: tensors and a base model in, an adapter out."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidestep.acestep.quantized import check_quantization
from sidestep.adapters.adapter import Adapter
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.job import JobSpec
from sidestep.config.training import TrainSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.data.card import Facts
from sidestep.data.checked import write_checked
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.preview import read_preview
from sidestep.lifecycle.best import Best, best_commit
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.finish import TrainResult, finish
from sidestep.lifecycle.identity import (
    check_same_run,
    is_extended,
    settings_of,
)
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.judgements import Judgements
from sidestep.lifecycle.output import RUNS
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.resume import ResumePoint, check_crash_loop, find_resume_point
from sidestep.lifecycle.saver import RETRY, Saver
from sidestep.runtime.errors import AccessError, BadDataError, BadSpecError, MissingInputError, StorageError
from sidestep.runtime.words import counted
from sidestep.tasks.prepared import Prepared, prepare
from sidestep.tasks.setup import TrainingSetup
from sidestep.tasks.train_log import log_resume, log_training, report_step, stopped
from sidestep.training.card import facts_of
from sidestep.training.checkpoint import restore
from sidestep.training.history import HeldOut, history_bytes, with_shares
from sidestep.training.loop import StepResult
from sidestep.training.metrics import Metrics
from sidestep.training.numbers import NUMBERS_FILE, STATE_FILES, Numbers, Progress
from sidestep.training.optimizer import check_optimizer
from sidestep.training.schedule import Group, Schedule
from sidestep.training.snapshot import Snapshot
from sidestep.training.team import BEGINS, Team
from sidestep.training.throughput import Throughput
from sidestep.training.verdict import judge

log = logging.getLogger(__name__)


def train(job: Job, reporter: Reporter, team: Team | None = None) -> TrainResult:
    """Train an adapter as the spec says, or go on where an earlier attempt stopped, and publish it.

    Of a `team` of several processes, this is what rank 0 does; the others `follow`. That the run is not
    finished has been asked before, see `lifecycle.finish.finished_before`.

    Raises MissingInputError or BadDataError for tensors or weights that are not there or not sound,
    BadSpecError where the output was begun with other settings, MachineError for a missing GPU or package,
    AgainError where notice came, TakenError where another run has taken over, StorageError where the last
    checkpoint could not be sent.
    """
    spec, team = job.spec, team or Team()
    reporter.count()
    check_crash_loop(job)
    check_optimizer(spec.train)
    check_quantization(spec.train.quantize)
    with job.workspace.temporary() as temporary:
        start = find_resume_point(job, Path(temporary))
        dataset = Preprocessed(job.tensors)
        settings = settings_of(job, dataset, start.numbers)
        check_same_run(spec, start.numbers, settings, start.place)  # before gigabytes are pulled
        reporter.begin("pull")
        team.tell(BEGINS, (start.folder / NUMBERS_FILE).read_bytes() if start.folder else b"")
        prepared = prepare(job, dataset, start, settings, team)
        if prepared.why_plain:
            reporter.update(without=f"trains without runtime.compile: {prepared.why_plain}")
        fingerprint = prepared.fingerprint
        team.check_same(fingerprint | {"machine": prepared.kind})
        with take_over(job.commits, reporter.lease, reporter.watch, prepared.kind) as writer:
            reporter.update(generation=writer.generation)  # what others say, who are not, is overwritten
            if writer.newest != start.newest:  # the writer before had still added to the log
                start = find_resume_point(job, Path(temporary))
                check_same_run(spec, start.numbers, fingerprint, start.place)
            with job.preemption.deferred():
                files = STATE_FILES if start.folder else ()
                team.send({name: start.folder / name for name in files if start.folder})
                result = _train(job, reporter, prepared, writer, start)
    log.info("Loss on fixed draws: %.4f at the start, %.4f at the end", result.first_loss, result.last_loss)
    if result.best_step is not None:
        log.info(
            "Held-out loss: %.4f at the start, %.4f at the end. The best is step %d, with %.4f%s",
            *(result.held_out[0], result.held_out[max(result.held_out)]),
            *(result.best_step, result.best_held_out),
            f" as the mean of up to {window} validations"
            if (window := spec.train.validation.window) > 1
            else "",
        )
    log.info("Adapter: %s", result.adapter)
    return result


def _train(
    job: Job, reporter: Reporter, prepared: Prepared, writer: Writer, start: ResumePoint
) -> TrainResult:
    """Train from `start` to the end, with checkpoints, and publish: all that one writer does."""
    setup, trainer, hearing = prepared.setup, prepared.trainer, prepared.hearing
    fingerprint, machine = prepared.fingerprint, prepared.kind
    spec, schedule = job.spec, trainer.schedule
    total_steps = schedule.total_steps
    reporter.speak()
    reporter.begin("train", gpus=trainer.team.count if setup.machine.device.type == "cuda" else 0)
    progress = Progress()
    if start.folder:
        progress = restore(start.folder, trainer.adapter, trainer.optimizer, trainer.ema)
    if start.numbers:
        reporter.resumed_at(_check_length(start.numbers, schedule))
        log_resume(start.numbers, fingerprint, machine, schedule)
        _begin_patience_anew(progress, start.numbers, fingerprint, spec.train)
        machine = start.numbers.machine
    log_training(spec, setup, progress.law)
    job.output.keep_spec(spec)
    if setup.learned:  # where preprocessing has not said it already
        write_checked(job.output_store, setup.learned)
    snapshot = Snapshot(
        *(trainer.adapter, trainer.optimizer, spec.train, fingerprint, machine),
        *(setup.samples.records, setup.sides, trainer.ema),
        # An older version's run says of itself what it has said before: nothing.
        start.numbers.card if start.numbers else _facts(spec, setup, trainer.adapter),
    )
    policy = CheckpointPolicy(spec.train.checkpoint, schedule)
    committed = writer.newest.step if writer.newest else 0
    trackers = reporter.watching.trackers
    trackers.begin(job.output_store, spec.name, fingerprint, committed)
    events = EventsToSend(job.output, newest=committed, now=progress.step, check_now=writer.check_now)
    best = _best_of(job, writer, start, progress)
    saver = Saver(job, reporter, writer, snapshot, policy, events, best, RETRY, start.origin)

    judgements = Judgements(reporter, spec.train, total_steps, progress)
    trainer.watch = judgements.watch
    log_every, log_heavy_every = spec.train.log_every, spec.train.log_heavy_every
    with Metrics(
        *(job.output.path(RUNS), trainer, progress, log_every, log_heavy_every, spec.train.lr_groups),
        gpus=reporter.watching.gpus.latest,
        listener=trackers.add,
    ) as metrics:
        if writer.newest is None:
            text = dump_yaml(spec.model_dump(mode="json")).decode()
            metrics.describe(text, fingerprint, read_preview(job.tensors))
        hearing.begin(trainer, setup, metrics, writer.check)

        def name_of_due(group: Group) -> str | None:
            """None, too, where a validation is due: what is saved then is not the checkpoint of that name."""
            if not trainer.is_settled(progress):
                return None
            must = trainer.is_over(progress) or best.wins(progress) or hearing.is_due(progress)
            return policy.due(progress, group, must=must)

        def hear() -> None:
            """Its seconds are no step's."""
            seconds = hearing.hear(progress)
            metrics.leave_out(seconds)
            throughput.leave_out(seconds)

        def tell_without() -> None:
            """What a length that has come up since the start is computed without."""
            if trainer.why_plain:
                writer.add_machine(prepared.kind | {"compile": "blocks, in part"})
                reporter.update(without=f"trains with runtime.compile in part: {trainer.why_plain}")

        trainer.team.begin_with(progress)
        settled = progress.step > 0 and trainer.settle(progress)  # what notice had cut off
        judgements.tell()
        metrics.log_settled()
        if settled and trainer.is_over(progress):  # no step follows whose file would have these points
            events.add(metrics.rotate(progress.step + 2))
        if settled and (name := name_of_due(schedule.group(progress.step - 1))):
            saver.save(name, progress)  # in place of what waits
        elif start.unsent:
            saver.send(start.unsent, progress)
        elif not (settled or start.origin) and committed == progress.step:
            saver.goes_on_from(committed)
        tell_without()
        throughput = Throughput()
        hear()  # what an attempt before was to make, and had no time for

        def steps() -> Iterator[StepResult]:
            """Where a song cannot be read or fetched, what is made without it is committed first."""
            try:
                yield from trainer.steps(progress)
            except (BadDataError, MissingInputError, StorageError, AccessError):
                events.add(metrics.rotate(progress.step + 1))
                saver.save_in_time(f"checkpoint-step-{progress.step}", progress)
                raise

        for result in steps():
            tell_without()
            metrics.log_step(result)
            judgements.tell()
            saver.check()
            report_step(reporter, result, schedule, throughput)
            if name := name_of_due(result.group):
                events.add(metrics.rotate(progress.step + 1))
                saver.save(name, progress)
            hear()
        trainer.team.leave()
        step = progress.step
        if not trainer.is_over(progress):
            events.add(metrics.rotate(step + 1))
            saver.save_in_time(f"checkpoint-step-{step}", progress)
            raise stopped(job, step, total_steps, writer, saver)
        saver.finish()
        events.add(metrics.complete())
        events.send()
    rates = [schedule.learning_rate(made) for made in range(step)]
    songs = with_shares(setup.samples.facts, setup.shares)
    means = judge(progress, spec.train).smoothed
    held_out = HeldOut.of(setup.samples.songs, setup.sides, means) if setup.sides else None
    history = history_bytes(progress, rates, songs, spec.train.lr_groups, held_out)
    return finish(job, reporter, writer, fingerprint, progress, history, best, total_steps)


def _facts(spec: JobSpec, setup: TrainingSetup, adapter: Adapter) -> Facts:
    """What the adapter's card says before the first step."""
    songs = setup.samples.facts
    held_out = setup.sides.are_held_out(setup.samples.songs) if setup.sides else [False] * len(songs)
    return facts_of(spec, adapter, songs, held_out, is_turbo=bool(setup.model.config["is_turbo"]))


def _begin_patience_anew(
    progress: Progress, numbers: Numbers, fingerprint: Mapping[str, Any], train: TrainSpec
) -> None:
    """A run that patience has ended and that is extended would end at once again."""
    if is_extended(numbers.recipe, fingerprint) and judge(progress, train).end == "patience":
        progress.patient_from = progress.step
        log.info("Patience begins anew after step %d", progress.step)


def _best_of(job: Job, writer: Writer, start: ResumePoint, progress: Progress) -> Best:
    """Which checkpoint is the best so far. Says so where there is none any more of the best step."""
    best = Best(job.spec.train)
    steps = best.ranked(progress)
    if not steps:
        return best
    found = best_commit(job.commits, writer.newest, steps)
    if found:
        best.folders[found.step] = found.folder
    is_here = found is not None and found.step == steps[0]
    if not is_here and not (start.unsent and start.unsent.step == steps[0]):
        log.warning(
            "The held-out loss was best after step %d, and no checkpoint of that step is in this output: the "
            "best of those that are stays",
            steps[0],
        )
    return best


def _check_length(numbers: Numbers, schedule: Schedule) -> int:
    """The step that a run goes on after. Raises BadSpecError where the spec asks for fewer than are made."""
    step = numbers.progress.step
    if step > schedule.total_steps:
        raise BadSpecError(
            f"this run has made {counted(step, 'steps')}, and the spec asks for {schedule.total_steps}\n"
            "  ask for more epochs or max_steps, or start again in another output_dir"
        )
    return step
