"""Work beside the main thread that the end of the process does not wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class OneWorker:
    """An executor that makes one call at a time, in the order they came, each in a daemon thread.

    Those of the standard library are waited for when the interpreter ends, however long a store hangs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Future[Any] | None = None

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Make this call when those before it have ended. To be called from one thread."""
        before, future = self._last, Future[Result]()

        def work() -> None:
            wait([before] if before else [])
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
                future.set_exception(error)

        self._last = future
        threading.Thread(target=work, name=self._name, daemon=True).start()
        return future


class Workers:
    """An executor of several daemon threads, which start when there is something to do."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count = name, count
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Make this call when a thread is free, in the order they came. To be called from one thread at a
        time."""
        future = Future[Result]()

        def work() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
                future.set_exception(error)

        self._calls.put(work)
        if len(self._threads) < self._count:
            self._threads.append(threading.Thread(target=self._work, name=self._name, daemon=True))
            self._threads[-1].start()
        return future

    def close(self) -> None:
        """Let the threads end, once all that was submitted is made."""
        for _ in self._threads:
            self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            call()
