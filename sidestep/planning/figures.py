"""Numbers that say where they come from."""

from dataclasses import dataclass
from typing import Literal

Basis = Literal["measured", "computed", "assumed"]
"""measured: read from the job's own files. computed: follows from the spec and the model's shapes, by
counting or a written formula. assumed: a stated guess, which the words beside it give."""


@dataclass(frozen=True)
class Figure:
    """A number of a plan. `value` is in the unit of its name; `says` is what people read."""

    value: float
    says: str
    basis: Basis


def gigabytes(size: float) -> str:
    """Bytes as people compare them with a card: 10⁹."""
    return f"{size / 1e9:.2f} GB"
