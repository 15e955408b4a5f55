"""Makes things before they are wanted: a generator that runs ahead, in a thread of its own."""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")

SECONDS_TO_END = 1.0  # that a thread in the middle of something is waited for


class Ahead(Iterator[Item], Generic[Item]):
    """What a generator yields, in its order, of which at most `depth` are made or being made at a time.

    What the generator raises is raised to whoever asks for the thing that it was to make, and not before.

    Attributes:
        waited: seconds that were spent waiting for it.
    """

    def __init__(self, items: Generator[Item, None, None], depth: int, name: str) -> None:
        self.waited = 0.0
        self._items, self._is_over = items, False
        self._made: SimpleQueue[tuple[Item] | BaseException] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        started = time.perf_counter()
        made = self._made.get()
        self.waited += time.perf_counter() - started
        if isinstance(made, BaseException):
            self._made.put(made)  # and it stays over
            raise made
        self._room.release()
        return made[0]

    def close(self) -> None:
        """Make no more. What is being made is waited for, but not for long: a store may hang."""
        self._is_over = True
        self._room.release()
        self._thread.join(SECONDS_TO_END)

    def _work(self) -> None:
        try:
            while self._room.acquire() and not self._is_over:
                self._made.put((next(self._items),))
            self._items.close()
        except BaseException as error:  # noqa: BLE001 - whoever asks for the thing gets it
            self._made.put(error)


@contextmanager
def ahead(items: Generator[Item, None, None], depth: int = 2, name: str = "ahead") -> Iterator[Ahead[Item]]:
    """Inside the block, `items` are made ahead of their use, see `Ahead`; after it, no more of them are."""
    running = Ahead(items, depth, name)
    try:
        yield running
    finally:
        running.close()
