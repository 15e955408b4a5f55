"""Reading a file of a bucket: a small one with one request, a large one in parts, several at a time.

Not by boto3's transfer manager: it asks for the size first, which the first part's answer has, too, takes
twice the time for many small files, holds megabytes for each thread, and notices no part that is too short.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

from sidestep.runtime.errors import StorageError
from sidestep.storage.retry import Retry, ShortAnswerError, check_answer, was_short
from sidestep.storage.s3_answers import version_of
from sidestep.storage.s3_errors import error_code
from sidestep.storage.store import ProgressCallback

BLOCK = 2**20  # so much of an answer is in memory at a time, for each connection

Write = Callable[[int, bytes], object]
"""Called with an offset and what belongs there, from any thread; again for what had to be read again."""

Came = Callable[[int], object]
"""Called when all up to an offset is there, from the thread that reads the file; a later offset each time."""


@dataclass(frozen=True)
class Answer:
    """What the answer to a part says of the whole file."""

    size: int
    version: str
    has_ranges: bool


@dataclass(frozen=True)
class Reader:
    """Reads one file. `requests` is boto3's client, `where` its place in messages."""

    requests: Any
    bucket: str
    key: str
    where: str
    retry: Retry

    def read(
        self, write: Write, part_bytes: int, parts: Executor, progress: ProgressCallback, came: Came
    ) -> Answer | None:
        """Read all of it; None where it is empty. Parts but the first are read in the threads of `parts`.

        Raises StorageError where it changes meanwhile.
        """
        stop = threading.Event()
        failures: list[BaseException] = []

        def count(size: int) -> None:
            if stop.is_set():
                raise StorageError(f"{self.where} is not read any further")
            progress(size)

        first = self.part(0, part_bytes, write, count, takes_all=True)
        if first is None:
            return None
        if not first.has_ranges:
            came(first.size)
            return first

        def read_part(start: int) -> None:
            if stop.is_set():
                return
            try:
                if self.part(start, part_bytes, write, count) != first:
                    raise StorageError(
                        f"{self.where} changed while it was read. Run again when nobody writes there."
                    )
            except BaseException as error:
                failures.append(error)  # before those that end by it
                stop.set()
                raise

        starts = range(part_bytes, first.size, part_bytes)
        moves = [parts.submit(read_part, start) for start in starts]
        try:
            came(min(part_bytes, first.size))
            for start, move in zip(starts, moves, strict=True):
                wait([move])
                if failures:
                    raise failures[0]
                came(min(start + part_bytes, first.size))
        finally:  # also when the waiting is interrupted: nobody writes after this
            stop.set()
            wait(moves)
        return first

    def part(
        self, start: int, size: int, write: Write, progress: ProgressCallback, takes_all: bool = False
    ) -> Answer | None:
        """Read at most `size` bytes from `start` on, fewer where it ends; None where it ends before.

        Args:
            takes_all: also what a server sends besides that knows no ranges, and sends all.
        """

        def ask() -> Answer | None:
            asked_for = f"bytes={start}-{start + size - 1}"
            try:
                found = self.requests.get_object(Bucket=self.bucket, Key=self.key, Range=asked_for)
            except ClientError as error:
                if error_code(error) not in ("InvalidRange", "416"):
                    raise
                return None
            with closing(found["Body"]) as body, whole_headers(self.where):
                # Not by its code: rclone's server says 200 to a part.
                has_ranges = "ContentRange" in found
                whole = (
                    int(found["ContentRange"].rpartition("/")[2]) if has_ranges else found["ContentLength"]
                )
                end = whole if takes_all and not has_ranges else min(start + size, whole)
                at = begin = start if has_ranges else 0
                try:
                    while at < end and (block := body.read(min(BLOCK, end - at))):
                        if rest := block[max(start - at, 0) :]:
                            write(at + len(block) - len(rest), rest)
                        at += len(block)
                        progress(len(block))
                    check_answer(self.where, at, max(end, begin))
                except BaseException:
                    progress(begin - at)
                    raise
                return Answer(whole, version_of({**found, "ContentLength": whole}), has_ranges)

        return self.retry.call(ask, _broke_off)


def _broke_off(error: Exception) -> bool:
    """Whether an answer's body came to an end before its time, so that it is to be asked for again."""
    return isinstance(error, IncompleteReadError | HTTPClientError) or was_short(error)


@contextmanager
def whole_headers(where: str) -> Iterator[None]:
    """An answer that was cut off within its headers lacks some of them, which nothing below notices."""
    try:
        yield
    except KeyError as error:
        raise ShortAnswerError(
            f"{where}: an answer came without {error}, time and again. Run the same command again; if that "
            "does not pass, ask who runs the store, or a proxy before it."
        ) from error
