"""`sidestep run`, and the commands that run one of its tasks: preprocess, estimate, train, fixed, vanilla."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job, refuse_many
from sidestep.commands.parser import Parser
from sidestep.config.fields import FieldPath
from sidestep.config.groups import TASKS
from sidestep.config.job import JobSpec
from sidestep.runtime.console import write, write_json
from sidestep.runtime.errors import AgainError, StalledError
from sidestep.runtime.interrupts import Terminated
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.ranks import follower, rank_in

if TYPE_CHECKING:
    from sidestep.platforms.release import RentedMachine
    from sidestep.runtime.preemption import Preemption

log = logging.getLogger(__name__)

# What each of these commands says of the spec; `run` leaves everything to it.
SAYS: dict[str, dict[FieldPath, str]] = {
    "run": {},
    "preprocess": {("task",): "preprocess"},
    "estimate": {("task",): "estimate"},
    "train": {("task",): "train"},
    "fixed": {("task",): "train", ("train", "mode"): "corrected"},
    "vanilla": {("task",): "train", ("train", "mode"): "vanilla"},
}


def add_arguments(parser: Parser) -> None:
    says = SAYS[parser.command]
    tasks = [task for path, task in says.items() if path == ("task",)]
    if ("train", "mode") in says:
        tasks.insert(0, "preprocess")
    add_job_flags(parser, "[flags]", says, about=tasks or TASKS)
    if ("train", "mode") in says:
        parser.add_argument("--preprocess", action="store_true", help="make the tensors instead of training")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the resolved spec, with the origin of each value"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON for scripts: the spec with --dry-run, otherwise what the task made",
    )


def run(call: Call) -> None:
    """Run the task, or with --dry-run print the spec that it would be run with.

    On a rented machine everything is within `RentedMachine`: also a wrong flag or spec gives it back. Once
    the spec is read, the job goes on below a guard.
    """
    says = SAYS[call.parser.command]
    if "--preprocess" in call.words:
        says = {**says, ("task",): "preprocess"}
    if "--dry-run" in call.words:
        _dry_run(call, says)
        return

    from sidestep.platforms.guard import stand_guard
    from sidestep.platforms.notice import SpotNotice
    from sidestep.platforms.release import RentedMachine
    from sidestep.runtime.preemption import Preemption

    with Preemption(is_command=call.is_process) as preemption, RentedMachine(call.words) as machine:
        with _told(call.words, preemption):
            options, spec, origins = read_job(call, says)
            setup_logging(options.verbose, as_json=spec.runtime.log_format == "json")
            if call.parser.command != "run":
                refuse_many(call, spec)
            rank = rank_in(os.environ)
            machine.keep_or_release("none" if rank and rank.number else spec.runtime.on_exit)
        if call.is_process:
            stand_guard(machine, spec.runtime)
        preemption.set_grace(spec.runtime.grace_seconds)

        from sidestep.tasks import run as run_task

        try:
            with SpotNotice("none" if rank and rank.local else spec.runtime.spot_notice, preemption):
                made = run_task(
                    spec,
                    preemption,
                    may_go_back=origins["train.resume_from"].startswith("-"),
                    end_stalled=partial(_end_stalled, machine),
                )
        except AgainError as error:
            if preemption.requested and not preemption.is_interrupt and not call.is_process:
                log.info("%s", error)
                raise Terminated(error.exit_code) from error
            raise
        if options.json and not (rank and rank.number):
            write_json(asdict(made) if made else _made_by(spec))


@contextmanager
def _told(words: Sequence[str], preemption: "Preemption") -> Iterator[None]:
    """Who hears of this job hears as well that it ends before its spec is read, as far as its webhook is
    known then. The error stays as it is, whatever becomes of that. Of several processes, rank 0 tells."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if follower(os.environ):
            raise
        try:
            from sidestep.config.glimpse import glimpse

            if (spec := glimpse(words)).runtime.webhook:
                from sidestep.lifecycle.watching import tell_of_end

                tell_of_end(spec, preemption, error)
        except Exception as trouble:  # noqa: BLE001 - what ends the job is told, not this
            log.warning("Nobody could be told that the job has ended: %s", trouble)
        raise


def _end_stalled(machine: "RentedMachine", error: StalledError) -> None:
    """The main thread hangs, so nothing but this ends the process and, without a guard, gives its machine
    back."""
    machine.release()
    logging.shutdown()
    os._exit(error.exit_code)


def _made_by(spec: JobSpec) -> dict[str, Any]:
    """What a task other than training has made, for scripts: the ranking, or what the tensors are of."""
    if spec.task == "estimate":
        from sidestep.tasks.estimate import report

        return report(spec)
    from sidestep.config.shards import shard_of
    from sidestep.data.survey import read_survey
    from sidestep.lifecycle.job import Job

    job = Job(spec, shard=shard_of(spec, os.environ))
    survey = read_survey(job.beside_tensors)
    return {"tensors": job.tensors.place, "dataset": survey.model_dump(mode="json") if survey else None}


def _dry_run(call: Call, says: dict[FieldPath, str]) -> None:
    from sidestep.config.resolved import as_json, as_yaml

    options, spec, origins = read_job(call, says)
    write(as_json(spec, origins) if options.json else as_yaml(spec, origins), exactly=True)
