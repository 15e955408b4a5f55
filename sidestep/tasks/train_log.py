"""What a training says of itself: where it goes on, what it trains, each step, and where it has stopped."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.config.optimizers import doubtful_rate
from sidestep.lifecycle.identity import (
    differences,
    length_before,
    said,
)
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.publish import publish_command
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.saver import Saver
from sidestep.runtime.errors import AgainError
from sidestep.runtime.words import counted
from sidestep.tasks.setup import TrainingSetup
from sidestep.training.loop import StepResult
from sidestep.training.numbers import Numbers
from sidestep.training.schedule import Schedule
from sidestep.training.throughput import Throughput

log = logging.getLogger(__name__)

DROPOUT_IN_OLDER_SPECS = 0.1


def log_resume(
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


def log_training(spec: JobSpec, setup: TrainingSetup, law: int) -> None:
    """Say what is trained on what, and which of its settings are to be doubted."""
    held_out = sum(setup.sides.are_held_out(setup.samples.songs)) if setup.sides else 0
    log.info(
        "Training a %s on %s in %s mode: %s, %s",
        *(spec.train.adapter.title, setup.model.variant, spec.train.mode),
        *(counted(len(setup.samples) - held_out, "songs"), counted(spec.train.epochs, "epochs")),
    )
    if warning := doubtful_rate(spec.train.optimizer_type, spec.train.lr):
        log.warning("%s", warning)
    if law == 1 and spec.train.batch_size > 1:
        log.warning(
            "train.batch_size is %d, but this run was begun by a version that trained one sample at a time, "
            "and its random draws depend on that: it goes on one by one",
            spec.train.batch_size,
        )
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
    """Tell the status how far the run is."""
    throughput.add(1)
    rate = throughput.average()
    reporter.update(
        step=result.step,
        steps=schedule.total_steps,
        epoch=result.group.epoch + 1,
        epochs=schedule.epochs,
        loss=result.loss if isfinite(result.loss) else None,
        learning_rate=result.lr,
        steps_per_second=round(rate, 4),
        seconds_left=round((schedule.total_steps - result.step) / rate),
    )


def stopped(job: Job, step: int, steps: int, writer: Writer, saver: Saver) -> AgainError:
    """What ends a run that notice has stopped after `step`: what is saved of it, and how it goes on."""
    committed = writer.newest.step if writer.newest else 0
    waiting = saver.saved_step
    if committed == step:
        saved = "all of it is saved in the output"
    elif waiting == step:
        saved = f"the output has step {committed}; step {step} waits in the workspace of this machine"
    elif waiting > committed:  # the best: what is behind it is not kept before
        saved = (
            f"the output has step {committed}; step {waiting} waits in the workspace of this machine, and "
            "what came after it is made again"
        )
    else:
        saved = f"the output has step {committed}, what came after it is made again"
    lines = [f"stopped after step {step} of {steps}: {saved}", "the same command continues from there"]
    if committed and job.preemption.is_interrupt:  # somebody is there, and may have heard enough
        publish = publish_command(job.spec, job.output_store.place)
        lines.append(f"to use it as it is: `{publish}` makes the adapter of step {committed}")
    return AgainError("\n  ".join(lines))
