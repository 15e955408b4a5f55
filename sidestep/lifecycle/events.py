"""TensorBoard's files on their way to the output."""

from sidestep.lifecycle.output import Output
from sidestep.training.events import stale

FOLDER = "runs"


class EventsToSend:
    """Complete files go up before the record of their last step."""

    def __init__(self, output: Output, newest: int, now: int) -> None:
        """Of the files from `newest`, the last committed step, on: those after `now` are void."""
        self._output = output
        store = output.store.child(FOLDER)
        for name in stale((file.path for file in store.list_files()), now + 1):
            store.delete(name)
        here = [file.name for file in output.path(FOLDER).iterdir()]
        self._names = [name for name in stale(here, newest + 1) if name not in stale(here, now + 1)]

    def add(self, name: str | None) -> None:
        """A file is complete; None: there is no new one."""
        if name:
            self._names.append(name)

    def send(self) -> None:
        names = list(self._names)
        self._output.send(FOLDER, names)
        self._output.send("logs")
        self._names = [name for name in self._names if name not in names]
