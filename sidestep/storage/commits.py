"""The commit log: `commits/000001.json`, `000002.json`, … say what is true in an output, in order.

A commit's files are written first, its record last and only if no record of that number exists
(`Store.create`, the only primitive needed). A half-written checkpoint therefore has no record, and no
reader ever sees it. Readers take the newest commit whose files still have the recorded digests.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sidestep.runtime.errors import AgainError, BadDataError, MissingInputError
from sidestep.storage.canonical import json_bytes
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FOLDER = "commits"


@dataclass(frozen=True)
class Record:
    """One entry of the log."""

    kind: str  # commit: a checkpoint is complete; done: the run is finished with it
    folder: str  # of the checkpoint, relative to the output
    step: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → {size, sha256}
    number: int = 0


class CommitLog:
    """The log of one output. Reading it asks the store every time: nothing is cached."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def records(self) -> list[Record]:
        """All records, oldest first. Raises BadDataError for one that cannot be read."""
        return [self._read(file.path) for file in self.store.list(FOLDER) if file.path.endswith(".json")]

    def done(self) -> Record | None:
        """The record that says that the run is finished, where there is one."""
        records = self.records()
        return records[-1] if records and records[-1].kind == "done" else None

    def commit(self, folder: str, step: int, files: Mapping[str, bytes]) -> Record:
        """Write `files` (name → content) below `folder`, then the record that makes them count."""
        for name, data in files.items():
            self.store.write_bytes(f"{folder}/{name}", data)
        digests = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        }
        return self._append(Record("commit", folder, step, digests))

    def finish(self) -> Record:
        """Say that the run is done with its last commit."""
        last = self.records()[-1]
        return self._append(Record("done", last.folder, last.step, last.files))

    def fetch_newest(self, target: Path) -> Record | None:
        """Download the newest commit that is whole into `target`; None where there is none.

        A damaged commit is reported, and the one before it is taken.
        """
        tried = set()
        for record in reversed(self.records()):
            if (record.folder, record.step) in tried:
                continue
            tried.add((record.folder, record.step))
            try:
                self.fetch(record, target)
                return record
            except (BadDataError, MissingInputError) as error:
                log.warning("Checkpoint %s is damaged and is not used: %s", record.folder, error)
        return None

    def fetch(self, record: Record, target: Path) -> None:
        """Download the files of `record` into `target`; BadDataError where one is not as recorded."""
        target.mkdir(parents=True, exist_ok=True)
        for name, expected in record.files.items():
            self.store.download(f"{record.folder}/{name}", target / name)
            with (target / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != expected["sha256"]:
                raise BadDataError(
                    f"{self.store.place}/{record.folder}/{name} is not the file that was committed"
                )

    def retain(self, keep: int) -> None:
        """Delete the files of all but the newest `keep` checkpoints; their records stay as history."""
        folders = list(dict.fromkeys(record.folder for record in reversed(self.records())))
        for folder in folders[keep:]:
            for file in self.store.list(folder):
                self.store.delete(file.path)

    def _append(self, record: Record) -> Record:
        number = max((existing.number for existing in self.records()), default=0) + 1
        content = {key: value for key, value in asdict(record).items() if key != "number"}
        if not self.store.create(f"{FOLDER}/{number:06}.json", json_bytes(content)):
            raise AgainError(
                f"another run is writing to {self.store.place}: its record {number} was first\n"
                "  this run stops; its own last commit is safe"
            )
        return Record(**content, number=number)

    def _read(self, path: str) -> Record:
        try:
            return Record(**json.loads(self.store.read_bytes(path)), number=int(Path(path).stem))
        except (ValueError, TypeError) as error:
            raise BadDataError(f"{self.store.place}/{path} is not a commit record: {error}") from error
