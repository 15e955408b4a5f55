"""Banded attention is dense attention with a window, at every edge and in its gradients."""

import pytest
import torch
from torch import Tensor

from sidestep.acestep.attention import attention

SCALE = 0.3


def dense(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """The definition: softmax over all positions, those out of the window masked."""
    groups = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(groups, dim=2) for x in (key, value))
    position = torch.arange(query.shape[1])
    seen = (position[:, None] - position).abs() <= window
    scores = torch.einsum("bihd,bjhd->bhij", query, key) * SCALE
    return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)


@pytest.mark.parametrize("window", [8, 128])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_banded_is_dense_within_the_window(window: int, batch: int, kv_heads: int) -> None:
    for length in (1, window - 1, window, window + 1, window + 2, 2 * window, 2 * window + 1, 5 * window + 3):
        generator = torch.Generator().manual_seed(length)
        query = torch.randn(batch, length, 4, 16, generator=generator, requires_grad=True)
        key = torch.randn(batch, length, kv_heads, 16, generator=generator, requires_grad=True)
        value = torch.randn(batch, length, kv_heads, 16, generator=generator, requires_grad=True)
        direction = torch.randn(batch, length, 4, 16, generator=generator)
        results = []
        for output in (attention(query, key, value, SCALE, window), dense(query, key, value, window)):
            gradients = torch.autograd.grad(output, (query, key, value), direction)
            results.append((output, *gradients))
        for found, wanted in zip(*results, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4, msg=f"length {length}")


def test_memory_is_linear_in_the_length() -> None:
    """What autograd keeps for a song twice as long is twice as much, not four times."""

    def saved(length: int) -> int:
        size = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        query, key = (torch.randn(1, length, 2, 8, requires_grad=True) for _ in range(2))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            attention(query, key, key, SCALE, window=16)
        return size

    assert saved(2048) <= 2.1 * saved(1024)


def test_far_positions_play_no_part() -> None:
    query, key, value = (torch.randn(1, 100, 2, 8) for _ in range(3))
    before = attention(query, key, value, SCALE, window=8)
    value[:, 50] += 100
    changed = (attention(query, key, value, SCALE, window=8) != before).any(dim=-1).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(42, 59))
