"""Everything that is wrong with a spec, in one message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidestep.config.section import CREDENTIALS

NOT_GIVEN = object()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: which field, where it was written, why, and the value if it may be shown."""

    field: str
    message: str
    origin: str
    value: Any = NOT_GIVEN

    def __str__(self) -> str:
        value = "" if self.value is NOT_GIVEN else f" = {shown(self.value)}"
        return f"{self.field}{value} ({self.origin}): {self.message}"


def shown(value: Any) -> str:
    """A value as the report prints it: short, and without a password."""
    text = CREDENTIALS.sub("***@", repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def report(problems: Sequence[Problem]) -> str:
    """All problems, one a line."""
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{count} in the job spec", *(f"  {problem}" for problem in problems)])
