"""Who is writing to an output: a sign of life per writer, and how long it has stood still.

A writer of generation n renews `heartbeats/00000n.json` every few seconds and says there when it has
ended. Nobody trusts another machine's clock: whoever waits watches, by his own clock, for how long the
heartbeat has not changed.
"""

import json
import logging
import threading
import time
from collections.abc import Callable

from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import AgainError, MissingInputError, SideStepError
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FOLDER = "heartbeats"
BEATS_PER_LEASE = 6


class Heartbeat:
    """This writer's sign of life, renewed by a thread of its own until `release`."""

    def __init__(
        self, store: Store, generation: int, lease_seconds: float, still_writer: Callable[[], bool]
    ) -> None:
        """`still_writer` is asked after a pause in which another one may have taken over."""
        self._store, self._path = store, heartbeat_path(generation)
        self._lease, self._still_writer = lease_seconds, still_writer
        self._count, self._last = 0, time.monotonic()
        self._stop, self.lost = threading.Event(), threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Say that this writer has ended, so that the next one need not wait."""
        self._stop.set()
        self._thread.join(timeout=self._lease)
        if not self.lost.is_set():
            self._store.write_bytes(self._path, json_bytes({"released": True}))

    def _run(self) -> None:
        while not self._stop.wait(self._lease / BEATS_PER_LEASE):
            try:
                self._beat()
            except SideStepError as error:
                # Nothing is lost by it: should another writer take over meanwhile, the log fences this one.
                log.warning("The heartbeat could not be written: %s", error)

    def _beat(self) -> None:
        now = time.monotonic()
        # A machine that was paused, or cut off from its store, may have been given up by another.
        if self._count and now - self._last > self._lease / 2 and not self._still_writer():
            self.lost.set()
            self._stop.set()
            return
        self._count += 1
        self._store.write_bytes(self._path, json_bytes({"beat": self._count}))
        self._last = now


class Watch:
    """For how long the heartbeat of another writer has stood still, from this moment on."""

    def __init__(self, store: Store, generation: int, lease_seconds: float) -> None:
        self.generation = generation
        self._store, self._lease = store, lease_seconds
        self._seen, self._since = self._look(), time.monotonic()

    def is_free(self) -> bool:
        """Whether that writer has ended, or has shown no life for as long as a lease is."""
        now = self._look()
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return now == "released" or time.monotonic() - self._since >= self._lease

    def wait(self, pause: Callable[[float], object] = time.sleep) -> None:
        """Wait until it is free. Raises AgainError when the other writer is seen to be alive."""
        before, told = self._seen, False
        while not self.is_free():
            if self._seen != before:
                raise AgainError(
                    f"another run is writing to {self._store.place}: it showed life a moment ago\n"
                    "  run the same command again when it has ended"
                )
            if not told:
                log.info(
                    "The writer before this one has not signed off: waiting up to %.0f s for a sign of life",
                    self._lease - (time.monotonic() - self._since),
                )
                told = True
            pause(min(1.0, self._lease / BEATS_PER_LEASE))

    def _look(self) -> str:
        """What the heartbeat is now; "released" where its writer has ended, "" where it never began."""
        try:
            data = self._store.read_bytes(heartbeat_path(self.generation))
        except MissingInputError:
            return ""
        try:
            return "released" if json.loads(data).get("released") else data.decode()
        except (ValueError, AttributeError):
            return data.decode(errors="replace")


def heartbeat_path(generation: int) -> str:
    """Where the heartbeat of a generation's writer is, relative to the output."""
    return f"{FOLDER}/{generation:06}.json"
