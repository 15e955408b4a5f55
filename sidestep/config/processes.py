"""How the samples of a step suit the processes that share them, one for each GPU."""

from sidestep.config.training import TrainSpec
from sidestep.runtime.words import counted, out_of


def rounds(samples: int, processes: int) -> int:
    """How many samples one after the other a process computes in a step of so many, at most."""
    return -(-samples // processes)


def said_of_idle(train: TrainSpec, processes: int, samples_of_epoch: int | None = None) -> str:
    """What is to be said where some of the processes have no sample in any step; nothing where all have one.

    `samples_of_epoch` is how many samples an epoch has, where that is known: a step has no more.
    """
    samples = min(train.samples_per_step, samples_of_epoch or train.samples_per_step)
    if processes <= samples:
        return ""
    why = f"train.batch_size {train.batch_size} × train.accumulation {train.accumulation}"
    if samples < train.samples_per_step:
        why = "all of an epoch"
    idle = out_of(processes - samples, processes, "processes")
    return (
        f"{idle} would be idle in each step, and paid for: it has {counted(samples, 'samples')} ({why}). "
        f"Ask for {samples}, or for more samples in a step, which changes what is trained"
    )
