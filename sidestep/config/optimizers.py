"""The optimizers, a row for each: what is to be known of one without torch.

`training.optimizer` builds them under the same names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "prodigy"]
Scheduler = Literal["cosine", "cosine_restarts", "linear", "constant", "constant_with_warmup"]
Shape = tuple[int, ...]

_BLOCK = 256  # of bitsandbytes: values that share a scale
_SMALL = 4096  # tensors with fewer values keep 32 bits


def _two_moments(shape: Shape) -> int:
    return 8 * prod(shape)


def _two_moments_in_8_bits(shape: Shape) -> int:
    """Two bytes per value, and a scale for each block and moment."""
    size = prod(shape)
    return 2 * size + 8 * -(-size // _BLOCK) if size >= _SMALL else _two_moments(shape)


def _rows_and_columns(shape: Shape) -> int:
    """For a matrix one value per row and column."""
    return 4 * (shape[-1] + shape[-2]) * prod(shape[:-2]) if len(shape) > 1 else 4 * prod(shape)


def _moments_sum_and_start(shape: Shape) -> int:
    """Two moments, a running sum, and the initial values of what does not start at zero.

    Of LoRA's two factors one does not, so half is counted.
    """
    return 14 * prod(shape)


@dataclass(frozen=True)
class Optimizer:
    """What is known of an optimizer.

    Args:
        state_bytes: what it keeps for a parameter of a shape, in fp32 unless its name says otherwise.
        says: what the schema says behind its name.
        notice: what the wizard says when it is chosen.
        lr: the learning rate where none is given.
        scheduler: the schedule where none is given.
        package: what has to be installed beside the usual packages, as it is imported.
        lighter: the one to change to where memory is short, if any.
        price: what that change costs.
        saves: what others save by changing to this one.
    """

    state_bytes: Callable[[Shape], int]
    says: str = ""
    notice: str = ""
    lr: float = 1e-4
    scheduler: Scheduler = "cosine"
    package: str | None = None
    lighter: OptimizerName | None = None
    price: str = ""
    saves: str = ""


OPTIMIZERS: Mapping[OptimizerName, Optimizer] = {
    "adamw": Optimizer(_two_moments, lighter="adamw8bit", price="nearly the same numbers"),
    "adamw8bit": Optimizer(
        _two_moments_in_8_bits,
        says="(a quarter of its memory; needs bitsandbytes)",
        notice="adamw8bit needs the package bitsandbytes.",
        package="bitsandbytes",
        saves="three quarters of the optimizer's state",
    ),
    "adafactor": Optimizer(_rows_and_columns, says="(almost no memory)"),
    "prodigy": Optimizer(
        _moments_sum_and_start,
        says="(finds the learning rate itself)",
        notice="Prodigy finds the rate itself: lr is 1.0, the scheduler constant.",
        lr=1.0,
        scheduler="constant",
        lighter="adamw8bit",
        price="choose a learning rate",
    ),
}

DOUBTFUL = 0.1  # of a rate that the optimizer finds itself: the least that anybody needs


def doubtful_rate(name: OptimizerName, lr: float | None) -> str:
    """A warning where `lr` is one for other optimizers; "" where it is not.

    An optimizer that finds the rate itself multiplies what it has found by lr, so that 1e-4 is next to none.
    """
    own = OPTIMIZERS[name].lr
    if lr is None or own < 1 or lr >= DOUBTFUL:
        return ""
    return (
        f"train.lr is {lr:g}, and {name} finds the learning rate itself and multiplies it by that: "
        f"leave train.lr out, or set it to {own:g}"
    )
