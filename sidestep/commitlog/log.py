"""The commit log: `commits/000001.json`, `000002.json`, … say what is true in an output, in order.

A commit's files are written first, its record last and only if no record of that number exists
(`Store.create`, the only primitive needed). A half-written checkpoint therefore has no record, and no
reader ever sees it. Readers take the newest commit whose files still have the recorded digests. Records
are never deleted or changed. Here they are read; `sidestep.commitlog.writer` adds to them.

What belongs to the log, where a disk or a user has left something else in `commits/`:

- A record's name is its number, in six digits or more. The record says that number, too, and the digest of
  what it says. (Those of version 0.1.0 say neither, and are taken at their name.)
- A record is *lost* where something else has its number, or nothing although a later number is taken. The
  number stays taken, and counts as the take-over of a writer that committed nothing. So any gap is bridged.
- A record is *not complete* where it is empty, or begins as one and does not end so: on a disk without hard
  links its writer may be at it, or was killed. The newest is waited for, for `PATIENCE` seconds. Then it is
  lost, but no take-over: who was the writer still is, and goes on with the next number. For whoever takes
  over it counts as a generation all the same.
- A *stray* is any other file: one whose name is no number, or one that would be a record only if more than
  `BRIDGED` in a row were lost before it, and does not say that it is. It is named once, and ignored.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # pydantic takes no other one before Python 3.12

from sidestep.commitlog.lease import heartbeat_path
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.creating import PATIENCE
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import Count, as_kind, parse_json
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FOLDER = "commits"
BRIDGED = 10_000  # records in a row that are gone, before one that is damaged or says no number

END = b"\n}\n"
"""A record's last line is its closing brace. None before it begins with one: what is inside is indented."""

LOOKS = 10  # at a record that is not complete, while it is waited for

FILES_AT_MOST = 1000
"""Of a checkpoint: one has some five."""


def _is_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError("it is not a file name")
    return name


FileName = Annotated[str, AfterValidator(_is_name)]


class FileEntry(TypedDict):
    """A file of a checkpoint: its size in bytes, and its content's sha256 in hex."""

    size: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Record:
    """One entry of the log. Every one has the generation and the nonce of the writer that made it."""

    kind: Literal["take-over", "commit", "done", "publish"]
    """A new writer; a checkpoint is complete; the run is finished; adapter/ is made from that checkpoint."""
    generation: int  # 1 for an output's first writer, one more for each that takes over
    nonce: str  # of the writer: tells its own records from those of another one of the same generation
    folder: str = ""  # of the checkpoint, relative to the output
    step: int = 0
    files: Annotated[dict[FileName, FileEntry], Field(max_length=FILES_AT_MOST)] = field(default_factory=dict)
    kept: list[str] = field(
        default_factory=list
    )  # the folders of the checkpoints that are to stay, the newest first
    origin: str = ""  # sha256 of the state that --resume-from gave this run, where it did
    machines: list[dict[str, Any]] = field(default_factory=list)  # all kinds that have written so far
    published: str = ""
    """A folder that stays, as adapter/ is made from it: by `publish`, or by `done`, whose own is another."""
    number: int = 0  # of the record: its file's name

    def content(self) -> bytes:
        """Return the record as it is stored: with the sha256 of the rest."""
        fields = asdict(self)
        return json_bytes({**fields, "digest": _digest(fields)})

    @property
    def is_lost(self) -> bool:
        """Whether this stands in for a record that is lost."""
        return not self.nonce


LOST = Record("take-over", generation=0, nonce="")


class NotCompleteError(BadDataError):
    """A record that is there and does not end as one ends."""


class CommitLog:
    """The log of one output. Reading it asks the store every time: no record is cached."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.store, self._clock, self._sleep = store, clock, sleep
        self._not_complete: set[int] = set()  # numbers of records that were waited for in vain
        self._named: set[str | int] = set()  # strays, and the numbers of lost records, that have been told of

    def tail(self, at_least: int = 0) -> Record | None:
        """Return the newest record; None if there is none. `at_least` is a number that is known to be taken.

        A listing may lag behind what was written, so the numbers after its last are tried, too.
        """
        newest = max(at_least, self._numbers()[-1])
        while self.store.stat(record_path(newest + 1)):
            newest += 1
        return self.at(newest) if newest else None

    def back_from(self, record: Record | None) -> Iterator[Record]:
        """Yield `record` and those before it, newest first, each read when it is its turn; no lost ones."""
        while record:
            if not record.is_lost and record.number not in self._not_complete:
                yield record
            record = self._newest_whole(record.number - 1)

    def read(self, number: int) -> Record:
        """Return the record of that number. Raises BadDataError for one that is none, MissingInputError."""
        record = self._complete(number)
        if record.number not in (number, 0):
            raise BadDataError(
                f"{self.store.place}/{record_path(number)} is not that record: it says that it is number "
                f"{record.number}"
            )
        return replace(record, number=number)

    def at(self, number: int) -> Record:
        """Return the record of a number that is taken; where it is lost, one that stands in for it.

        That says nothing but a generation; or, where no record was ever complete since, what the newest says
        that was.
        """
        whole = self._newest_whole(number)
        if whole and whole.number == number:
            return whole
        base = whole or LOST
        # Each may have been another writer's, which made files in folders of its generation, and may live.
        generation = base.generation + number - base.number
        says = base if self._wrote_nobody(base, number) else replace(LOST, machines=base.machines)
        says = replace(says, files={})  # the commit is the one before, and no other
        return replace(says, generation=generation, number=number)

    def _wrote_nobody(self, base: Record, number: int) -> bool:
        """Whether none of the records behind `base` up to `number` was complete. A writer's that was, and is
        cut short since, has left its heartbeat."""
        gone = range(1, number - base.number + 1)
        return all(base.number + count in self._not_complete for count in gone) and not any(
            self.store.stat(heartbeat_path(base.generation + count)) for count in gone
        )

    def _newest_whole(self, last: int) -> Record | None:
        """The newest record up to the number `last` that is not lost."""
        number, lost, why = last, 0, ""
        while number > 0:
            try:
                record = self.read(number)
                break
            except (BadDataError, MissingInputError) as error:
                is_gone, why = isinstance(error, MissingInputError), why or str(error)
            # Where nothing is, nothing may be for long: the listing knows what is the next to read.
            before = max(n for n in self._numbers() if n < number) if is_gone else number - 1
            lost, number = lost + number - before, before
        else:
            record = None
        if lost:
            which = "A record is" if lost == 1 else f"{lost} records in a row are"
            self._name(last, f"{which} lost from the commit log, and what is before is used: {why}")
        return record

    def _numbers(self) -> list[int]:
        """0, and the numbers that are listed as taken, in order."""
        numbers = [0]
        for number, path in sorted(
            (_number_of(file.path), file.path) for file in self.store.list_files(FOLDER)
        ):
            if number and (number - numbers[-1] <= BRIDGED or self._says_its_number(number)):
                numbers.append(number)
            else:
                self._name(path, f"{self.store.place}/{path} is not of the commit log, and is ignored")
        return numbers

    def _says_its_number(self, number: int) -> bool:
        try:
            return self._parse(number).number == number
        except (BadDataError, MissingInputError):
            return False

    def _complete(self, number: int) -> Record:
        """What `_parse` returns; one that is not complete is waited for, once, while it is the newest."""
        end = self._clock() + PATIENCE
        while True:
            try:
                return self._parse(number)
            except NotCompleteError:
                is_late = number in self._not_complete or self._clock() >= end
                if is_late or self.store.stat(record_path(number + 1)):
                    self._not_complete.add(number)
                    raise
            self._sleep(PATIENCE / LOOKS)

    def _parse(self, number: int) -> Record:
        path = record_path(number)
        data = self.store.read_bytes(path)
        try:
            fields = parse_json(data, f"{self.store.place}/{path}")
        except BadDataError as error:
            if is_begun(data):
                raise NotCompleteError(f"it was never completed: {error}") from error
            raise
        record = as_kind(Record, fields, f"{self.store.place}/{path}")
        digest = fields.pop("digest", "")
        if (digest or record.number) and digest != _digest(fields):
            raise BadDataError(f"{self.store.place}/{path} is not the record that was written")
        return record

    def _name(self, what: str | int, message: str) -> None:
        if what not in self._named:
            self._named.add(what)
            log.warning("%s", message)

    def newest_commit(self, tail: Record | None) -> Record | None:
        """Return the newest record with a checkpoint, whether that is whole or not; None if there is none."""
        return next((record for record in self.back_from(tail) if record.files), None)

    def kept_commits(self, tail: Record | None) -> Iterator[Record]:
        """Yield the commits up to `tail` whose checkpoints are kept, newest first."""
        untried: set[str] | None = None  # as the newest commit says: of older ones the files are deleted
        for record in self.back_from(tail):
            if not record.files:
                continue
            untried = set(record.kept) if untried is None else untried
            if record.folder not in untried:
                continue
            untried.remove(record.folder)
            yield record
            if not untried:
                break

    def published(self, tail: Record | None) -> str:
        """Return the folder that adapter/ is made from by `publish`, or by the end of the run where that is
        not the last checkpoint's; "" where it is that one's, or there is none."""
        for record in self.back_from(tail):
            if record.kind != "take-over":
                return record.folder if record.kind == "publish" else record.published
        return ""

    def fetch_newest(self, target: Path, tail: Record | None) -> Record | None:
        """Download the newest commit up to `tail` that is whole into the local folder `target`.

        A damaged one is reported, and the one before it taken. Returns its record; None if none is whole.
        """
        return self.fetch_first(self.kept_commits(tail), target)

    def fetch_first(self, candidates: Iterable[Record], target: Path) -> Record | None:
        """Download the first of the `candidates` that is whole, and report those that are not."""
        for record in candidates:
            try:
                self.fetch(record, target)
                return record
            except (BadDataError, MissingInputError) as error:
                log.warning("Checkpoint %s is damaged and is not used: %s", record.folder, error)
        return None

    def fetch(self, record: Record, target: Path) -> None:
        """Download the files of `record` into the local folder `target`.

        Raises BadDataError where one is not as it was committed, MissingInputError where one is gone.
        """
        target.mkdir(parents=True, exist_ok=True)
        for name, expected in record.files.items():
            self.store.download(f"{record.folder}/{name}", target / name)
            if file_digest(target / name) != expected:
                raise BadDataError(
                    f"{self.store.place}/{record.folder}/{name} is not the file that was committed"
                )


def record_path(number: int) -> str:
    """Return where record `number` is, relative to the output."""
    return f"{FOLDER}/{number:06}.json"


def is_begun(data: bytes) -> bool:
    """Whether this is the beginning of a record, or space for one, and not the end."""
    return data.strip(b"\0")[:1] in (b"", b"{") and not data.endswith(END)


def file_digest(path: Path) -> FileEntry:
    """Return a file's entry in a record: its size in bytes and its sha256."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes(fields)).hexdigest()


def _number_of(path: str) -> int:
    """The number of the record that a file is by its name; 0 where it is none."""
    name = re.fullmatch(rf"{FOLDER}/(\d{{6,12}})\.json", path, re.ASCII)
    return int(name[1]) if name and record_path(int(name[1])) == path else 0
