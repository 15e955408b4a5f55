"""A phase of a job: what has the GPU for itself, before the next one has."""

from collections.abc import Callable
from dataclasses import dataclass

Parts = dict[str, float]
"""Bytes by what they are for: weights, activations, …"""


@dataclass(frozen=True)
class Phase:
    """A phase's memory in a precision, and its FLOPs, which are the same in all."""

    name: str
    precision: str  # as it is wished: auto, or one of bf16, fp16, fp32
    parts: Callable[[str], Parts]
    flops: float

    def memory(self, precision: str) -> float:
        """Bytes in all."""
        return sum(self.parts(precision).values())

    @property
    def usual_precision(self) -> str:
        """What most GPUs would compute it in."""
        return "bf16" if self.precision == "auto" else self.precision
