"""What a sweep is doing: the status of each run and of what they share, and what all of them have cost."""

from collections import Counter

from pydantic import BaseModel

from sidestep.lifecycle.status import FILE, Status
from sidestep.lifecycle.sweep import Entry, read_sweep
from sidestep.lifecycle.sweep_best import BestRun, read_best
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.words import counted, duration
from sidestep.storage.store import Store

NOT_BEGUN = "not begun"


class RunStatus(BaseModel):
    """One run; without a status it has not begun."""

    folder: str
    name: str
    status: Status | None

    @property
    def state(self) -> str:
        return self.status.state if self.status else NOT_BEGUN

    def in_words(self) -> str:
        """How far it is, on one line."""
        status = self.status
        if status is None:
            return f"{self.name} ({self.folder}): {NOT_BEGUN}"
        parts = [status.state + (f" ({status.phase})" if status.state == "running" else "")]
        if status.step is not None and status.steps:
            parts.append(f"step {status.step} of {status.steps}")
        if status.validation and status.validation.held_out is not None:
            parts.append(f"held-out {status.validation.held_out:.4f}")
        if status.is_stale():
            parts.append(f"no sign of life for {duration(status.silence())}")
        if status.state == "failed" and status.message:
            parts.append(status.message.partition("\n")[0])
        return f"{self.name} ({self.folder}): {', '.join(parts)}"


class SweepStatus(BaseModel):
    """A sweep as a whole.

    Attributes:
        shared: the status of what its runs share, the tensors and the estimate.
        seconds: wall time of all attempts of all that.
    """

    place: str
    shared: Status | None
    runs: list[RunStatus]
    best: BestRun | None
    seconds: float

    @property
    def has_ended(self) -> bool:
        """Whether each run has, well or not."""
        return all(run.state in ("done", "failed") for run in self.runs)

    def in_words(self) -> list[str]:
        """Some lines, the most important first."""
        count = Counter(run.state for run in self.runs)
        states = ", ".join(f"{number} {state}" for state, number in count.most_common())
        lines = [f"a sweep of {counted(len(self.runs), 'runs')}: {states}"]
        if self.best:
            lines.append(f"best: {self.best}")
        if self.shared and self.shared.state != "done":
            lines.append(f"what they share: {self.shared.state} ({self.shared.phase})")
        lines += [run.in_words() for run in self.runs]
        return [*lines, f"{duration(self.seconds)} in all"]


def sweep_status(store: Store) -> SweepStatus:
    """The sweep in `store`. Raises BadDataError where one of its files is damaged."""
    runs = [_run(store, entry) for entry in read_sweep(store)]
    shared = _status(store)
    told = [status for status in (shared, *(run.status for run in runs)) if status]
    seconds = sum(sum(status.spent.seconds.values()) for status in told)
    return SweepStatus(place=store.place, shared=shared, runs=runs, best=read_best(store), seconds=seconds)


def _run(store: Store, entry: Entry) -> RunStatus:
    return RunStatus(folder=entry.folder, name=entry.name, status=_status(store.child(entry.folder)))


def _status(store: Store) -> Status | None:
    try:
        return Status.read(store.read_small(FILE), f"{store.place}/{FILE}")
    except MissingInputError:
        return None
