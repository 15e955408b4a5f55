"""`sidestep status`: what a job is doing, read from its output."""

import time
from collections.abc import Callable

from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.status import FILE, Status
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.progress import duration
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

WATCH_SECONDS = 5.0


def show_status(
    place: str, options: StorageSpec, *, as_json: bool, watch: bool, write: Callable[[str], object]
) -> None:
    """Show the status of the job whose output is at `place`; with `watch` again and again, until it ends.

    Raises MissingInputError where there is none, and what the store raises.
    """
    store = open_store(place, options)
    while True:
        status = _read(store)
        write(status.model_dump_json(indent=2) + "\n" if as_json else _for_people(status))
        if not watch or status.state != "running":
            return
        time.sleep(WATCH_SECONDS)


def _read(store: Store) -> Status:
    try:
        return Status.read(store.read_bytes(FILE), f"{store.place}/{FILE}")
    except MissingInputError as error:
        raise MissingInputError(
            f"there is no {FILE} in {store.place}: no job has begun there. Name a job's output_dir."
        ) from error


def _for_people(status: Status) -> str:
    """Some lines, the most important first; what is not known is not said."""
    lines = [f"{status.name}: {status.state}" + (f" ({status.phase})" if status.state == "running" else "")]
    if status.step is not None and status.steps:
        epoch = f", epoch {status.epoch} of {status.epochs}" if status.epoch is not None else ""
        loss = f", loss {status.loss:.4f}" if status.loss is not None else ""
        lines.append(f"step {status.step} of {status.steps} ({status.step / status.steps:.0%}){epoch}{loss}")
    if status.state == "running" and status.steps_per_second and status.seconds_left is not None:
        lines.append(f"{status.steps_per_second:.3g} steps/s, {duration(status.seconds_left)} left")
    if status.last_commit:
        lines.append(f"newest checkpoint: {status.last_commit.folder}, after step {status.last_commit.step}")
    spent = status.spent
    seconds = sum(spent.seconds.values())
    preempted = f", {spent.preemptions} of them preempted" if spent.preemptions else ""
    lines.append(f"attempt {status.attempt}{preempted}, {duration(seconds)} in all")
    if status.message:
        lines.append(status.message)
    if status.is_stale():
        lines.append(
            f"no sign of life for {duration(status.silence())}: its machine is gone. The same command goes "
            "on from the newest checkpoint."
        )
    elif status.state == "running":
        lines.append(f"last sign of life {duration(max(status.silence(), 0))} ago")
    return "\n  ".join(lines) + "\n"
