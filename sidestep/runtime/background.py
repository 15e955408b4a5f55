"""Work beside the main thread that the end of the process does not wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
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
