"""What a sweep's output holds beside its runs: `sweep.json`, the list of them, and who may work on the whole.

<output_dir>/sweep.json       the runs in their order, each with its folder and values; only grows
<output_dir>/<folder>/        a run, as any output is
<output_dir>/sweep/           the lease of whoever makes what the runs share, or publishes the best
<output_dir>/adapter/         the best one's, and best.json, which names it
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from sidestep.commitlog.lease import Lease, Watch
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.job import JobSpec
from sidestep.config.sweep import DIGITS, Member, called, folder_of
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError, StorageError, TakenError, UsageError
from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.parsing import parse_as
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FILE = "sweep.json"
LEASE = "sweep"
_TRIES = 10
_SHOWN = 10  # runs in a message

Folder = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{DIGITS}}}$")]
"""Of a run, below the sweep's output."""

ANEW = (
    "restore it from a copy; or move it away, and `sidestep run` of the sweep writes it anew, in its spec's "
    "order: nothing is trained twice, and runs with values that the spec has no more are not listed then, "
    "but stay in their folders"
)


class Entry(BaseModel):
    """One run of a sweep: its folder, and the values of the swept settings by name, in plain values."""

    folder: Folder
    values: dict[str, Any]

    @model_validator(mode="after")
    def _is_its_folder(self) -> Self:
        if folder_of(self.values) != self.folder:
            raise ValueError(f"{self.folder} is not the folder of the run with these values")
        return self

    @property
    def name(self) -> str:
        """What people know it by."""
        return called(self.values)


class Listed(BaseModel):
    """The content of sweep.json."""

    format: Literal[1] = 1
    runs: Annotated[list[Entry], Field(min_length=1)]

    @field_validator("runs")
    @classmethod
    def _are_others(cls, runs: list[Entry]) -> list[Entry]:
        twice = [folder for folder, count in Counter(run.folder for run in runs).items() if count > 1]
        if twice:
            raise ValueError(f"has the same run twice: {', '.join(twice)}")
        return runs


def read_sweep(store: Store) -> list[Entry]:
    """The runs of the sweep in `store`, in their order; none where no sweep has begun there.

    Raises BadDataError where sweep.json is damaged.
    """
    try:
        data = store.read_small(FILE)
    except MissingInputError:
        return []
    try:
        return parse_as(Listed, data, f"{store.place}/{FILE}").runs
    except BadDataError as error:
        raise BadDataError(f"{error}\n  {ANEW}") from error


def refuse_sweep(store: Store, command: str) -> None:
    """Raise UsageError where a whole sweep is in `store`: `command` takes one of its runs."""
    runs = read_sweep(store)
    if runs:
        shown = [f"  {store.place}/{run.folder}  {run.name}" for run in runs[:_SHOWN]]
        more = [f"  and {len(runs) - _SHOWN} more: see `sidestep status`"] if len(runs) > _SHOWN else []
        lines = [f"{store.place} is a sweep's output, and {command} takes that of one run:", *shown, *more]
        raise UsageError("\n".join(lines))


def grown(known: Sequence[Entry], members: Sequence[Member[JobSpec]]) -> list[Entry]:
    """The list with those of `members` at its end that it lacks: each run keeps its place for good."""
    there = {entry.folder for entry in known}
    new = [Entry(folder=one.folder, values=dict(one.values)) for one in members if one.folder not in there]
    return [*known, *new]


def in_order(known: Sequence[Entry], members: Sequence[Member[JobSpec]]) -> list[Member[JobSpec]]:
    """The members as they stand in the list, new ones last: so an index means the same run for good, unless
    a value is taken out of the sweep."""
    by_folder = {member.folder: member for member in members}
    return [by_folder[entry.folder] for entry in grown(known, members) if entry.folder in by_folder]


def keep_list(store: Store, members: Sequence[Member[JobSpec]]) -> list[Member[JobSpec]]:
    """Write those of `members` into sweep.json that it lacks, and return all of them in its order.

    Many processes of one spec may do so at once: they all add the same, in the same order. Where two specs
    add to one sweep at the same moment, the list is read back, and what the other one has dropped is added.
    Runs are told apart by their folders, so a list that is behind costs no run anything.

    Raises StorageError where the list does not stay as it is written.
    """
    for _ in range(_TRIES):
        known = read_sweep(store)
        wanted = grown(known, members)
        if wanted == known:
            return in_order(known, members)
        data = json_bytes(Listed(runs=wanted).model_dump(mode="json"))
        if known:
            store.write_bytes(FILE, data)
        else:
            store.create(FILE, data)
    raise StorageError(f"{store.place}/{FILE} is changed again and again: is another sweep there?")


@contextmanager
def alone(store: Store, lease: Lease, doing: str) -> Iterator[None]:
    """Inside, no other process of the sweep in `store` does what is done for the whole of it.

    Whoever comes second waits until the first has ended, or has shown no life for as long as the lease is;
    `doing` says what for.
    """
    with _writer(CommitLog(store.child(LEASE)), lease, doing):
        yield


def _writer(commits: CommitLog, lease: Lease, doing: str) -> Writer:
    is_told = False
    lease = replace(lease, waits_as=f"Another run of this sweep is {doing}, or was cut off there")
    while True:
        tail = commits.tail()
        watch = Watch(commits.store, tail.generation, lease, is_told=is_told) if tail else None
        try:
            return take_over(commits, lease, watch, machine=None)
        except TakenError:  # alive: it has given a sign just now
            if not is_told:
                log.info("Another run of this sweep is %s: waiting until that is done", doing)
            is_told = True
            sign_of_life()
            lease.sleep(lease.beat_seconds)
