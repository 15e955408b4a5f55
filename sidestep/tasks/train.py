"""The train task: tensors and a base model in, an adapter out."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from sidestep.acestep.recompute import recompute_layers
from sidestep.adapters import inject
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.job import JobSpec
from sidestep.config.optimizers import doubtful_rate
from sidestep.config.yaml12 import dump_yaml
from sidestep.data.preview import read_preview
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.finish import TrainResult, finish
from sidestep.lifecycle.identity import check_same_run, differences, length_before, said, settings_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.output import RUNS
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.lifecycle.publish import publish_command
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.resume import ResumePoint, check_crash_loop, find_resume_point
from sidestep.lifecycle.saver import RETRY, Saver
from sidestep.runtime.errors import AgainError, BadSpecError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.words import counted
from sidestep.tasks.setup import TrainingSetup, prepare_setup, sampling_config
from sidestep.training.checkpoint import restore
from sidestep.training.dropout import Masks
from sidestep.training.history import history_bytes
from sidestep.training.loop import StepResult, Trainer
from sidestep.training.machine import choose_machine
from sidestep.training.metrics import Metrics
from sidestep.training.numbers import Numbers, Progress
from sidestep.training.optimizer import build_optimizer, check_optimizer
from sidestep.training.schedule import Schedule
from sidestep.training.snapshot import Snapshot
from sidestep.training.throughput import Throughput

log = logging.getLogger(__name__)

DROPOUT_IN_OLDER_SPECS = 0.1


def train(job: Job, reporter: Reporter) -> TrainResult:
    """Train an adapter as the spec says, or go on where an earlier attempt stopped, and publish it.

    That the run is not finished has been asked before, see `lifecycle.finish.finished_before`.

    Raises MissingInputError or BadDataError for tensors or weights that are not there or not sound,
    BadSpecError where the output was begun with other settings, MachineError for a missing GPU or package,
    AgainError where notice came or another run has taken over, StorageError where the last checkpoint could
    not be sent.
    """
    spec = job.spec
    check_crash_loop(job)
    check_optimizer(spec.train)
    with job.workspace.temporary() as temporary:
        start = find_resume_point(job, Path(temporary))
        settings = settings_of(job, start.numbers)
        check_same_run(spec, start.numbers, settings, start.place)  # before gigabytes are pulled
        reporter.begin("pull")
        machine = choose_machine(spec.runtime, start.numbers.machine if start.numbers else None)
        setup = prepare_setup(job, machine, start.numbers)
        known_now = {"dataset_content": setup.samples.content, "weights": setup.weights}
        fingerprint = {**settings, **known_now}
        check_same_run(spec, start.numbers, fingerprint, start.place)
        trainer = build_trainer(spec, setup, job.preemption)
        with take_over(job.commits, reporter.lease, reporter.watch, machine.kind()) as writer:
            reporter.update(generation=writer.generation)  # what others say, who are not, is overwritten
            if writer.newest != start.newest:  # the writer before had still added to the log
                start = find_resume_point(job, Path(temporary))
                check_same_run(spec, start.numbers, fingerprint, start.place)
            with job.preemption.deferred():
                result = _train(job, reporter, setup, fingerprint, trainer, writer, start)
    log.info("Loss on fixed draws: %.4f at the start, %.4f at the end", result.first_loss, result.last_loss)
    log.info("Adapter: %s", result.adapter)
    return result


def _train(
    job: Job,
    reporter: Reporter,
    setup: TrainingSetup,
    fingerprint: Mapping[str, Any],
    trainer: Trainer,
    writer: Writer,
    start: ResumePoint,
) -> TrainResult:
    """Train from `start` to the end, with checkpoints, and publish: all that one writer does."""
    spec, schedule = job.spec, trainer.schedule
    total_steps = schedule.total_steps
    reporter.speak()
    reporter.begin("train", gpus=int(setup.machine.device.type == "cuda"))
    progress = restore(start.folder, trainer.adapter, trainer.optimizer) if start.folder else Progress()
    machine = setup.machine.kind()
    if start.numbers:
        reporter.resumed_at(_check_length(start.numbers, schedule))
        _log_resume(start.numbers, fingerprint, machine, schedule)
        machine = start.numbers.machine
    _log_training(spec, setup, progress.law)
    job.output.keep_spec(spec)
    snapshot = Snapshot(
        trainer.adapter, trainer.optimizer, spec.train, fingerprint, machine, setup.samples.records
    )
    policy = CheckpointPolicy(spec.train.checkpoint, schedule)
    committed = writer.newest.step if writer.newest else 0
    events = EventsToSend(job.output, newest=committed, now=progress.step, check_now=writer.check_now)
    saver = Saver(job, reporter, writer, snapshot, policy, events, RETRY, start.origin)

    log_every, log_heavy_every = spec.train.log_every, spec.train.log_heavy_every
    with Metrics(job.output.path(RUNS), trainer, progress, log_every, log_heavy_every) as metrics:
        if writer.newest is None:
            text = dump_yaml(spec.model_dump(mode="json")).decode()
            metrics.describe(text, fingerprint, read_preview(job.tensors))
        if start.unsent:
            saver.send(start.unsent)
        throughput = Throughput()
        for result in trainer.steps(progress):
            metrics.log_step(result)
            saver.check()
            report_step(reporter, result, schedule, throughput)
            if name := policy.due(progress, result.group):
                events.add(metrics.rotate(progress.step + 1))
                saver.save(name, progress)
        step = progress.step
        if step < total_steps:
            events.add(metrics.rotate(step + 1))
            saver.save_in_time(f"checkpoint-step-{step}", progress)
            raise _stopped(job, step, total_steps, writer, saver)
        saver.finish()
    rates = [schedule.learning_rate(made) for made in range(step)]
    history = history_bytes(progress, rates, setup.samples.facts)
    return finish(job, reporter, writer, fingerprint, progress, history)


def build_trainer(spec: JobSpec, setup: TrainingSetup, preemption: Preemption | None = None) -> Trainer:
    """Put the adapter into the decoder and set both up to be trained. Everything is keyed by the seed."""
    train, transformer = spec.train, setup.model.transformer
    adapter = inject(transformer, train.adapter, train.seed)
    if train.gradient_checkpointing:
        recompute_layers(transformer, train.gradient_checkpointing_ratio)
    fabric = setup.machine.fabric()
    log.info("Optimizer %s, learning rate %g, scheduler %s", train.optimizer_type, train.lr, train.scheduler)
    return Trainer(
        fabric=fabric,
        model=fabric.setup_module(transformer),
        adapter=adapter,
        masks=Masks(adapter, train.seed),
        optimizer=build_optimizer(adapter, train),
        samples=setup.samples,
        null_condition=setup.null_condition,
        sampling=sampling_config(spec, setup.model.config, setup.machine.dtype),
        schedule=Schedule.of(train, len(setup.samples)),
        max_grad_norm=train.max_grad_norm,
        preemption=preemption or Preemption(),
    )


def _check_length(numbers: Numbers, schedule: Schedule) -> int:
    """The step that a run goes on after. Raises BadSpecError where the spec asks for fewer than are made."""
    step = numbers.progress.step
    if step > schedule.total_steps:
        raise BadSpecError(
            f"this run has made {counted(step, 'steps')}, and the spec asks for {schedule.total_steps}\n"
            "  ask for more epochs or max_steps, or start again in another output_dir"
        )
    return step


def _log_resume(
    numbers: Numbers, fingerprint: Mapping[str, Any], machine: Mapping[str, Any], schedule: Schedule
) -> None:
    """Say where the run goes on, and what is not as it was: its length, the kind of machine."""
    step = numbers.progress.step
    log.info("Going on after step %d of %d", step, schedule.total_steps)
    if length := length_before(numbers.recipe, fingerprint):
        then = replace(schedule, **length)  # type: ignore[arg-type]  # epochs are never None
        log.warning(
            "The run is extended from %d to %s. Its schedule is stretched, so the learning rate "
            "after step %d is %.3g (it would have been %.3g)",
            *(then.total_steps, counted(schedule.total_steps, "steps"), step),
            *(schedule.learning_rate(step), then.learning_rate(min(step, then.total_steps - 1))),
        )
    if differing := differences(numbers.machine, machine):
        log.warning(
            "This machine is of another kind than the one that began the run (%s): it continues from "
            "exactly the same state, but the last bits of later numbers may differ",
            ", ".join(f"{key}: {said(then)} then, {said(now)} now" for key, (then, now) in differing.items()),
        )


def _log_training(spec: JobSpec, setup: TrainingSetup, law: int) -> None:
    kind = {"lora": "LoRA", "lokr": "LoKR"}[spec.train.adapter.type]
    log.info(
        "Training a %s on %s in %s mode: %s, %s",
        *(kind, setup.model.variant, spec.train.mode),
        *(counted(len(setup.samples), "songs"), counted(spec.train.epochs, "epochs")),
    )
    if warning := doubtful_rate(spec.train.optimizer_type, spec.train.lr):
        log.warning("%s", warning)
    adapter = spec.train.adapter
    if law > 1 and (adapter.type, adapter.dropout) == ("lokr", DROPOUT_IN_OLDER_SPECS):
        log.warning(
            "This LoKR is trained with dropout %g. Older versions wrote that into every job.yaml but trained "
            "a LoKR without dropout, as train.adapter.dropout 0 does now",
            adapter.dropout,
        )
    if setup.model.is_turbo and spec.train.mode == "corrected":
        log.warning(
            "%s was distilled to eight timesteps, but corrected mode also trains between "
            "them; vanilla mode samples only those eight.",
            setup.model.variant,
        )


def report_step(reporter: Reporter, result: StepResult, schedule: Schedule, throughput: Throughput) -> None:
    throughput.add(1)
    rate = throughput.average()
    reporter.update(
        step=result.step,
        steps=schedule.total_steps,
        epoch=result.group.epoch + 1,
        epochs=schedule.epochs,
        loss=result.loss if isfinite(result.loss) else None,
        steps_per_second=round(rate, 4),
        seconds_left=round((schedule.total_steps - result.step) / rate),
    )


def _stopped(job: Job, step: int, steps: int, writer: Writer, saver: Saver) -> AgainError:
    committed = writer.newest.step if writer.newest else 0
    if committed == step:
        saved = "all of it is saved in the output"
    elif saver.saved_step == step:
        saved = f"the output has step {committed}; step {step} waits in the workspace of this machine"
    else:
        saved = f"the output has step {committed}, what came after it is made again"
    lines = [f"stopped after step {step} of {steps}: {saved}", "the same command continues from there"]
    if committed and job.preemption.is_interrupt:  # somebody is there, and may have heard enough
        publish = publish_command(job.spec, job.output_store.place)
        lines.append(f"to use it as it is: `{publish}` makes the adapter of step {committed}")
    return AgainError("\n  ".join(lines))
