"""The tasks a job can have: preprocess, estimate, train, and the three in a row as a pipeline."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from sidestep.config.job import JobSpec
from sidestep.config.needs import check_needs
from sidestep.runtime.preemption import Preemption

if TYPE_CHECKING:
    from sidestep.lifecycle.finish import TrainResult


def run(spec: JobSpec, preemption: Preemption | None = None) -> "TrainResult | None":
    """Do what `spec.task` says. Training returns what it made, the other tasks return nothing.

    SIGTERM and Ctrl-C are taken as notice that the machine will go (see `Preemption`), unless the caller has
    taken them already. Raises a SideStepError with a message for the user where something is wrong.
    """
    from sidestep.preflight.places import check_places

    check_needs(spec)
    check_places(spec)
    # Imported here: the tasks need torch, and a spec and its places are checked before that is loaded.
    from sidestep.lifecycle.job import Attempt
    from sidestep.tasks.limits import limits_explained

    with nullcontext(preemption) if preemption else Preemption() as notice, Attempt(spec, notice) as attempt:
        if spec.task in ("preprocess", "pipeline"):
            from sidestep.tasks.preprocess import preprocess

            with limits_explained(spec, "preprocess"):
                preprocess(spec, attempt.begin)
        if spec.task in ("estimate", "pipeline"):
            from sidestep.tasks.estimate import estimate

            with limits_explained(spec, "estimate"):
                estimate(spec, attempt.begin)
        if spec.task in ("train", "pipeline"):
            from sidestep.tasks.train import train

            with limits_explained(spec, "train"):
                return train(attempt)
    return None
