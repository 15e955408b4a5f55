"""What somebody wishes of a platform besides the spec: options of `sidestep render`, which no run sees."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

Spot = Literal["only", "preferred", "never"]
SPOT: Sequence[Spot] = get_args(Spot)


@dataclass(frozen=True)
class Wishes:
    """Each is None where nobody wishes for anything: then it is as the platform's own module has it."""

    max_price: float | None = None  # of a machine, in $ an hour
    spot: Spot | None = None  # preferred: on demand where no spot machine is to be had
    keep_codes: bool | None = None  # whether the platform sees the exit codes of the job as they are
    disk: int | None = None  # the workspace's, in GiB

    @property
    def said(self) -> list[str]:
        """The names of those that somebody has said."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


NO_WISHES = Wishes()


def flag(name: str) -> str:
    """A wish as it is said on the command line."""
    return f"--{name.replace('_', '-')}"
