"""Work in threads beside a loop: what it needs next is made ahead of it, what it has made is put away behind.

Both keep the loop's order and a bound on what is in memory. A failure is raised in the loop, at the turn of
what failed; so the first in order is, whatever the threads' pace.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int, most: int
) -> Generator[Made, None, None]:
    """What `make` gives for each of `items`, in their order, made by so many threads.

    At most `most` are being made, wait, or are in use by a loop that drops one before it asks for the next.
    Close it (`contextlib.closing`): then no other one is begun, and those that are being made are waited for.
    """
    left = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        begun = deque(pool.submit(make, item) for item in islice(left, most))
        try:
            while begun:
                yield begun.popleft().result()
                begun.extend(pool.submit(make, item) for item in islice(left, 1))
        finally:
            for one in begun:
                one.cancel()


class Behind:
    """Calls that a loop does not wait for, in threads; a context manager, at whose end all of them are done.

    So what a loop had handed over is kept also where it is interrupted. At most `most` are under way or wait.
    """

    def __init__(self, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="behind")
        self._begun: deque[Future[None]] = deque()
        self._most = most

    def __enter__(self) -> Self:
        return self

    def call(self, function: Callable[..., None], *given: Any) -> None:
        """Have it called. Raises what an earlier call has raised."""
        while self._begun and (len(self._begun) >= self._most or self._begun[0].done()):
            self._begun.popleft().result()
        self._begun.append(self._pool.submit(function, *given))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            for one in self._begun:
                one.result()
