"""Where a machine is too small for a job: what to change, the change that saves most first."""

from collections.abc import Iterator
from contextlib import contextmanager

from sidestep.config.job import JobSpec
from sidestep.runtime.diskerrors import NO_SPACE, to_user_error
from sidestep.runtime.errors import OutOfMemoryError

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
        savings = preprocess_savings() if task == "preprocess" else training_savings(spec, task)
        raise OutOfMemoryError(
            f"{task}: the memory of the GPU is too small for these settings\n"
            + f"  {text.splitlines()[0]}\n"
            + "  change one or more of these; what saves most comes first:\n"
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
    train, variant = spec.train, spec.model_variant
    checkpointing, ratio = train.gradient_checkpointing, train.gradient_checkpointing_ratio
    is_training = task == "train"  # estimate recomputes all layers, and has neither adapter nor optimizer
    savings = {
        "train.gradient_checkpointing: true (most of the activations)": is_training and not checkpointing,
        "train.gradient_checkpointing_ratio: 1 (activations of the layers that are not recomputed)": (
            is_training and checkpointing and ratio < 1
        ),
        "runtime.precision: bf16 (half of the model's weights)": spec.runtime.precision == "fp32",
        f"model_variant: {variant.removeprefix('xl-')} instead of {variant} (half of the model's weights)": (
            variant.startswith("xl-")
        ),
        "train.chunk_duration: 60, or less (activations by the length of what a step sees)": (
            is_training and (train.chunk_duration is None or train.chunk_duration > 60)
        ),
        "train.adapter.rank: 16 (three quarters of the adapter, its gradients and optimizer state)": (
            is_training and train.adapter.rank > 16
        ),
        "train.optimizer_type: adamw8bit (three quarters of the optimizer's state)": (
            is_training and train.optimizer_type in ("adamw", "prodigy")
        ),
        "a GPU with more memory, or this one without what else runs on it (`nvidia-smi` shows it)": True,
    }
    return [saving for saving, is_left in savings.items() if is_left]


def preprocess_savings() -> list[str]:
    """Songs are encoded in tiles, so their length matters little."""
    return [
        "this GPU without what else runs on it (`nvidia-smi` shows it)",
        "a GPU with more memory: preprocess once, the tensors then serve every training",
        "runtime.device: cpu (the same tensors, slowly)",
    ]
