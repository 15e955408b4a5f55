"""Who is writing to an output: a sign of life per writer, and how long it has stood still.

A writer of generation n renews `heartbeats/00000n.json` every few seconds and says there when it has
ended. Nobody trusts another machine's clock: whoever waits watches, by his own clock, for how long the
heartbeat has not changed.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError, TakenError
from sidestep.runtime.liveness import waiting
from sidestep.runtime.parsing import parse_json
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FOLDER = "heartbeats"
BEATS_PER_LEASE = 6


@dataclass(frozen=True)
class Lease:
    """How long a writer stays the writer without a sign of life. Clock and sleep are a test's to replace.

    Attributes:
        waits_as: why a writer waits for the sign of another one's, as its log says.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    waits_as: str = "The writer before this one has not signed off"

    @property
    def beat_seconds(self) -> float:
        """Seconds from one sign of life to the next."""
        return self.seconds / BEATS_PER_LEASE


class Heartbeat:
    """This writer's sign of life: the first one is given at once, the others by `beat`.

    Attributes:
        lost: set when this writer finds out, after a pause, that another one has taken over.
    """

    def __init__(
        self, store: Store, generation: int, lease: Lease, is_still_writer: Callable[[], bool]
    ) -> None:
        """`is_still_writer` is asked after a pause in which another one may have taken over."""
        self._store, self._path = store, heartbeat_path(generation)
        self._lease, self._is_still_writer = lease, is_still_writer
        self._count, self._last = 0, lease.clock()
        self._stop, self.lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.beat()

    def start(self) -> None:
        """Give all further signs of life in a thread of their own, until `release`."""
        self._thread.start()

    def beat(self) -> None:
        """Give one sign of life, unless another writer has taken over: then `lost` is set."""
        now = self._lease.clock()
        # A machine that was paused, or cut off from its store, may have been given up by another.
        if self._count and now - self._last > self._lease.seconds / 2 and not self._is_still_writer():
            self.lost.set()
            self._stop.set()
            return
        self._count += 1
        self._store.write_bytes(self._path, json_bytes({"beat": self._count}))
        self._last = now

    def release(self) -> None:
        """Say that this writer has ended, so that the next one need not wait."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._lease.seconds)
        if not self.lost.is_set():
            self._store.write_bytes(self._path, json_bytes({"released": True}))

    def _run(self) -> None:
        while not self._stop.wait(self._lease.beat_seconds):
            try:
                self.beat()
            except SideStepError as error:
                # Nothing is lost by it: should another writer take over meanwhile, the log fences this one.
                log.warning("The heartbeat could not be written: %s", error)


class Watch:
    """For how long the heartbeat of another writer has stood still, from this moment on."""

    def __init__(self, store: Store, generation: int, lease: Lease, *, is_told: bool = False) -> None:
        """`is_told`: somebody has said already that it is waited for that writer."""
        self.generation, self._is_told = generation, is_told
        self._store, self._lease = store, lease
        self._seen, self._since = self._look(), lease.clock()

    def is_free(self) -> bool:
        """Return whether that writer has ended, or has shown no life for as long as a lease is."""
        asked = self._lease.clock()  # before the look: who is paused behind it has not looked for so long
        now = self._look()
        if now != self._seen:
            self._seen, self._since = now, self._lease.clock()
        return now == "released" or asked - self._since >= self._lease.seconds

    def wait(self) -> None:
        """Wait until it is free.

        Raises:
            TakenError: the other writer is seen to be alive.
        """
        with waiting():
            self._wait()

    def _wait(self) -> None:
        before = self._seen
        while not self.is_free():
            if self._seen != before:
                raise TakenError(
                    f"another run is writing to {self._store.place}: it showed life a moment ago\n"
                    "  run the same command again when it has ended"
                )
            if not self._is_told:
                log.info(
                    "%s: waiting up to %.0f s for a sign of life",
                    *(self._lease.waits_as, self._lease.seconds - (self._lease.clock() - self._since)),
                )
                self._is_told = True
            self._lease.sleep(min(1.0, self._lease.beat_seconds))

    def _look(self) -> str:
        """What the heartbeat is now; "released" where its writer has ended, "" where there is none.

        Where that writer never began, as its record may be all there is of it, the one before it may live.
        """
        try:
            data = self._store.read_bytes(heartbeat_path(self.generation))
        except MissingInputError:
            return self._look_at_older()
        try:
            beat = parse_json(data, heartbeat_path(self.generation))
        except BadDataError:
            beat = None
        is_released = isinstance(beat, dict) and beat.get("released") is True
        return "released" if is_released else data.decode(errors="replace")

    def _look_at_older(self) -> str:
        """The newest heartbeat of an older generation. What it says of its end is not the end of this one."""
        older = [
            generation
            for file in self._store.list_files(FOLDER)
            if 0 < (generation := generation_of(file.path)) < self.generation
        ]
        try:
            data = self._store.read_bytes(heartbeat_path(max(older))) if older else b""
        except MissingInputError:  # a new writer has just deleted it
            return ""
        return f"{max(older, default=0)}: {data!r}" if data else ""


def heartbeat_path(generation: int) -> str:
    """Return where the heartbeat of a generation's writer is, relative to the output."""
    return f"{FOLDER}/{generation:06}.json"


def generation_of(path: str) -> int:
    """Return whose heartbeat is at a path relative to the output; 0 where it is nobody's."""
    name = re.fullmatch(rf"{FOLDER}/(\d{{6,}})\.json", path)
    return int(name[1]) if name else 0
