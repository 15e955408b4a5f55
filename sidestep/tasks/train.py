"""The train task: tensors and a base model in, an adapter out."""

import logging
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from sidestep import adapters
from sidestep.acestep.recompute import recompute_layers
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.data.preview import read_preview
from sidestep.lifecycle.events import FOLDER as RUNS
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.finish import TrainResult, finish, finished_before
from sidestep.lifecycle.identity import LENGTH, recipe_of, refuse_another_run
from sidestep.lifecycle.job import Attempt
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.lifecycle.resume import Start, find_start, refuse_hopeless
from sidestep.lifecycle.saver import CheckpointPolicy, Saver
from sidestep.runtime.errors import AgainError, BadSpecError
from sidestep.runtime.preemption import Preemption
from sidestep.storage.open import open_store
from sidestep.tasks.setup import TrainingSetup, prepare_setup, sampling_config
from sidestep.training.checkpoint import restore
from sidestep.training.history import history_bytes
from sidestep.training.loop import StepResult, Trainer
from sidestep.training.metrics import Metrics
from sidestep.training.numbers import Numbers, Progress
from sidestep.training.optimizer import build_optimizer, check_optimizer
from sidestep.training.schedule import Schedule
from sidestep.training.snapshot import Snapshot
from sidestep.training.throughput import Throughput

log = logging.getLogger(__name__)


def train(attempt: Attempt) -> TrainResult:
    """Train an adapter as the spec says, or go on where an earlier attempt stopped, and publish it.

    Raises MissingInputError or BadDataError for tensors or weights that are not there or not sound,
    BadSpecError where the output was begun with other settings, MachineError for a missing GPU or package,
    AgainError where notice came or another run has taken over, StorageError where the last checkpoint could
    not be sent.
    """
    spec, commits, workspace = attempt.spec, attempt.commits, attempt.workspace
    recipe = recipe_of(spec)
    tail = attempt.tail
    if tail and tail.kind == "done" and (result := finished_before(attempt, tail, recipe)):
        return result

    refuse_hopeless(commits, tail, spec.train.new_attempt)
    check_optimizer(spec.train)
    outbox = PendingCheckpoints(workspace, attempt.output.store.place)
    with workspace.temporary() as temporary:
        start = find_start(spec, commits, tail, outbox, workspace, Path(temporary))
        numbers = start.numbers()
        where = str(spec.train.resume_from) if start.origin else attempt.output.store.place
        refuse_another_run(spec, numbers, recipe, where)
        attempt.begin("pull")
        ground = prepare_setup(spec, workspace, numbers.machine if numbers else None)
        recipe["weights"] = ground.weights
        refuse_another_run(spec, numbers, recipe, where)
        trainer = build_trainer(spec, ground, attempt.preemption)
        with take_over(commits, attempt.lease, attempt.watch, ground.machine.kind()) as writer:
            attempt.became_writer(writer.generation)
            if writer.newest != start.newest:  # the writer before had still added to the log
                start = find_start(spec, commits, commits.tail(), outbox, workspace, Path(temporary))
                refuse_another_run(spec, start.numbers(), recipe, where)
            with attempt.preemption.deferred():
                result = _train(attempt, ground, trainer, writer, outbox, start, recipe)
    log.info("Loss on fixed draws: %.4f at the start, %.4f at the end", result.first_loss, result.last_loss)
    log.info("Adapter: %s", result.adapter)
    return result


def _train(
    attempt: Attempt,
    ground: TrainingSetup,
    trainer: Trainer,
    writer: Writer,
    outbox: PendingCheckpoints,
    start: Start,
    recipe: dict[str, Any],
) -> TrainResult:
    """Train from `start` to the end, with checkpoints, and publish: all that one writer does."""
    spec, output, schedule = attempt.spec, attempt.output, trainer.schedule
    attempt.gpus = int(ground.machine.device.type == "cuda")
    attempt.speak()
    attempt.begin("train")
    numbers = start.numbers()
    progress = restore(start.folder, trainer.adapter, trainer.optimizer) if start.folder else Progress()
    if numbers:
        _say_where_it_goes_on(attempt, numbers, ground, schedule)
    _say_what_is_trained(spec, ground)
    output.keep_spec(spec)
    snapshot = Snapshot(
        trainer.adapter, trainer.optimizer, lambda adapter: build_optimizer(adapter, spec.train)
    )
    timetable = CheckpointPolicy(spec.train.checkpoint, schedule)
    events = EventsToSend(output, newest=writer.newest.step if writer.newest else 0, now=progress.step)

    log_every, log_heavy_every = spec.train.log_every, spec.train.log_heavy_every
    with Metrics(output.path(RUNS), trainer, progress, log_every, log_heavy_every) as metrics:
        if writer.newest is None:
            settings = dump_yaml(spec.model_dump(mode="json")).decode()
            metrics.describe(settings, recipe, read_preview(open_store(spec.tensors_place, spec.storage)))
        machine = numbers.machine if numbers else ground.machine.kind()
        saver = Saver(
            writer,
            outbox,
            snapshot,
            files=lambda: snapshot.files(recipe, machine),
            send_before=events.send,
            keep=timetable.keep,
            committed=attempt.committed,
            failed=lambda why: attempt.report(message=why),
            origin=start.origin,
        )
        if start.unsent:
            saver.send(start.unsent.folder, start.unsent.name, start.unsent.step)
        throughput = Throughput()

        for result in trainer.steps(progress):
            metrics.log_step(result)
            saver.check()
            _report(attempt, result, schedule, throughput)
            if name := timetable.due(progress, result.group):
                events.add(metrics.rotate(progress.step + 1))
                saver.save(name, progress, attempt.preemption)
                timetable.saved()
        if progress.step < schedule.total_steps:
            events.add(metrics.rotate(progress.step + 1))
            saver.save_in_time(f"checkpoint-step-{progress.step}", progress, attempt.preemption)
            raise _stopped(progress.step, schedule.total_steps, writer, saver)
        saver.finish(attempt.preemption)
    rates = [schedule.learning_rate(step) for step in range(progress.step)]
    return finish(attempt, writer, progress, recipe, history_bytes(progress, rates, ground.samples.facts))


def build_trainer(spec: JobSpec, ground: TrainingSetup, preemption: Preemption | None = None) -> Trainer:
    """Put the adapter into the decoder and set both up to be trained. Everything is keyed by the seed."""
    train, transformer = spec.train, ground.model.transformer
    adapter = adapters.inject(transformer, train.adapter, train.seed)
    if train.gradient_checkpointing:
        recompute_layers(transformer, train.gradient_checkpointing_ratio)
    fabric = ground.machine.fabric()
    log.info("Optimizer %s, learning rate %g, scheduler %s", train.optimizer_type, train.lr, train.scheduler)
    return Trainer(
        fabric=fabric,
        model=fabric.setup_module(transformer),
        adapter=adapter,
        optimizer=build_optimizer(adapter, train),
        samples=ground.samples,
        null_condition=ground.null_condition,
        sampling=sampling_config(spec, ground.model.config),
        schedule=Schedule.of(train, len(ground.samples)),
        max_grad_norm=train.max_grad_norm,
        preemption=preemption or Preemption(),
    )


def _say_where_it_goes_on(
    attempt: Attempt, numbers: Numbers, ground: TrainingSetup, schedule: Schedule
) -> None:
    step, before = numbers.progress.step, numbers.recipe
    if step > schedule.total_steps:
        raise BadSpecError(
            f"this run has made {step} steps, and the spec asks for {schedule.total_steps}\n"
            "  name more epochs or max_steps, or begin anew in another output_dir"
        )
    attempt.resumed_at(step)
    log.info("Going on after step %d of %d", step, schedule.total_steps)
    if any(before[key] != getattr(attempt.spec.train, key.removeprefix("train.")) for key in LENGTH):
        then = replace(schedule, epochs=before["train.epochs"], max_steps=before["train.max_steps"])
        log.warning(
            "The run is extended from %d to %d steps: its schedule is restated, and the learning rate "
            "after step %d is %.3g (it was to be %.3g)",
            *(then.total_steps, schedule.total_steps, step),
            *(schedule.learning_rate(step), then.learning_rate(min(step, then.total_steps - 1))),
        )
    now = ground.machine.kind()
    if differing := sorted(key for key in now if now[key] != numbers.machine.get(key)):
        log.warning(
            "This machine is of another kind than the one that began the run (%s): the state is continued "
            "exactly, bit equality is not claimed",
            ", ".join(f"{key}: {numbers.machine.get(key)} then, {now[key]} now" for key in differing),
        )


def _say_what_is_trained(spec: JobSpec, ground: TrainingSetup) -> None:
    songs = len(ground.samples)
    kind = {"lora": "LoRA", "lokr": "LoKR"}[spec.train.adapter.type]
    log.info(
        "Training a %s on %s in %s mode: %d song%s, %d epochs",
        *(kind, ground.model.variant, spec.train.mode, songs, "s" * (songs != 1), spec.train.epochs),
    )
    if ground.model.is_turbo and spec.train.mode == "corrected":
        log.warning(
            "%s is distilled at eight timesteps, and corrected mode trains at logit-normal ones between "
            "them: vanilla mode samples just those eight.",
            ground.model.variant,
        )


def _report(attempt: Attempt, result: StepResult, schedule: Schedule, throughput: Throughput) -> None:
    throughput.add(1)
    rate = throughput.average()
    attempt.report(
        step=result.step,
        steps=schedule.total_steps,
        epoch=result.group.epoch + 1,
        epochs=schedule.epochs,
        loss=result.loss if isfinite(result.loss) else None,
        steps_per_second=round(rate, 4),
        seconds_left=round((schedule.total_steps - result.step) / rate),
    )


def _stopped(step: int, steps: int, writer: Writer, saver: Saver) -> AgainError:
    committed = writer.newest.step if writer.newest else 0
    if committed == step:
        saved = "all of it is saved in the output"
    elif saver.saved_step == step:
        saved = f"the output has step {committed}; step {step} waits in the workspace of this machine"
    else:
        saved = f"the output has step {committed}, what came after it is made again"
    return AgainError(f"stopped after step {step} of {steps}: {saved}\n  the same command goes on from there")
