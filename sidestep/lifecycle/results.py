"""What a finished run leaves to be read: its spec, history, loss curve, receipt and report.

All of it is made from what the commit log keeps: the losses are in the last checkpoint, the songs' names in
their tensors. `made.json` holds the sha256 of each file as it was made, so that damage is found, down to a
bit in a picture, and mended when the run is asked for again.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sidestep.commitlog.log import Record
from sidestep.config.yaml12 import parse_yaml
from sidestep.data.shares import shares_in
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.output import SPEC
from sidestep.lifecycle.publish import commit_of, refuse_if_older
from sidestep.lifecycle.receipt import FILE as RECEIPT
from sidestep.lifecycle.receipt import receipt_bytes
from sidestep.lifecycle.status import Spent
from sidestep.report.contents import History, Receipt
from sidestep.report.curve import FILE as CURVE
from sidestep.report.curve import loss_curve
from sidestep.report.page import FILE as REPORT
from sidestep.report.page import write_report
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.runtime.parsing import Count, parse_as
from sidestep.storage.store import Store
from sidestep.training.history import FILE as HISTORY
from sidestep.training.numbers import TENSORS_FILE, Numbers, Progress

log = logging.getLogger(__name__)

FILE = "made.json"
FILES = (SPEC, HISTORY, CURVE, RECEIPT, REPORT)


class _Made(BaseModel):
    """The content of made.json."""

    record: Count  # the number of the run's last record: an extended run has another one
    files: dict[str, str]  # name → sha256


def note_made(store: Store, done: Record) -> None:
    """Write made.json, the last file of a run."""
    files = {name: data for name in FILES if (data := _content(store, name)) is not None}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    store.write_bytes(FILE, json_bytes(_Made(record=done.number, files=digests).model_dump()))


def damaged(store: Store, done: Record) -> set[str]:
    """Those of FILES that are gone, or not as they were made.

    Where made.json says nothing, as in an output of an older version, those count that cannot be read.
    """
    made = _made(store, done)
    bad = set()
    for name in FILES:
        data = _content(store, name)
        if data is None or not (
            made[name] == hashlib.sha256(data).hexdigest() if name in made else _is_readable(name, data)
        ):
            bad.add(name)
    return bad


def mend(
    job: Job, done: Record, newest: Record, numbers: Numbers, spent: Spent, wanted: Collection[str]
) -> None:
    """Make the files that are `wanted` again, and what tells of them; say so where one cannot be.

    Raises TakenError where the run has gone on since the record `newest`.
    """
    store, spec, wanted = job.output_store, job.spec, set(wanted)
    if not wanted and _made(store, done):
        return

    def put(name: str, data: bytes) -> None:
        refuse_if_older(job.commits, newest)
        store.write_bytes(name, data)

    if wanted & {HISTORY, CURVE}:
        try:
            progress = replace(numbers.progress, losses=_losses(job, done))
            if CURVE in wanted:
                put(CURVE, loss_curve(progress.losses, progress.evaluations, spec.name))
            if HISTORY in wanted:
                put(HISTORY, _history(job, replace(numbers, progress=progress)))
        except (BadDataError, MissingInputError) as error:
            log.warning("%s cannot be made again: %s", " and ".join(sorted(wanted & {HISTORY, CURVE})), error)
    if SPEC in wanted:
        refuse_if_older(job.commits, newest)
        job.output.keep_spec(spec)
    if RECEIPT in wanted:
        put(RECEIPT, receipt_of(job, done, numbers.recipe, numbers.progress, spent))
    if wanted & {HISTORY, RECEIPT, REPORT}:
        refuse_if_older(job.commits, newest)
        write_report(store, spec, job.tensors)
    if wanted:
        log.info("Made again: %s", ", ".join(sorted(wanted)))
    refuse_if_older(job.commits, newest)
    note_made(store, done)


def receipt_of(
    job: Job, done: Record, fingerprint: Mapping[str, Any], progress: Progress, spent: Spent
) -> bytes:
    """The content of receipt.json, with the adapter that the run's end has published."""
    published = commit_of(job.commits, done.published, done) if done.published else done
    kept = {commit.step: commit.folder for commit in job.commits.kept_commits(done)}
    return receipt_bytes(job.spec, done, published, fingerprint, progress, spent, kept)


def spent_by_receipt(store: Store) -> Spent:
    """What the job has cost, where only the receipt tells. Raises BadDataError, MissingInputError."""
    return parse_as(Spent, store.read_small(RECEIPT), f"{store.place}/{RECEIPT}")


def _losses(job: Job, done: Record) -> list[float]:
    from sidestep.runtime.tensorfiles import read_tensors

    with job.workspace.temporary() as folder:
        job.commits.fetch(replace(done, files={TENSORS_FILE: done.files[TENSORS_FILE]}), Path(folder))
        losses: list[float] = dict(read_tensors(Path(folder, TENSORS_FILE)))["history.losses"].tolist()
        return losses


def _history(job: Job, numbers: Numbers) -> bytes:
    from sidestep.data.checked import read_checked
    from sidestep.data.preprocessed import Preprocessed
    from sidestep.training.dataset import Samples
    from sidestep.training.history import HeldOut, history_bytes, with_shares
    from sidestep.training.schedule import Schedule
    from sidestep.training.verdict import judge

    progress, sides = numbers.progress, numbers.sides
    sound = read_checked(job.tensors, job.output_store)
    samples = Samples.pull(Preprocessed(job.tensors), job.workspace, known=sides is not None, sound=sound)
    means = judge(progress, job.spec.train).smoothed
    held_out = HeldOut.of(samples.songs, sides, means) if sides else None
    shares = shares_in(numbers.recipe, samples.names)
    is_out = held_out.sides if held_out else [False] * len(samples)
    repeats = [share.repeats for share, out in zip(shares, is_out, strict=True) if not out]
    schedule = Schedule.of(job.spec.train, repeats)
    rates = [schedule.learning_rate(made) for made in range(progress.step)]
    songs = with_shares(samples.facts, shares)
    return history_bytes(progress, rates, songs, job.spec.train.lr_groups, held_out)


def _made(store: Store, done: Record) -> dict[str, str]:
    try:
        made = parse_as(_Made, store.read_small(FILE), f"{store.place}/{FILE}")
    except (BadDataError, MissingInputError):
        return {}
    return made.files if made.record == done.number else {}


def _content(store: Store, name: str) -> bytes | None:
    try:
        return store.read_small(name)
    except (BadDataError, MissingInputError):
        return None


def _is_readable(name: str, data: bytes) -> bool:
    try:
        return _LOOKS[name](data)
    except (BadDataError, BadSpecError):
        return False


_LOOKS: dict[str, Callable[[bytes], bool]] = {
    SPEC: lambda data: bool(parse_yaml(data, SPEC)[0]),
    HISTORY: lambda data: bool(parse_as(History, data, HISTORY)),
    CURVE: lambda data: data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82"),
    RECEIPT: lambda data: bool(parse_as(Receipt, data, RECEIPT)),
    REPORT: lambda data: data.rstrip().endswith(b"</html>"),
}
