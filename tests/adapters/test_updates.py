"""Updates cut to a rank and added up, against the plain decomposition of the whole matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sidestep.adapters.updates import LowRank, Resized, resized, resized_kronecker, weighted_sum


def low_rank(seed: int, out: int, into: int, rank: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(out, rank, generator=generator), torch.randn(rank, into, generator=generator))


def nearest(update: Tensor, rank: int) -> tuple[Tensor, float]:
    u, values, v = torch.linalg.svd(update.double(), full_matrices=False)
    kept = values[:rank].square().sum() / values.square().sum()
    return (u[:, :rank] * values[:rank] @ v[:rank]).float(), float(kept)


def check(made: Resized, update: Tensor, rank: int) -> None:
    expected, kept = nearest(update, rank)
    most = float(update.abs().max())
    assert (made.update.dense() - expected).abs().max() <= 1e-5 * most
    assert made.kept == pytest.approx(kept, rel=1e-6)
    assert made.update.rank == min(rank, *update.shape)
    assert made.update.up.dtype == made.update.down.dtype == torch.float32


@given(st.integers(0, 9), st.integers(2, 9), st.integers(2, 9), st.integers(1, 6), st.integers(1, 12))
def test_resized(seed: int, out: int, into: int, rank: int, wanted: int) -> None:
    """At full rank and above it is exact, as `nearest` is."""
    update = low_rank(seed, out, into, rank)
    check(resized(update, wanted), update.dense(), wanted)


@given(st.integers(0, 9), st.tuples(*[st.integers(1, 4)] * 4), st.integers(1, 12))
def test_a_kronecker_product(seed: int, sizes: tuple[int, int, int, int], wanted: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(sizes[0], sizes[1], generator=generator)
    second = torch.randn(sizes[2], sizes[3], generator=generator)
    check(resized_kronecker(first, second, wanted), torch.kron(first, second), wanted)


def test_zero_stays_exactly_zero() -> None:
    """Of either factor, as a published LoRA's pair is of both."""
    some = low_rank(1, 6, 5, 3)
    for zero in (some._replace(up=some.up * 0), some._replace(down=some.down * 0)):
        made = resized(zero, 2)
        assert made.kept is None and not made.update.up.any() and not made.update.down.any()
        assert made.update.up.shape == (6, 2) and made.update.down.shape == (2, 5)
    made = resized_kronecker(torch.zeros(2, 2), torch.ones(3, 3), 2)
    assert made.kept is None and not made.update.up.any()


def test_a_sum_is_of_the_products_and_not_of_the_factors() -> None:
    one, other = low_rank(1, 6, 5, 3), low_rank(2, 6, 5, 2)
    made = weighted_sum([(2.0, one), (-0.5, other)])
    assert made.rank == 5
    assert torch.allclose(made.dense(), 2 * one.dense() - 0.5 * other.dense(), atol=1e-6)
