"""Things to send that nothing waits for: a thread of its own, a bounded queue, an outage that is told once.

What is at the other end may be dead, refuse, or accept and never answer: whoever puts something in goes on at
once, and the end of the process waits a few seconds at the most.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two tries, each pause twice the one before


class RefusedError(Exception):
    """What was sent is refused, and would be refused again: it is given up."""


class Outbox(Generic[Item]):
    """Sends what is put in, in its order, until it gets through. Its methods are for any thread."""

    def __init__(
        self,
        what: str,
        send: Callable[[Item], object],
        most: int = 100,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """
        Args:
            what: whom it is sent to, as the log says it: no secret.
            send: sends one item. It may take as long as it likes; RefusedError is final, any other exception
                means that it is tried again.
            most: how many items wait at the most. Beyond that, the oldest is dropped.
            pause: waits so many seconds between two tries; `end` ends the default at once.
        """
        self._what, self._send, self._most = what, send, most
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._thread: threading.Thread | None = None
        self._is_busy, self._is_down, self._dropped = False, False, 0
        self._is_given_up = False  # from then on nothing is told

    def put(self, item: Item) -> None:
        """Send this when its turn comes; returns at once."""
        with self._changed:
            if self._closing.is_set():
                return
            if len(self._items) == self._most:
                self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def end(self) -> None:
        """Take nothing more. What is left is tried once more, at once, and nobody waits for it here."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """End it, and wait at most so many seconds for what is left, which is then given up."""
        self.end()
        with self._changed:
            is_sent = self._changed.wait_for(lambda: not (self._items or self._is_busy), max(seconds, 0))
            left, self._dropped = self._dropped + len(self._items) + self._is_busy, 0
            self._items.clear()
            self._is_given_up = not is_sent
        if not is_sent and not self._is_down:
            log.warning("%s has not answered: %d of what was to be sent are given up", self._what, left)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._items or self._closing.is_set())
                if not self._items:
                    return
                item, self._is_busy = self._items.popleft(), True
            pause = FIRST_PAUSE
            while not self._is_over_with(item) and not self._closing.is_set():
                self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _is_over_with(self, item: Item) -> bool:
        """Try once; whether it got through or is refused for good."""
        try:
            self._send(item)
        except RefusedError as error:
            self._tell_outage("%s refuses what is sent: %s", error)
            return True
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not end anything
            self._tell_outage("%s is out of reach and will be tried again; the job goes on: %s", error)
            return False
        if self._is_down:
            self._is_down = False
            with self._changed:
                dropped, self._dropped = self._dropped, 0
            lost = f"; {dropped} of what was to be sent are lost" if dropped else ""
            if not self._is_given_up:
                log.info("%s is reached again%s", self._what, lost)
        return True

    def _tell_outage(self, words: str, error: Exception) -> None:
        if not (self._is_down or self._is_given_up):
            log.warning(words, self._what, str(error).partition("\n")[0] or type(error).__name__)
        self._is_down = True
