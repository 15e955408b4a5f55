"""The moments at which an attempt kills or stops itself: before or after the n-th call of a function.

The product knows nothing of it: its functions are wrapped in the process that is to die.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Point:
    functions: str | tuple[str, ...]  # "module:Class.method", of which each call counts
    after: bool = False  # the call, else before it
    only: Callable[..., bool] = lambda *arguments: True  # the calls that count
    most: int = 1  # how often it is called in a short run, about


def _is(kind: str) -> Callable[..., bool]:
    return lambda log, record: record.kind == kind


def _below(*folders: str) -> Callable[..., bool]:
    return lambda store, *arguments: any(str(word).startswith(folders) for word in arguments)


def _ends(ending: str) -> Callable[..., bool]:
    return lambda store, path, *arguments: path.endswith(ending)


def _within(folder: str) -> Callable[..., bool]:
    return lambda path: f"/{folder}/" in str(path)


_CREATED = "sidestep.commitlog.writer:_created"
_UPLOAD, _WRITE, _DELETE, _LIST = (
    (f"sidestep.storage.s3:S3Store.{name}", f"sidestep.storage.local:LocalStore.{name}")
    for name in ("upload", "write_bytes", "delete", "list_files")
)

JUDGED = {
    "validating": Point("sidestep.training.validation:Validator.validation", most=5),
    "validated": Point("sidestep.training.validation:Validator.validation", after=True, most=5),
    "ending": Point("sidestep.commitlog.writer:Writer.finish"),
}
"""Of a run that judges itself, besides `POINTS`."""

POINTS = {
    "reading the spec": Point("sidestep.config.job:from_environment"),
    "before preflight": Point("sidestep.preflight.places:check_places"),
    "after preflight": Point("sidestep.preflight.places:check_places", after=True),
    "reading the log": Point("sidestep.commitlog.log:CommitLog.tail", after=True, most=4),
    "watching": Point("sidestep.commitlog.lease:Watch.wait"),
    "fetching": Point("sidestep.commitlog.log:CommitLog.fetch", after=True),
    "taking over": Point(_CREATED, only=_is("take-over")),
    "taken over": Point(_CREATED, after=True, only=_is("take-over")),
    "first words": Point(_WRITE, after=True, only=_ends("status.json")),
    "told": Point("sidestep.tasks.train:report_step", after=True, most=6),
    "snapshot": Point("sidestep.training.snapshot:Snapshot.take", most=6),
    "outbox": Point("sidestep.lifecycle.pending:PendingCheckpoints.put", after=True, most=6),
    "hashing": Point("sidestep.commitlog.writer:file_digest", most=20),
    "within an upload": Point("s3transfer.utils:ReadFileChunk.read", most=60),
    "within a copy": Point("sidestep.runtime.atomic:sync", only=_within("checkpoints"), most=40),
    "between uploads": Point(_UPLOAD, after=True, only=_below("checkpoints/"), most=20),
    "events": Point(_UPLOAD, after=True, only=_below("runs/"), most=6),
    "before the record": Point(_CREATED, only=_is("commit"), most=6),
    "after the record": Point(_CREATED, after=True, only=_is("commit"), most=6),
    "cleaning up": Point("sidestep.commitlog.writer:Writer._delete_all_but", most=6),
    "listing": Point(_LIST, after=True, only=_below("checkpoints"), most=6),
    "retention": Point(_DELETE, only=_below("checkpoints/"), most=12),
    "within retention": Point(_DELETE, after=True, only=_below("checkpoints/"), most=12),
    "before done": Point(_CREATED, only=_is("done")),
    "after done": Point(_CREATED, after=True, only=_is("done")),
    "publishing": Point(_UPLOAD, only=_below("adapter/"), most=2),
    "published": Point(_UPLOAD, after=True, only=_below("adapter/"), most=2),
    "receipt": Point(_WRITE, only=_ends("receipt.json")),
    "releasing": Point("sidestep.commitlog.lease:Heartbeat.release"),
}
PREPROCESS = {
    "before tensors": Point(_WRITE, only=_ends(".pt"), most=3),
    "after tensors": Point(_WRITE, after=True, only=_ends(".pt"), most=3),
    "index": Point(_WRITE, only=_ends("index.json")),
    "encoded": Point("sidestep.data.unfinished:Unfinished.write", after=True, most=6),
}

OF_ANY_RANK = {
    "meeting": Point("sidestep.training.meeting:meet", after=True, most=2),
    "met": Point("sidestep.training.team:met"),
    "setting up": Point("sidestep.tasks.prepared:prepare", after=True),
    "a step": Point("sidestep.training.loop:Trainer.step", most=6),
    "computed": Point("sidestep.training.loop:Trainer.losses", after=True, most=6),
    "exchanging": Point("sidestep.training.team:Processes.exchange", most=6),
    "exchanged": Point("sidestep.training.team:Processes.exchange", after=True, most=6),
    "all parts": Point("sidestep.training.team:Processes.joined", after=True, most=14),
    "leaving": Point("sidestep.training.team:Processes.leave"),
    "left": Point("sidestep.training.team:Processes.leave", after=True),
}
"""Of one of several processes, whichever it is."""


def signal_at(point: Point, number: int, what: int) -> None:
    """From now on, this process gets the signal `what` at the call `number`, from 1, that counts."""
    calls = itertools.count(1)

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            is_the_one = point.only(*arguments) and next(calls) == number
            if is_the_one and not point.after:
                os.kill(os.getpid(), what)
            found = original(*arguments, **options)
            if is_the_one and point.after:
                os.kill(os.getpid(), what)
            return found

        return wrapped

    for function in (point.functions,) if isinstance(point.functions, str) else point.functions:
        wrap(function, around)


def wrap(function: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `around(original)` where the function "module:Class.method" is."""
    module, _, path = function.partition(":")
    owner: Any = import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    setattr(owner, name, around(getattr(owner, name)))
