"""The commit log: `commits/000001.json`, `000002.json`, … say what is true in an output, in order.

A commit's files are written first, its record last and only if no record of that number exists
(`Store.create`, the only primitive needed). A half-written checkpoint therefore has no record, and no
reader ever sees it. Readers take the newest commit whose files still have the recorded digests. Records
are never deleted or changed. Here they are read; `sidestep.commitlog.writer` adds to them.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import parse_as
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FOLDER = "commits"


@dataclass(frozen=True)
class Record:
    """One entry of the log. Every one has the generation and the nonce of the writer that made it."""

    kind: Literal[
        "take-over", "commit", "done"
    ]  # a new writer; a checkpoint is complete; the run is finished
    generation: int  # 1 for an output's first writer, one more for each that takes over
    nonce: str  # of the writer: tells its own records from those of another one of the same generation
    folder: str = ""  # of the checkpoint, relative to the output
    step: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → {size, sha256}
    kept: list[str] = field(
        default_factory=list
    )  # the folders of the checkpoints that are to stay, the newest first
    origin: str = ""  # sha256 of the state that --resume-from gave this run, where it did
    machines: list[dict[str, Any]] = field(default_factory=list)  # all kinds that have written so far
    number: int = 0

    def content(self) -> bytes:
        """Return the record as it is stored; its number is its file's name."""
        return json_bytes({key: value for key, value in asdict(self).items() if key != "number"})


class CommitLog:
    """The log of one output. Reading it asks the store every time: nothing is cached."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def tail(self) -> Record | None:
        """Return the newest record; None if there is none.

        A listing may lag behind what was written, so the numbers after its last are tried, too.
        """
        listed = [int(file.path[-11:-5]) for file in self.store.list_files(FOLDER) if _is_record(file.path)]
        newest = max(listed, default=0)
        while self.store.stat(record_path(newest + 1)):
            newest += 1
        return self._read_or_stand_in(newest) if newest else None

    def back_from(self, record: Record | None) -> Iterator[Record]:
        """Yield `record` and those before it, newest first, each read when it is its turn."""
        while record:
            yield record
            record = self._read_or_stand_in(record.number - 1) if record.number > 1 else None

    def read(self, number: int) -> Record:
        """Return the record of that number. Raises BadDataError for one that is none, MissingInputError."""
        path = record_path(number)
        record = parse_as(Record, self.store.read_bytes(path), f"{self.store.place}/{path}")
        return replace(record, number=number)

    def _read_or_stand_in(self, number: int) -> Record:
        """A record that is damaged or gone counts as that of a writer who has committed nothing."""
        try:
            return self.read(number)
        except (BadDataError, MissingInputError) as error:
            log.warning("A record of the commit log is lost, and the one before it is used: %s", error)
        generation = self._read_or_stand_in(number - 1).generation if number > 1 else 0
        return Record("take-over", generation + 1, nonce="", number=number)

    def newest_commit(self, tail: Record | None) -> Record | None:
        """Return the newest record with a checkpoint, whether that is whole or not; None if there is none."""
        return next((record for record in self.back_from(tail) if record.files), None)

    def fetch_newest(self, target: Path, tail: Record | None) -> Record | None:
        """Download the newest commit up to `tail` that is whole into the local folder `target`.

        A damaged one is reported, and the one before it taken. Returns its record; None if none is whole.
        """
        untried: set[str] | None = None  # as the newest commit says: of older ones the files are deleted
        for record in self.back_from(tail):
            if not record.files:
                continue
            untried = set(record.kept) if untried is None else untried
            if record.folder not in untried:
                continue
            untried.remove(record.folder)
            try:
                self.fetch(record, target)
                return record
            except (BadDataError, MissingInputError) as error:
                log.warning("Checkpoint %s is damaged and is not used: %s", record.folder, error)
            if not untried:
                break
        return None

    def fetch(self, record: Record, target: Path) -> None:
        """Download the files of `record` into the local folder `target`.

        Raises BadDataError where one is not as it was committed, MissingInputError where one is gone.
        """
        target.mkdir(parents=True, exist_ok=True)
        for name, expected in record.files.items():
            if Path(name).name != name:
                raise BadDataError(f"{self.store.place}: a record names the file {name!r}, which is no name")
            self.store.download(f"{record.folder}/{name}", target / name)
            if file_digest(target / name) != expected:
                raise BadDataError(
                    f"{self.store.place}/{record.folder}/{name} is not the file that was committed"
                )


def record_path(number: int) -> str:
    """Return where record `number` is, relative to the output."""
    return f"{FOLDER}/{number:06}.json"


def file_digest(path: Path) -> dict[str, Any]:
    """Return a file's entry in a record: its size in bytes and its sha256."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _is_record(path: str) -> bool:
    return re.fullmatch(rf"{FOLDER}/\d{{6}}\.json", path) is not None
