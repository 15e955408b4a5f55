"""What a sweep is doing: the status of each run and of what they share, and what all of them have cost."""

from pydantic import BaseModel

from sidestep.lifecycle.part_status import PartStatus, counted_states, read_part
from sidestep.lifecycle.status import Status
from sidestep.lifecycle.sweep import Entry, read_sweep
from sidestep.lifecycle.sweep_best import BestRun, read_best
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.words import counted, duration
from sidestep.storage.store import Store


class RunStatus(PartStatus):
    """One run."""

    folder: str
    name: str

    def in_words(self) -> str:
        """How far it is, on one line."""
        parts = [self.state]
        if status := self.status:
            parts = [self.state + (f" ({status.phase})" if status.state == "running" else "")]
            if status.step is not None and status.steps:
                parts.append(f"step {status.step} of {status.steps}")
            if status.validation and status.validation.held_out is not None:
                parts.append(f"held-out {status.validation.held_out:.4f}")
        parts += self.trouble()
        if status and status.state == "failed" and status.message:
            parts.append(status.message.partition("\n")[0])
        return f"{self.name} ({self.folder}): {', '.join(parts)}"


class SweepStatus(BaseModel):
    """A sweep as a whole.

    Attributes:
        shared: the status of what its runs share, the tensors and the estimate.
        damaged: what is wrong with files that are not one run's.
        seconds: wall time of all attempts of all that.
    """

    place: str
    shared: Status | None
    runs: list[RunStatus]
    best: BestRun | None
    seconds: float
    damaged: list[str] = []

    @property
    def has_ended(self) -> bool:
        """Whether each run has, well or not."""
        return all(run.state in ("done", "failed") for run in self.runs)

    def in_words(self) -> list[str]:
        """Some lines, the most important first."""
        lines = [f"a sweep of {counted(len(self.runs), 'runs')}: {counted_states(self.runs)}", *self.damaged]
        if self.best:
            lines.append(f"best: {self.best}")
        if self.shared and self.shared.state != "done":
            sign = f", {said}" if (said := self.shared.sign_of_life()) else ""
            lines.append(f"what they share: {self.shared.state_now} ({self.shared.phase}){sign}")
        lines += [run.in_words() for run in self.runs]
        return [*lines, f"{duration(self.seconds)} in all"]


def sweep_status(store: Store) -> SweepStatus:
    """The sweep in `store`. Raises BadDataError where sweep.json, which names its runs, is damaged."""
    runs = [_run(store, entry) for entry in read_sweep(store)]
    shared, of_shared = read_part(store)
    try:
        best, of_best = read_best(store), ""
    except BadDataError as error:
        best, of_best = None, f"{error}: `sidestep run` of the sweep writes it anew"
    told = [status for status in (shared, *(run.status for run in runs)) if status]
    return SweepStatus(
        place=store.place,
        shared=shared,
        runs=runs,
        best=best,
        seconds=sum(sum(status.spent.seconds.values()) for status in told),
        damaged=[said for said in (of_shared, of_best) if said],
    )


def _run(store: Store, entry: Entry) -> RunStatus:
    status, damaged = read_part(store.child(entry.folder))
    return RunStatus(folder=entry.folder, name=entry.name, status=status, damaged=damaged)
