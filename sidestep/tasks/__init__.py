"""The tasks a job can have: preprocess, estimate, train, and the three in a row as a pipeline."""

from typing import TYPE_CHECKING

from sidestep.spec.schema import JobSpec

if TYPE_CHECKING:
    from sidestep.tasks.train import TrainResult


def run(spec: JobSpec) -> "TrainResult | None":
    """Do what `spec.task` says. Training returns what it made, the other tasks return nothing.

    Raises a SideStepError with a message for the user where something is wrong.
    """
    # Imported here: the tasks need torch, and a command line is checked before that is loaded.
    if spec.task in ("preprocess", "pipeline"):
        from sidestep.tasks.preprocess import preprocess

        preprocess(spec)
    if spec.task in ("estimate", "pipeline"):
        from sidestep.tasks.estimate import estimate

        estimate(spec)
    if spec.task in ("train", "pipeline"):
        from sidestep.tasks.train import train

        return train(spec)
    return None
