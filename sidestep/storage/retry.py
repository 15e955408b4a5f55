"""Retrying what failed and may pass: one rule, with limits of its own for each use."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sidestep.runtime.errors import StorageError
from sidestep.runtime.liveness import waiting

Answer = TypeVar("Answer")

_jitter = random.SystemRandom()  # training seeds the global generator, and uploads run beside it


def _say_nothing(error: Exception, pause: float) -> None:
    """The callback of those who do not want to know."""


@dataclass(frozen=True)
class Retry:
    """Tries again after pauses that double, until it is time to give up.

    By default for a request to a store: long enough to outlast a server's restart, and over about a minute
    after the first failure at the latest, so that whoever asked can decide what to do about a store that
    stays away. Clock and sleep are a test's to replace.
    """

    tries: int = 3  # at least so many, however slow each was,
    seconds: float = 30.0  # and at least for so long after the first failure
    first_pause: float = 1.0
    longest_pause: float = 8.0
    jitter: float = 0.5  # up to this share of a pause is left out, so that not all come back at once
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def pause(self, failures: int, elapsed: float) -> float | None:
        """Seconds to wait after so many failures, `elapsed` seconds since the first; None to give up."""
        if failures >= self.tries and elapsed >= self.seconds:
            return None
        pause = min(self.first_pause * 2.0 ** (failures - 1), self.longest_pause)
        return pause * (1 - self.jitter * _jitter.random())

    def call(
        self,
        attempt: Callable[[], Answer],
        may_pass: Callable[[Exception], bool],
        failed: Callable[[Exception, float], object] = _say_nothing,
    ) -> Answer:
        """Return what `attempt` returns, tried again after failures of which `may_pass` says that they may.

        `failed` is told of each of these, and of the seconds until then. Raises what the last try raised.
        """
        failures, first = 0, 0.0
        while True:
            try:
                return attempt()
            except Exception as error:
                failures += 1
                first = self.clock() if failures == 1 else first
                pause = self.pause(failures, self.clock() - first)
                if pause is None or not may_pass(error):
                    raise
                failed(error, pause)
            with waiting():
                self.sleep(pause)


class ShortAnswerError(StorageError):
    """A file came in another size than the store says it has, though nothing failed on the way."""


def check_answer(where: str, got: int, size: int) -> None:
    """Raises ShortAnswerError, which is to be tried again, unless all `size` bytes of the file came."""
    if got != size:
        raise ShortAnswerError(
            f"{where}: {got:,} bytes came of a file of {size:,}, time and again. Run the same command again; "
            "if that does not pass, ask who runs the store, or a proxy before it."
        )


def was_short(error: Exception) -> bool:
    """Whether it is a ShortAnswerError."""
    return isinstance(error, ShortAnswerError)


@dataclass(frozen=True)
class Limits:
    """How long a store is waited for, and in what parts large files move."""

    retry: Retry = Retry()
    connect_seconds: float = 10  # also how long a server may leave 128 KiB of an upload unread
    read_seconds: float = 20  # of silence where an answer is due; what the system still holds counts in
    part_bytes: int = 8 * 2**20  # larger files move in parts of this size, where the store has such


LIMITS = Limits()
