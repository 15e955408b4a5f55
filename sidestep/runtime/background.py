"""Work beside the main thread that the end of the process does not wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class OneWorker(Executor):
    """Makes one call at a time, in the order they came.

    The executors of the standard library are waited for when the interpreter ends, however long a store
    hangs. Here each call has a daemon thread, which begins when the call before has ended.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Future[Any] | None = None

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> "Future[Result]":
        """Make this call when those before it have ended. To be called from one thread."""
        before, future = self._last, Future[Result]()

        def call() -> None:
            if before:
                wait([before])
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
                    future.set_exception(error)

        self._last = future
        threading.Thread(target=call, name=self._name, daemon=True).start()
        return future
