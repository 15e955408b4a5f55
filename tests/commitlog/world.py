"""A store that fails in every way it may, and processes that share it, one call at a time.

Each process is a thread that stops before every call of its store and before every sleep, until it is told
how to go on: so any two calls of any two processes come in any order, and a process can end between them.
Time passes for all together, and only when somebody sleeps or the test says so.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sidestep.commitlog.lease import FOLDER as HEARTBEATS
from sidestep.commitlog.lease import heartbeat_path
from sidestep.commitlog.leftovers import CHECKPOINTS
from sidestep.commitlog.log import FOLDER as COMMITS
from sidestep.commitlog.log import record_path
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import MissingInputError, StorageError
from sidestep.storage.store import FileInfo, ProgressCallback, Store, no_progress

Answer = TypeVar("Answer")

FATES = {
    "": "the request is answered",
    "refused": "it never gets there, and an error is raised",
    "lost": "it gets there, its answer does not, and an error is raised",
    "late": "an error is raised, and what it was to change is changed some time later",
    "repeated": "its answer is lost, and the store itself sends it again",
    "crash": "the process ends before it",
}


class Crash(BaseException):
    """The process is killed."""


class World:
    """What the store really holds, and what its promises are.

    Attributes:
        files: what a reader finds.
        lag: of the newest so many changes, listings know nothing yet.
        in_flight: changes that will still come, although who asked for them was told of a failure.
        damaged: paths of files that were damaged at rest.
        records: of the commit log, as they came.
        lost: the numbers of records that are damaged or gone.
        wrong: what was done to the log that nobody may do.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.now, self.lag = 0.0, 0
        self.in_flight: list[Callable[[], object]] = []
        self.damaged: set[str] = set()
        self.lost: set[int] = set()
        self.wrong: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.changed_at: dict[str, float] = {}
        self._changes: list[tuple[str, bytes | None]] = []

    def put(self, path: str, data: bytes, by: "Process") -> None:
        if path.startswith(COMMITS):
            if int(path[-11:-5]) > len(self.records):
                self.records.append({**json.loads(data), "by": by})
            elif self.files.get(path, data) != data:
                self.wrong.append(f"{path} was written twice, and differs")
        self._change(path, data)
        self.damaged.discard(path)

    def create(self, path: str, data: bytes, by: "Process") -> bool:
        # Into the gap of a lost record only who was taken over could write, and nobody would read it.
        if path in self.files or path in map(record_path, self.lost):
            return False
        self.put(path, data, by)
        return True

    def delete(self, path: str, by: "Process") -> None:
        if path.startswith(COMMITS) or path == heartbeat_path(self.records[-1]["generation"]):
            self.wrong.append(f"{path} was deleted")
        if (generation := re.search(r"\.g(\d+)/", path)) and int(generation[1]) > by.generation:
            self.wrong.append(f"{path} of a later generation was deleted")
        if path in self.files:
            self._change(path, None)

    def newest_commit(self, until: int | None = None) -> dict[str, Any] | None:
        """The newest record of a checkpoint that is not lost, up to the record of that number."""
        found = (record for record in reversed(self.records[:until]) if record["number"] not in self.lost)
        return next((record for record in found if record["files"]), None)

    def listing(self) -> dict[str, bytes]:
        """The files as a listing shows them."""
        shown = dict(self.files)
        for path, before in reversed(self._changes[-self.lag :] if self.lag else []):
            shown.pop(path, None)
            if before is not None:
                shown[path] = before
        return shown

    def damage(self, path: str, data: bytes | None) -> None:
        """A disk's doing: no listing lags behind it."""
        self.damaged.add(path)
        self.files.pop(path)
        if data is not None:
            self.files[path] = data

    def lose_record(self, number: int, data: bytes | None) -> None:
        """A record is damaged at rest, or gone; or something else takes the number of one that is to come."""
        if number > len(self.records):
            generation = max([0, *(record["generation"] for record in self.records)]) + 1
            stand_in = {"kind": "take-over", "generation": generation, "nonce": "", "files": {}, "by": None}
            self.records.append({**stand_in, "number": number, "folder": ""})
        self.lost.add(number)
        self.files.pop(record_path(number), None)
        if data is not None:
            self.files[record_path(number)] = data

    def _change(self, path: str, data: bytes | None) -> None:
        self._changes.append((path, self.files.pop(path, None)))
        if data is not None:
            self.files[path] = data
        self.changed_at[path] = self.now


class Process:
    """Runs `program` in a thread, from one call to the next.

    Attributes:
        at: the call that it stops before, ("upload", path).
        error: what it ended with; None while it runs, and where it ended well.
        is_running: whether it has not ended.
        stood_still: of each heartbeat that it has read, for how long it had not changed when it looked last.
        seen_released: the heartbeats in which it has read that their writer has ended.
        sent: how many files it has uploaded.
        generation: of its writer; 0 before it is one.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.store = FaultyStore(world, self)
        self.at = ("start", "")
        self.error: BaseException | None = None
        self.is_running = True
        self.first_looks: dict[str, float] = {}
        self.stood_still: dict[str, float] = {}
        self.seen_released: set[str] = set()
        self.sent = self.generation = 0
        self.has_met_faults = False
        self.fate = ""  # of the next call
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def program(self) -> None:
        """What it does."""
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()
        self._wait()

    def go(self, fate: str = "") -> None:
        """Let it make its next call, which meets that fate, and come to the one after that."""
        self.fate, self.has_met_faults = fate, self.has_met_faults or fate != ""
        self._go.release()
        self._wait()

    def go_on(self, calls: int) -> None:
        """Let it make so many calls, or fewer where it ends."""
        for _ in range(calls):
            if self.is_running:
                self.go()

    def crash(self) -> None:
        """End it, wherever it is."""
        if self.is_running:
            self.go("crash")

    def reach(self, call: str, path: str) -> str:
        """The fate of the call that this process is about to make."""
        if threading.current_thread() is not self._thread:  # the test itself, in the heartbeat's place
            return self.fate
        if self.fate == "crash":
            raise Crash  # it has ended, and does nothing more
        self.at = (call, path)
        self._stopped.release()
        self._go.acquire()
        if self.fate == "crash":
            raise Crash
        return self.fate

    def sleep(self, seconds: float) -> None:
        """Stop here too, and then let time pass."""
        self.reach("sleep", "")
        self.world.now += seconds

    def _run(self) -> None:
        try:
            self.reach("start", "")
            self.program()
        except BaseException as error:  # noqa: BLE001 - for the test to judge
            self.error = error
        self.is_running = False
        self._stopped.release()

    def _wait(self) -> None:
        assert self._stopped.acquire(timeout=60), f"process {self.number} hangs at {self.at}"


class FaultyStore(Store):
    """The world's files, as one process sees them: each call meets the fate that the process is told of."""

    place, options, local_root = "memory://world", StorageSpec(), None

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process

    def child(self, path: str) -> "FaultyStore":
        raise NotImplementedError

    def list_files(self, path: str = "") -> list[FileInfo]:
        def files() -> list[FileInfo]:
            listing = self.world.listing()
            return [_info(name, listing) for name in sorted(listing) if name.startswith(f"{path}/")]

        return self._ask("list_files", path, files)

    def stat(self, path: str) -> FileInfo | None:
        files = self.world.files
        return self._ask("stat", path, lambda: _info(path, files) if path in files else None)

    def read_bytes(self, path: str) -> bytes:
        return self._ask("read_bytes", path, lambda: self._read(path))

    def read_range(self, path: str, start: int, size: int) -> bytes:
        raise NotImplementedError

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        target.write_bytes(self._ask("download", path, lambda: self._read(path)))

    def write_bytes(self, path: str, data: bytes) -> None:
        self._change("write_bytes", path, lambda: self.world.put(path, data, self.process))

    def create(self, path: str, data: bytes) -> bool:
        return self._change("create", path, lambda: self.world.create(path, data, self.process))

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        data = source.read_bytes()
        self.process.sent += 1
        self._change("upload", path, lambda: self.world.put(path, data, self.process))

    def delete(self, path: str) -> None:
        call, asked = self.process.at
        if path.startswith(CHECKPOINTS) and not (call == "stat" and asked.startswith(COMMITS)):
            self.world.wrong.append(f"{path} was deleted by who had not asked whether it is the writer")
        self._change("delete", path, lambda: self.world.delete(path, self.process))

    def _read(self, path: str) -> bytes:
        if path.startswith(HEARTBEATS):
            first = self.process.first_looks.setdefault(path, self.world.now)
            self.process.stood_still[path] = self.world.now - self.world.changed_at.get(path, first)
            if b"released" in self.world.files.get(path, b""):
                self.process.seen_released.add(path)
        if path not in self.world.files:
            raise MissingInputError(path)
        return self.world.files[path]

    def _ask(self, call: str, path: str, answer: Callable[[], Answer]) -> Answer:
        if self.process.reach(call, path) in ("refused", "lost", "late"):
            raise StorageError(f"{call} {path}: no answer")
        return answer()

    def _change(self, call: str, path: str, change: Callable[[], Answer]) -> Answer:
        fate = self.process.reach(call, path)
        if fate == "late":
            self.world.in_flight.append(change)
        if fate in ("refused", "late"):
            raise StorageError(f"{call} {path}: it did not get there")
        answer = change()
        if fate == "repeated":
            answer = change()
        if fate == "lost":
            raise StorageError(f"{call} {path}: no answer")
        return answer


def _info(path: str, files: dict[str, bytes]) -> FileInfo:
    data = files[path]
    return FileInfo(path, len(data), hashlib.md5(data).hexdigest())
