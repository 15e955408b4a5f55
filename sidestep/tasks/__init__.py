"""The tasks a job can have: preprocess, estimate, train, and the three in a row as a pipeline."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from sidestep.config.job import JobSpec
from sidestep.config.needs import check_needs
from sidestep.config.processes import said_of_idle
from sidestep.config.resolved import digest
from sidestep.config.shards import shard_of
from sidestep.config.sweep import members_of, shared_of
from sidestep.runtime.display import Wanted, shower
from sidestep.runtime.environment import tidy_environment
from sidestep.runtime.errors import AgainError, BadSpecError, SideStepError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import guest_logging
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.progress import shown_by
from sidestep.runtime.ranks import Rank, rank_in
from sidestep.runtime.secrets import hide_in
from sidestep.runtime.versions import log_versions
from sidestep.runtime.words import first_line

if TYPE_CHECKING:
    from sidestep.lifecycle.finish import TrainResult
    from sidestep.lifecycle.job import Job
    from sidestep.lifecycle.reporter import Reporter
    from sidestep.lifecycle.watchdog import End
    from sidestep.lifecycle.watching import Watching
    from sidestep.training.team import Processes

log = logging.getLogger(__name__)


def run(
    spec: JobSpec,
    preemption: Preemption | None = None,
    *,
    progress: Wanted = "auto",
    may_go_back: bool = False,
    end_stalled: "End | None" = None,
) -> "TrainResult | None":
    """Do what `spec.task` says. Training returns what it made, the other tasks return nothing.

    A spec with a `sweep` stands for many runs, see `tasks.sweep`; tasks other than training make what they
    share.

    Where RANK and WORLD_SIZE say so, this is one of several processes that train together. Rank 0 does all
    that is said here; the others make steps with it, and return nothing.

    SIGTERM and Ctrl-C are taken as notice that the machine will go (see `Preemption`), unless the caller has
    taken them already. The run's log is written into its output; a program's own logging stays as it is.

    Args:
        progress: how far it is. "auto": a bar on a terminal, one display in a notebook, nothing elsewhere;
            True: there too, as a line now and then on standard error; False: nothing; a function: called with
            a `Progress` twice a second at most, from any thread.
        may_go_back: whether resume_from may name an older checkpoint of this output, as when it was typed.
        end_stalled: ends the process where nothing has advanced for `runtime.stall_minutes`; None: nobody
            watches, as the process is a host's.

    Raises:
        SideStepError: something is wrong, and the message is for the user; AgainError after SIGTERM.
        KeyboardInterrupt: after Ctrl-C, once all is saved.
    """
    from sidestep.lifecycle.job import Job
    from sidestep.lifecycle.trackers import check_trackers
    from sidestep.lifecycle.watching import Watching

    with (
        guest_logging() as is_guest,
        shown_by(shower(progress)),
        nullcontext(preemption) if preemption else Preemption() as noted,
    ):
        if is_guest:
            log_versions("sidestep.run")
            log.debug("The resolved spec's digest is %s", digest(spec))
        noted.set_grace(spec.runtime.grace_seconds)
        whole = spec
        try:
            if spec.is_sweep:
                _refuse_ranks(rank_in(os.environ))
                return _sweep(spec, noted, progress, end_stalled)
            if spec.sweep:
                spec = shared_of(spec, members_of(spec), spec.task)
            if rank := rank_in(os.environ):
                return _run_as(rank, spec, noted, may_go_back, end_stalled)
            if spec.task == "train" and spec.runtime.gpus * spec.runtime.nodes > 1:
                log.warning(
                    "The spec asks for %d GPUs on each of %d machines, but one process trains here: "
                    "`sidestep launch train` starts one for each GPU",
                    *(spec.runtime.gpus, spec.runtime.nodes),
                )
            with Watching(spec, noted) as watching:
                shard = shard_of(whole, os.environ)
                check_needs(spec)
                check_trackers(spec)
                tidy_environment(os.environ)
                return _run(Job(spec, noted, may_go_back, shard), watching, end_stalled)
        except AgainError as error:
            if preemption is None and noted.is_interrupt:
                raise KeyboardInterrupt(str(error)) from error
            raise
        except Exception as error:
            hide_in(error)  # Python shows it, and the libraries' errors behind it
            if is_guest:
                log.debug("The run ended with an error", exc_info=True)
            raise


def _refuse_ranks(rank: Rank | None) -> None:
    """Raise BadSpecError where a sweep is given to several processes: they meet for one training alone."""
    if rank:
        raise BadSpecError(
            f"sweep: RANK and WORLD_SIZE say that this is one of {rank.count} processes, which train one "
            "adapter together, and the spec stands for many\n"
            "  `sidestep run` without `launch` trains them all, each in one process; --sweep '{}' trains "
            "the spec without its sweep"
        )


def _sweep(
    spec: JobSpec, noted: Preemption, progress: Wanted, end_stalled: "End | None"
) -> "TrainResult | None":
    """Each run is a job as any other, under the same notice."""
    from sidestep.tasks.sweep import run_sweep

    def run_one(one: JobSpec) -> "TrainResult | None":
        return run(one, noted, progress=progress, end_stalled=end_stalled)

    tidy_environment(os.environ)
    return run_sweep(spec, noted, run_one, os.environ)


def _run_as(
    rank: Rank, spec: JobSpec, preemption: Preemption, may_go_back: bool, end_stalled: "End | None"
) -> "TrainResult | None":
    """One of several processes. They meet before all else, so that each hears of whatever ends another."""
    if spec.task != "train":
        raise BadSpecError(
            f"RANK and WORLD_SIZE say that this is one of {rank.count} processes, but only training is done "
            f"by several, and the task is {spec.task}\n"
            "  make preprocessing and training jobs of their own, and launch only the training"
        )
    if spec.runtime.device not in ("auto", "cpu", "cuda"):
        raise BadSpecError(
            f"runtime.device is {spec.runtime.device}, which {rank.count} processes cannot share\n"
            "  set it to auto: each takes a GPU of its own"
        )
    check_needs(spec)
    tidy_environment(os.environ)
    if rank.number == 0 and (idle := said_of_idle(spec.train, rank.count)):
        log.warning("%s", idle)

    from sidestep.lifecycle.job import Job
    from sidestep.lifecycle.trackers import check_trackers
    from sidestep.lifecycle.watching import Watching
    from sidestep.tasks.limits import limits_explained
    from sidestep.training.team import met

    with met(rank, preemption) as team:
        if rank.number:
            from sidestep.tasks.follow import follow
            from sidestep.training.machine import of_local_rank

            import_diffusers()
            runtime = of_local_rank(spec.runtime, rank.local)
            with _notice_told(preemption), limits_explained(spec, "train"):
                follow(Job(spec.model_copy(update={"runtime": runtime}), preemption, may_go_back), team)
            return None
        with Watching(spec, preemption) as watching:
            check_trackers(spec)
            return _run(Job(spec, preemption, may_go_back), watching, end_stalled, team)


@contextmanager
def _bound_told(reporter: "Reporter") -> Iterator[None]:
    """A job that was ended as its hours or its money are used up says so, with 70."""
    try:
        yield
    except (AgainError, KeyboardInterrupt) as error:
        if reporter.bound:
            raise SideStepError(reporter.bound) from error
        raise


@contextmanager
def _notice_told(preemption: Preemption) -> Iterator[None]:
    """What fails after notice fails of that, as the programs that a library has started are signalled, too:
    then the error is no bug, and the same command goes on.

    Raises AgainError in its place.
    """
    try:
        yield
    except SideStepError:
        raise
    except Exception as error:
        if not preemption.requested:
            raise
        raise AgainError(
            f"ended after notice, by {type(error).__name__}: {first_line(error)}\n"
            "  the same command continues from the newest checkpoint"
        ) from error


def _run(
    job: "Job", watching: "Watching", end_stalled: "End | None", team: "Processes | None" = None
) -> "TrainResult | None":
    """Each task is imported where its turn comes: a spec and its places are checked, and a run is known to be
    finished, before torch is loaded."""
    from sidestep.data.unmerged import merge_waiting
    from sidestep.lifecycle.finish import finished_before
    from sidestep.lifecycle.reporter import Reporter
    from sidestep.lifecycle.watchdog import Watchdog
    from sidestep.preflight.places import check_places
    from sidestep.tasks.limits import limits_explained

    spec = job.spec
    bounds = spec.runtime.stall_minutes, spec.runtime.first_step_minutes
    provide_folders(spec.runtime.workspace)
    if spec.task in ("estimate", "train"):
        merge_waiting(job.tensors, spec.preprocess.shards if spec.preprocess.shards > 1 else None)
    check_places(job)
    with (
        Reporter(job, watching=watching) as reporter,
        Watchdog(reporter, *bounds, end_stalled) if end_stalled else nullcontext(),
        _bound_told(reporter),
        _notice_told(job.preemption),
    ):
        if spec.task == "pipeline":
            job.output.keep_first_spec(spec)  # an attempt that ends before it trains can be continued by it
        if spec.task in ("preprocess", "pipeline"):
            from sidestep.tasks.preprocess import preprocess

            with limits_explained(spec, "preprocess"):
                preprocess(job, reporter)
        if spec.task in ("estimate", "pipeline"):
            from sidestep.tasks.estimate import estimate

            with limits_explained(spec, "estimate"):
                estimate(job, reporter)
        if spec.task in ("train", "pipeline"):
            with limits_explained(spec, "train"):
                if result := finished_before(job, reporter):
                    if team:
                        team.say_over()
                    return result
                import_diffusers()
                from sidestep.tasks.train import train

                return train(job, reporter, team)
    return None
