"""Which of several jobs of one spec this process is, as the platform that started them says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidestep.runtime.errors import BadSpecError

VARIABLES: Mapping[str, str | None] = {
    "JOB_COMPLETION_INDEX": None,  # a Kubernetes Job with completionMode: Indexed
    "SLURM_ARRAY_TASK_ID": None,  # sbatch --array
    "SKYPILOT_JOB_RANK": None,  # sky jobs launch --num-jobs
    "SKYPILOT_NODE_RANK": "SKYPILOT_NUM_NODES",
    "DSTACK_NODE_RANK": "DSTACK_NODES_NUM",
}
"""The variables that hold an index from 0 on, by rank, each with the one that says how many there are where a
job by itself has an index, too: then one of one is none."""

COUNTS: Mapping[str, str] = {
    "SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_COUNT",
    "SKYPILOT_JOB_RANK": "SKYPILOT_NUM_JOBS",
    **{name: count for name, count in VARIABLES.items() if count},
}
"""Where a platform says how many jobs it has started, by the index's variable. Kubernetes does not."""


@dataclass(frozen=True)
class Numbered:
    """An index from 0 on, the variable that holds it, and how many there are, where that is known."""

    index: int
    variable: str
    count: int | None = None
    counted_by: str = ""


def numbered(environ: Mapping[str, str]) -> Numbered | None:
    """The index that the platform gave this process; None where it is a job by itself.

    Raises BadSpecError where it is no whole number.
    """
    for name, count in VARIABLES.items():
        if not environ.get(name, "").strip():
            continue
        if count and environ.get(count, "1").strip() in ("", "1"):
            continue
        counted_by = COUNTS.get(name, "")
        has_count = bool(environ.get(counted_by, "").strip())
        return Numbered(
            _whole(environ, name), name, _whole(environ, counted_by) if has_count else None, counted_by
        )
    return None


def _whole(environ: Mapping[str, str], name: str) -> int:
    text = environ[name].strip()
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadSpecError(f"{name} = {text!r}: must be a whole number, 0 or more, as the platform sets it")
    return int(text)
