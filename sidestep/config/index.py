"""Which of several jobs of one spec this process is, as the platform that started them says."""

import re
from collections.abc import Mapping

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


def completion_index(environ: Mapping[str, str]) -> int | None:
    """The index that the platform gave this process; None where it is a job by itself.

    Raises BadSpecError where it is no whole number.
    """
    for name, count in VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text or (count and environ.get(count, "1").strip() in ("", "1")):
            continue
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise BadSpecError(
                f"{name} = {text!r}: must be a whole number, 0 or more, as the platform sets it"
            )
        return int(text)
    return None
