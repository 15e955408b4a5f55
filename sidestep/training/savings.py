"""The ways to save a GPU's memory: one list for plans, and for jobs that have run out of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.config.memory import QUANTIZED, Quantization
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.runtime.words import as_typed

MODEL_WEIGHTS = "half of the model's weights"
BLOCKS_TO_SWAP = (8, 16, 24)  # of 24 layers, of XL's 32
MOST_AT_ONCE = 2
"""Of the swapped layers, on the GPU: one at work, and one on its way. See `acestep.swap`."""
_ROUNDED: tuple[tuple[Quantization, str, str], ...] = (
    ("8bit", "half of the weights in bf16", "nearly the same numbers, somewhat slower"),
    ("nf4", "seven tenths of the weights in bf16", "rougher numbers, somewhat slower; needs bitsandbytes"),
)


@dataclass(frozen=True)
class Saving:
    """Other values for some settings, by their dotted names: which memory they free, and at what price."""

    settings: dict[str, Any]
    frees: str
    price: str

    @property
    def setting(self) -> str:
        """The one that it is about; the others follow from it."""
        return next(iter(self.settings))

    def __str__(self) -> str:
        return ", ".join(f"{name}: {as_typed(value)}" for name, value in self.settings.items())


def savings(spec: JobSpec, longest: float = inf) -> Iterator[Saving]:
    """What `spec` leaves to save, the cheapest first: it costs time, precision, what is learnt, or the model.

    Of one setting there may be several values. `longest` is the longest song in seconds.
    """
    train = spec.train
    for size in (n for n in range(train.batch_size - 1, 0, -1) if train.batch_size % n == 0):
        yield Saving(
            {"train.batch_size": size, "train.accumulation": train.samples_per_step // size},
            "activations, by the samples that are computed at once; train.accumulation makes up for them",
            "the same steps, slower on a GPU",
        )
    if not train.gradient_checkpointing or train.gradient_checkpointing_ratio < 1:
        yield Saving(
            {"train.gradient_checkpointing": True, "train.gradient_checkpointing_ratio": 1.0},
            "the activations of all layers but the one at work",
            "the same numbers, steps about 1.5 times as long",
        )
    if spec.runtime.precision == "fp32":
        price = "the usual precision of training, and faster"
        yield Saving({"runtime.precision": "bf16"}, MODEL_WEIGHTS, price)
    optimizer = OPTIMIZERS[train.optimizer_type]
    if optimizer.lighter:
        lighter = OPTIMIZERS[optimizer.lighter]
        changed: dict[str, Any] = {"train.optimizer_type": optimizer.lighter}
        if lighter.lr != optimizer.lr:
            changed |= {"train.lr": lighter.lr, "train.scheduler": lighter.scheduler}
        yield Saving(changed, lighter.saves, optimizer.price)
    if not train.offload_activations:
        yield Saving(
            {"train.offload_activations": True},
            "activations that wait for the backward pass, which the CPU's memory takes",
            "the same numbers, slower by the copies",
        )
    for layers in BLOCKS_TO_SWAP:
        if layers > train.block_swap:
            yield Saving(
                {"train.block_swap": layers},
                f"the weights of {layers - MOST_AT_ONCE} layers, which the CPU's memory takes",
                "the same numbers, slower by the copies",
            )
    for kind, frees, price in _ROUNDED:
        if train.quantize in ("none", *QUANTIZED[: QUANTIZED.index(kind)]):
            yield Saving({"train.quantize": kind}, frees, price)
    for seconds in (120.0, 60.0, 30.0):
        if seconds < min(longest, train.chunk_duration or inf):
            settings = {"train.chunk_duration": seconds}
            yield Saving(
                settings,
                "activations, by the length of what a step sees",
                f"each step sees {seconds:g} s of a song",
            )
    for rank in (64, 32, 16, 8):
        if rank < train.adapter.rank:
            alpha = train.adapter.alpha * rank / train.adapter.rank
            yield Saving(
                {"train.adapter.rank": rank, "train.adapter.alpha": alpha},
                "the adapter, its gradients and optimizer state, by the rank",
                "a smaller adapter, which learns less detail",
            )
    if spec.model_variant.startswith("xl-"):
        smaller = spec.model_variant.removeprefix("xl-")
        yield Saving({"model_variant": smaller}, MODEL_WEIGHTS, "another model, and tensors of its own")
