"""Updates as products of two matrices, with their scale in the first: cut to a rank, and added up.

The singular value decompositions are made in float64 and without a matrix as large as the weight, so that a
model's hundreds of modules take seconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """An update of a linear layer's weight: up @ down, in float32."""

    up: Tensor  # [out, rank]
    down: Tensor  # [rank, in]

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def is_zero(self) -> bool:
        return not (self.up.any() and self.down.any())

    def dense(self) -> Tensor:
        """The update itself, [out, in]."""
        return self.up @ self.down


class Resized(NamedTuple):
    """An update of another rank, and the share of the squared norm that it keeps; None of a zero update."""

    update: LowRank
    kept: float | None


@torch.no_grad()
def resized(update: LowRank, rank: int) -> Resized:
    """The nearest update of `rank`, or of the largest that its weight can have. Zero stays exactly zero."""
    up, down = update.up.double(), update.down.double()
    rank = min(rank, len(up), down.shape[1])
    left, of_up = torch.linalg.qr(up)
    right, of_down = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(of_up @ of_down.T)
    return _truncated(left @ u, values, v @ right.T, rank)


@torch.no_grad()
def resized_kronecker(first: Tensor, second: Tensor, rank: int) -> Resized:
    """The nearest update of `rank` to kron(first, second), whose singular values are products of theirs."""
    rank = min(rank, len(first) * len(second), first.shape[1] * second.shape[1])
    u, values, v = torch.linalg.svd(first.double(), full_matrices=False)
    other_u, other_values, other_v = torch.linalg.svd(second.double(), full_matrices=False)
    products = torch.outer(values, other_values).flatten()
    every, order = products.square().sum(), products.argsort(descending=True, stable=True)[:rank]
    one, other = order // len(other_values), order % len(other_values)
    left = torch.einsum("ar,br->abr", u[:, one], other_u[:, other]).flatten(0, 1)
    right = torch.einsum("ra,rb->rab", v[one], other_v[other]).flatten(1)
    made = _truncated(left, products[order], right, rank)
    return Resized(made.update, float(products[order].square().sum() / every) if every else None)


def weighted_sum(updates: Sequence[tuple[float, LowRank]]) -> LowRank:
    """Σ weight · update, exactly: the products side by side, so that its rank is the sum of theirs."""
    return LowRank(
        torch.cat([weight * update.up for weight, update in updates], dim=1),
        torch.cat([update.down for _, update in updates]),
    )


def _truncated(left: Tensor, values: Tensor, right: Tensor, rank: int) -> Resized:
    """left · diag(values) · right, cut to `rank`, or filled with zeros; the values' roots on either side."""
    roots = values[:rank].sqrt()
    up, down = left[:, :rank] * roots, roots[:, None] * right[:rank]
    if missing := rank - len(roots):
        up = torch.cat([up, up.new_zeros(len(up), missing)], dim=1)
        down = torch.cat([down, down.new_zeros(missing, down.shape[1])])
    every = values.square().sum()
    kept = float(values[:rank].square().sum() / every) if every else None
    return Resized(LowRank(up.float().contiguous(), down.float().contiguous()), kept)
