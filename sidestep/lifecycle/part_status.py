"""One of many jobs that are one to their user, a shard or a run of a sweep, as it is shown beside others.

What cannot be read of one hides nothing of the others: it is named, with what to do.
"""

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel

from sidestep.lifecycle.status import FILE, Status
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.store import Store

NOT_BEGUN = "not begun"
DAMAGED = "damaged"  # nobody knows how it is
STATES = ("done", "running", "preempted", "failed", "lost", DAMAGED, NOT_BEGUN)
MENDED = "its next attempt writes the file anew, and goes on from what is saved"


class PartStatus(BaseModel):
    """One job; without a status it has not begun, or its file is `damaged`, as that text says."""

    status: Status | None
    damaged: str = ""

    @property
    def state(self) -> str:
        if self.status is None:
            return DAMAGED if self.damaged else NOT_BEGUN
        return self.status.state_now

    def trouble(self) -> list[str]:
        """What is to be said of its file, or of its silence; nothing where it is well."""
        if self.damaged:
            return [self.damaged]
        return [said] if self.status and (said := self.status.sign_of_life()) else []


def counted_states(parts: Iterable[PartStatus]) -> str:
    """`2 done, 1 running`."""
    count = Counter(part.state for part in parts)
    return ", ".join(f"{count[state]} {state}" for state in STATES if count[state])


def read_part(store: Store, path: str = FILE) -> tuple[Status | None, str]:
    """What a status file says, and what is wrong with it: one of the two, or neither where it is gone."""
    try:
        return read_status(store, path), ""
    except MissingInputError:
        return None, ""
    except BadDataError as error:
        return None, "; ".join(map(str.strip, str(error).splitlines())).replace(":;", ":")


def read_status(store: Store, path: str = FILE) -> Status:
    """What a status file says. Raises MissingInputError where it is gone, BadDataError where it is none."""
    data = store.read_small(path)
    try:
        return Status.read(data, f"{store.place}/{path}")
    except BadDataError as error:
        raise BadDataError(f"{error}\n  {MENDED}") from error
