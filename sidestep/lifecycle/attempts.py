"""Attempts are facts: `attempts/<n>.json`, of a shard `attempts/<k>-of-<N>-<n>.json`, created by each attempt
before it looks at GPU and model.

Hours and cost of a job are sums over these files, also where an attempt was killed before it could say
anything else. One without an end counts until its last heartbeat. The time before a process runs is not seen.
"""

import logging
import re
import uuid
from collections.abc import Collection, Mapping
from itertools import takewhile

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sidestep.config.job import JobSpec
from sidestep.config.shards import Shard
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.status import Phase, Spent, now
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import (
    BadDataError,
    ExitCode,
    MissingInputError,
    Rerun,
    SideStepError,
    rerun_after,
)
from sidestep.runtime.parsing import Amount, Count, parse_as
from sidestep.runtime.words import counted
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FOLDER = "attempts"


class Attempt(BaseModel):
    """The content of attempts/<n>.json. Times are UTC."""

    model_config = ConfigDict(extra="ignore")

    nonce: str = ""
    at: str = ""  # how far the job was as the attempt began
    began: AwareDatetime = Field(default_factory=lambda: now())
    heartbeat: AwareDatetime = Field(default_factory=lambda: now())
    phase: Phase = "pull"
    gpus: Count = 0
    seconds: dict[str, Amount] = Field(default_factory=dict)  # wall time by phase
    gpu_seconds: Amount = 0
    code: Count | None = None  # None: it has not ended, or could not say so
    earlier: Spent | None = None  # what attempts of an older version had spent, which left no files

    @property
    def was_cut_off(self) -> bool:
        """Whether it ended by notice, or without a word."""
        return self.code in (None, ExitCode.AGAIN)


def attempts_of(store: Store, shard: Shard | None = None) -> dict[int, Attempt]:
    """The attempts that an output tells of, or those at a shard, by number. Of a damaged file no more is
    known than its number."""
    found: dict[int, Attempt] = {}
    for file in store.list_files(FOLDER):
        if name := re.fullmatch(rf"{FOLDER}/{_prefix(shard)}(\d{{1,9}})\.json", file.path, re.ASCII):
            try:
                found[int(name[1])] = parse_as(Attempt, store.read_small(file.path), file.path)
            except (BadDataError, MissingInputError) as error:
                log.warning("%s; it counts as an attempt of unknown length", error)
                found[int(name[1])] = Attempt()
    return dict(sorted(found.items()))


def said_since(store: Store, before: Mapping[int, Attempt], shard: Shard | None) -> dict[int, Attempt]:
    """What attempts that had not ended `before` another one have said since: they may have ended while that
    one waited for them. A shard has no lease, so there they may go on beside it."""
    found: dict[int, Attempt] = {}
    for number, one in before.items():
        if one.code is None:
            try:
                newer = parse_as(Attempt, store.read_small(path_of(number, shard)), path_of(number, shard))
            except (BadDataError, MissingInputError):  # said as they were first read
                continue
            if newer != one:
                found[number] = newer
    return found


def spent_by(attempts: Mapping[int, Attempt], steps_repeated: int, at_it: Collection[int] = ()) -> Spent:
    """What these attempts have cost together; those `at_it` have not been cut off yet."""
    earlier = next((one.earlier for one in attempts.values() if one.earlier), Spent())
    seconds = dict(earlier.seconds)
    for one in attempts.values():
        for phase, own in one.seconds.items():
            seconds[phase] = round(seconds.get(phase, 0) + own, 1)
    return Spent(
        attempts=max(attempts, default=earlier.attempts),
        preemptions=earlier.preemptions
        + sum(one.was_cut_off for number, one in attempts.items() if number not in at_it),
        steps_repeated=steps_repeated,
        seconds=seconds,
        gpu_seconds=round(earlier.gpu_seconds + sum(one.gpu_seconds for one in attempts.values()), 1),
    )


def create_attempt(
    store: Store, number: int, attempt: Attempt, shard: Shard | None = None
) -> tuple[int, Attempt]:
    """Create the file of the first free number from `number` on; that number, and what the file says."""
    attempt = attempt.model_copy(update={"nonce": uuid.uuid4().hex})
    while not store.create(path := path_of(number, shard), content_of(attempt)):
        try:  # the answer to a first try may have been lost
            if parse_as(Attempt, store.read_small(path), path).nonce == attempt.nonce:
                break
        except (BadDataError, MissingInputError):
            pass
        number += 1
    return number, attempt


def path_of(number: int, shard: Shard | None = None) -> str:
    """Where an attempt's file is, relative to the output."""
    return f"{FOLDER}/{_prefix(shard)}{number:06}.json"


def _prefix(shard: Shard | None) -> str:
    return f"{shard.name}-" if shard else ""


def content_of(attempt: Attempt) -> bytes:
    """The file."""
    return json_bytes(attempt.model_dump(mode="json"))


def position(job: Job) -> str:
    """How far a job is, as a text that changes with any progress that another machine would see."""
    newest = job.commits.newest_commit(job.commits.tail())
    parts = [f"record {newest.number if newest else 0}"]
    if job.spec.task in ("preprocess", "pipeline"):
        own = job.shard.folder if job.shard else ""  # what the others make is no progress of this one
        parts.append(counted(len(list(job.tensors.list_files(own))), "files"))
    if job.spec.task in ("estimate", "pipeline"):
        parts.append(counted(len(list(job.output_store.list_files("estimate"))), "files of the estimate"))
    return ", ".join(parts)


def check_attempts(spec: JobSpec, attempts: Mapping[int, Attempt], at: str, place: str) -> None:
    """Raise SideStepError (70) where `runtime.max_attempts` in a row have made no progress.

    Those that ended with a permanent code are left out: only a person who has mended it runs them again.
    """
    counts = [one for one in reversed(list(attempts.values())) if not _was_permanent(one)]
    row = sum(1 for _ in takewhile(lambda one: one.at == at and one.code != ExitCode.DONE, counts))
    most = spec.runtime.max_attempts
    if row >= most and not spec.train.new_attempt:
        raise SideStepError(
            f"{counted(row, 'attempts')} in a row made no progress in {place}: runtime.max_attempts is "
            f"{most}\n  its logs/ and attempts/ may say why; on machines that are soon taken away, a smaller "
            "train.checkpoint.every_minutes helps\n"
            "  with --new-attempt, it is tried again"
        )


def _was_permanent(attempt: Attempt) -> bool:
    return attempt.code is not None and rerun_after(attempt.code) is Rerun.PERMANENT


def bound_reached(spec: JobSpec, spent: Spent) -> str:
    """The bound on hours or cost that a job has reached, as a message; an empty text where it has not."""
    runtime, hours = spec.runtime, sum(spent.seconds.values()) / 3600
    cost = hours * (runtime.price_per_hour or 0)
    if runtime.max_hours is not None and hours >= runtime.max_hours:
        used, setting, most = f"{hours:.3g} hours", "runtime.max_hours", runtime.max_hours
    elif runtime.max_cost is not None and cost >= runtime.max_cost:
        used, setting, most = f"{cost:.3g}", "runtime.max_cost", runtime.max_cost
    else:
        return ""
    return (
        f"{setting} ({most:g}) is reached: all attempts together have used {used}\n"
        f"  with a higher {setting}, the same command goes on from what is saved"
    )
