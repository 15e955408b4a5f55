"""A sweep: what its runs share is made once, then each run is trained as a job of its own.

Where the platform gives this process an index, it trains the run of that index; else all, one after the
other. Each run has its own output, and so its own lease, attempts, checkpoints and end.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sidestep.commitlog.lease import Lease
from sidestep.config.index import Numbered, numbered
from sidestep.config.job import JobSpec
from sidestep.config.needs import check_needs
from sidestep.config.sweep import Member, members_of, shared_of
from sidestep.data.unmerged import merge_waiting
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.sweep import alone, in_order, keep_list, read_sweep
from sidestep.lifecycle.sweep_best import publish_best
from sidestep.lifecycle.watching import last_words, tell_of_end
from sidestep.preflight.checks import raise_problems, run_checks
from sidestep.preflight.places import input_checks, output_checks
from sidestep.runtime import liveness
from sidestep.runtime.errors import AgainError, BadSpecError, ExitCode, Rerun, SideStepError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.words import counted, out_of
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from sidestep.lifecycle.finish import TrainResult

log = logging.getLogger(__name__)

RunOne = Callable[[JobSpec], "TrainResult | None"]


def run_sweep(
    spec: JobSpec, preemption: Preemption, run_one: RunOne, environ: Mapping[str, str]
) -> "TrainResult | None":
    """Do the runs of a sweep that are this process's, and publish the best of all that have finished.

    Notice stops the whole. A run that fails does not: the others are done, and the first failure that is
    permanent is told then, else the first one.

    Args:
        run_one: does one task of a spec, as `sidestep.tasks.run` does.
        environ: what the platform says of this process's index.

    Returns:
        What this process's run of the best has made; else the last one. None: there was none.
    """
    try:
        job = Job(spec, preemption)
        store = job.output_store
        members = members_of(spec)
        number = numbered(environ)
        check_needs(spec)
        provide_folders(spec.runtime.workspace)
        raise_problems(run_checks(output_checks(job)))  # first: the list of the runs is there
        mine = _mine(in_order(read_sweep(store), members), number)
        _check(spec, mine, preemption)
    except SideStepError as error:
        tell_of_end(spec, preemption, error)
        raise
    members = keep_list(store, members)
    mine, at = _mine(members, number), {member.folder: n for n, member in enumerate(members, 1)}
    _warn_of_count(number, len(members))
    liveness.begin(job.workspace.root)  # a probe asks while it waits for another run of the sweep, too
    lease = Lease(spec.runtime.lease_seconds)
    if spec.task == "pipeline":
        with alone(store, lease, "making what all of them share"):
            run_one(shared_of(spec, members, "preprocess"))
            run_one(shared_of(spec, members, "estimate"))
    made, failures = _train(mine, at, preemption, run_one, store)
    with alone(store, lease, "publishing the best one"):
        best = publish_best(store, job.workspace, read_sweep(store))
    if failures:
        raise _first(failures, len(mine))
    return made.get(best.folder if best else "") or next(reversed(made.values()), None)


def _mine(members: Sequence[Member[JobSpec]], number: Numbered | None) -> list[Member[JobSpec]]:
    """The runs of this process. Raises BadSpecError where there is none of its index."""
    if number is None:
        return list(members)
    if number.index >= len(members):
        raise BadSpecError(
            f"this is job number {number.index} (from 0 on), and the sweep has {len(members)} runs: 0 to "
            f"{len(members) - 1} are allowed\n  `sidestep render` writes how many there are"
        )
    return [members[number.index]]


def _warn_of_count(number: Numbered | None, runs: int) -> None:
    """Say where the platform has started fewer jobs than there are runs, or more."""
    if number is None or number.count in (None, runs):
        return
    started = f"The platform has started {counted(number.count, 'jobs')} ({number.counted_by})"
    if number.count < runs:
        what = f"these jobs leave out {runs - number.count} of them; start {runs} to train all"
    else:
        what = f"the other jobs find none, and end with 78; start {runs}"
    log.warning("%s, and the sweep has %s: %s", started, counted(runs, "runs"), what)


def _check(spec: JobSpec, members: Sequence[Member[JobSpec]], preemption: Preemption) -> None:
    """Look at all that the runs read, before the first one is begun. Raises what a store raises."""
    if spec.task == "train":
        shards = spec.preprocess.shards
        merge_waiting(Job(spec, preemption).tensors, shards if shards > 1 else None)
    for member in members:
        try:
            raise_problems(run_checks(input_checks(Job(member.whole, preemption))))
        except SideStepError as error:
            raise type(error)(f"{member.name}: {error}") from error


def _train(
    members: Sequence[Member[JobSpec]],
    at: Mapping[str, int],
    preemption: Preemption,
    run_one: RunOne,
    store: Store,
) -> tuple[dict[str, "TrainResult"], dict[str, Exception]]:
    """Train the runs in their order: what they made by folder, and the failures by name.

    `at` is where each stands among all runs of the sweep, from 1 on, by its folder.
    """
    made: dict[str, TrainResult] = {}
    failures: dict[str, Exception] = {}
    for member in members:
        if preemption.requested:
            raise AgainError(f"stopped before {member.name}; run the same command again to go on from there")
        place = f"{store.place}/{member.folder}"
        log.info("Run %d of %d: %s, in %s", at[member.folder], len(at), member.name, place)
        try:
            if result := run_one(member.spec):
                made[member.folder] = result
        except AgainError:
            raise
        except Exception as error:
            log.error("%s has failed (%d): %s", member.name, _code(error), error, exc_info=True)
            failures[f"{member.name} ({member.folder})"] = error
    return made, failures


def _first(failures: Mapping[str, Exception], runs: int) -> SideStepError:
    """The failure that the process ends with: the first permanent one, else the first of all."""
    first = next(
        (error for error in failures.values() if _code(error).rerun is Rerun.PERMANENT),
        next(iter(failures.values())),
    )
    if runs == 1 and isinstance(first, SideStepError):
        return first
    kind = type(first) if isinstance(first, SideStepError) else SideStepError
    lines = [f"{name} ({_code(error):d}): {last_words(error)}" for name, error in failures.items()]
    made = kind("\n  ".join([f"{out_of(len(failures), runs, 'runs')} of the sweep failed:", *lines]))
    made.__cause__ = first
    return made


def _code(error: Exception) -> ExitCode:
    return error.exit_code if isinstance(error, SideStepError) else ExitCode.BUG
