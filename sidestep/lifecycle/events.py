"""TensorBoard's files on their way to the output."""

from collections.abc import Callable

from sidestep.lifecycle.output import LOGS, RUNS, Output
from sidestep.training.events import stale


def _alone() -> None:
    """The check where nobody else writes."""


class EventsToSend:
    """Complete files go up before the record of their last step: they are added by the thread that trains,
    and sent by the one that saves."""

    def __init__(self, output: Output, newest: int, now: int, check_now: Callable[[], None] = _alone) -> None:
        """Of the files from `newest`, the last committed step, on: those after `now` are void.

        `check_now` raises TakenError where another writer has taken over, whose files have the same names.
        """
        self._output, self._check_now = output, check_now
        self._check_now()
        store = output.store.child(RUNS)
        for name in stale((file.path for file in store.list_files()), now + 1):
            self._check_now()
            store.delete(name)
        here = [file.name for file in output.path(RUNS).iterdir()]
        self._names = [name for name in stale(here, newest + 1) if name not in stale(here, now + 1)]

    def add(self, name: str | None) -> None:
        """A file is complete; None: there is no new one."""
        if name:
            self._names.append(name)

    def send(self) -> None:
        """Bring them to the output, and the log so far."""
        names = list(self._names)
        self._check_now()
        self._output.send(RUNS, names)
        self._output.send(LOGS)
        for name in names:  # others may have been added meanwhile
            self._names.remove(name)
