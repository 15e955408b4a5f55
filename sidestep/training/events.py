"""TensorBoard event files that survive an interruption: one for the steps between two commits.

A file is named by the first step it tells of. Whoever goes on after step n writes the file of step n + 1
anew, so that the curves of a run with many attempts have neither gaps nor steps told twice.
"""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sidestep.runtime.errors import TakenError

FLUSH_SECONDS = 10.0
_NAME = re.compile(r"events\.out\.tfevents\.(?P<first_step>\d+)\.sidestep")


class EventFiles:
    """Writes summaries below `folder`. Not for use from several threads."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Begin the file of `first_step`; files of an earlier attempt from that step on are deleted.

        Raises TakenError where another run writes to `folder`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for name in stale((file.name for file in folder.iterdir()), first_step):
            (folder / name).unlink()
        self._open(first_step)

    def add(self, summary: Summary, step: int) -> None:
        """Write a summary (a scalar, a histogram, an image …) of step number `step`."""
        self._write(Event(wall_time=time.time(), step=step, summary=summary))
        self._is_empty = False

    def rotate(self, next_step: int) -> str | None:
        """End this file, which is then complete, and begin that of `next_step`; the name of this one.

        None where that of `next_step` has been begun already: no step was made since.
        """
        if next_step == self._first_step:
            return None
        name = self._path.name
        self._file.close()
        self._open(next_step)
        return name

    def complete(self) -> str | None:
        """End this file where no step follows; its name, or None where it tells nothing."""
        return None if self._is_empty else self.rotate(self._first_step + 1)

    def close(self) -> None:
        """End the file; one that tells nothing is deleted."""
        if self._file.closed:  # the one after it belongs to another run
            return
        is_ours = self._path.exists() and self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        self._file.close()
        if self._is_empty and is_ours:
            self._path.unlink()

    def _open(self, first_step: int) -> None:
        self._first_step = first_step
        self._folder.mkdir(parents=True, exist_ok=True)  # in the workspace it may vanish at any time
        self._path = self._folder / f"events.out.tfevents.{first_step:010}.sidestep"
        try:
            self._file, self._is_empty = self._path.open("xb"), True
        except FileExistsError as error:
            # It was not there when this attempt began, and every file since then is its own.
            raise TakenError(
                f"another run has taken over and writes to {self._folder}: this one stops"
            ) from error
        self._records = RecordWriter(self._file)
        self._flushed = 0.0
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:  # for who watches while it trains
            self._file.flush()
            self._flushed = time.monotonic()


def stale(names: Iterable[str], from_step: int) -> list[str]:
    """The event files among `names` that begin at step `from_step` or later, sorted."""
    matches = ((name, _NAME.fullmatch(name)) for name in names)
    return sorted(name for name, match in matches if match and int(match["first_step"]) >= from_step)
