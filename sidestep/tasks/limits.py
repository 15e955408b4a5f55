"""Where a machine is too small for a job: what to change, the change that saves most first."""

from collections.abc import Iterator
from contextlib import contextmanager

from sidestep.config.job import JobSpec
from sidestep.runtime.diskerrors import NO_SPACE, to_user_error
from sidestep.runtime.errors import OutOfMemoryError
from sidestep.runtime.words import as_typed
from sidestep.training.savings import MODEL_WEIGHTS, Saving, savings

MOST_FIRST = (
    "train.batch_size",
    *("train.gradient_checkpointing", "runtime.precision", "model_variant", "train.quantize"),
    *("train.block_swap", "train.chunk_duration", "train.offload_activations"),
    *("train.adapter.rank", "train.optimizer_type"),
)
ALLOCATION_FAILED = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # as CUDA's own libraries put it


@contextmanager
def limits_explained(spec: JobSpec, task: str) -> Iterator[None]:
    """A GPU without memory and a disk without space, wherever the block meets them, as one clear message.

    Raises OutOfMemoryError or MachineError in their place.
    """
    try:
        yield
    except RuntimeError as error:
        import torch  # here, as a task that has nothing to do needs none

        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            sign in text for sign in ALLOCATION_FAILED
        ):
            raise
        savings = _OTHERS[task]() if task in _OTHERS else training_savings(spec, task)
        raise OutOfMemoryError(
            f"{task}: the GPU has too little memory for these settings\n"
            + f"  {text.splitlines()[0]}\n"
            + "  change one or more of these, starting with what saves most:\n"
            + "\n".join(f"  - {saving}" for saving in savings)
        ) from error
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise to_user_error(error, "a disk of this machine") from error


def training_savings(spec: JobSpec, task: str = "train") -> list[str]:
    """What `spec` leaves to save, in the order of how much memory it frees on a 2B model.

    Activations of a whole song outweigh the weights unless they are recomputed; the weights come next;
    the adapter with its gradients and optimizer state takes less than 1 GB at rank 64.
    """
    ways: dict[str, list[Saving]] = {}
    for saving in savings(spec):
        # An estimate recomputes all layers, and has neither adapter nor optimizer.
        if task == "train" or saving.frees == MODEL_WEIGHTS:
            ways.setdefault(saving.setting, []).append(saving)
    return [
        *(_in_words(ways[setting]) for setting in MOST_FIRST if setting in ways),
        "a GPU with more memory, or this one without what else runs on it (`nvidia-smi` shows it)",
    ]


def _in_words(choices: list[Saving]) -> str:
    """One setting to change, with the values that it may have."""
    first = choices[0]
    values = " or ".join(as_typed(choice.settings[first.setting]) for choice in choices)
    return f"{f'{first.setting}: {values}' if len(choices) > 1 else first} ({first.frees})"


def preprocess_savings() -> list[str]:
    """Songs are encoded in tiles, so their length matters little."""
    return [
        "this GPU without what else runs on it (`nvidia-smi` shows it)",
        "a GPU with more memory: preprocess once, the tensors then serve every training",
        "runtime.device: cpu (the same tensors, slowly)",
    ]


def sample_savings() -> list[str]:
    """The decoder's weights take most; what it computes grows with the length."""
    return [
        "runtime.precision: bf16 (half the weights' memory)",
        "--seconds: shorter takes",
        "this GPU without what else runs on it (`nvidia-smi` shows it), or one with more memory",
        "runtime.device: cpu (the same takes, slowly)",
    ]


_OTHERS = {"preprocess": preprocess_savings, "sample": sample_savings}
"""Of the tasks that train nothing."""
