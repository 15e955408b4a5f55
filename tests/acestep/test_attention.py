"""Banded attention is dense attention with a window, at every edge and in its gradients."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.acestep import load_model
from sidestep.acestep.attention import attending_to, banded_attention, flash_attention

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
        for output in (banded_attention(query, key, value, SCALE, window), dense(query, key, value, window)):
            gradients = torch.autograd.grad(output, (query, key, value), direction)
            results.append((output, *gradients))
        for found, wanted in zip(*results, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4, msg=f"length {length}")


@pytest.fixture
def flash_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the package flash-attn: its documented function, by the definition, and its calls."""
    calls: list[dict[str, Any]] = []

    def flash_attn_func(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        assert query.dtype == key.dtype == value.dtype
        calls.append({"heads": (query.shape[2], key.shape[2]), **options})
        left, right = options["window_size"]
        groups = query.shape[2] // key.shape[2]
        key, value = (x.repeat_interleave(groups, dim=2) for x in (key, value))
        distance = torch.arange(key.shape[1]) - torch.arange(query.shape[1])[:, None]
        seen = (distance <= right) & (-distance <= left) if left >= 0 else torch.full_like(distance, 1) > 0
        scores = torch.einsum("bihd,bjhd->bhij", query, key) * options["softmax_scale"]
        return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)

    package = ModuleType("flash_attn")
    package.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    return calls


def decoder_inputs() -> dict[str, torch.Tensor]:
    """Of two samples, longer than a window."""
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 75, 64, generator=generator),
        "context_latents": torch.randn(2, 75, 128, generator=generator),
        "encoder_hidden_states": torch.randn(2, 9, 64, generator=generator),
        "timestep": torch.tensor([0.3, 0.8]),
        "timestep_r": torch.tensor([0.3, 0.8]),
    }


def test_flash_is_the_same_function(tiny_checkpoints: Path, flash_calls: list[dict[str, Any]]) -> None:
    """The whole decoder by flash-attn's window, and by banded blocks."""
    inputs = decoder_inputs()
    outputs = {}
    for name in ("sdpa", "flash"):
        model = load_model(tiny_checkpoints, "base", parts=("transformer",), attention=name)
        with torch.no_grad():
            outputs[name] = model.transformer(**inputs).sample
    torch.testing.assert_close(outputs["flash"], outputs["sdpa"], rtol=0, atol=1e-5)
    # Of four layers, two slide; each layer also attends to the conditions, always in full.
    assert [call["window_size"] for call in flash_calls] == [(8, 8), (-1, -1), (-1, -1), (-1, -1)] * 2
    assert {call["heads"] for call in flash_calls} == {(4, 2)}


def test_padded_conditions_are_left_out_by_either_kernel(
    tiny_checkpoints: Path, flash_calls: list[dict[str, Any]]
) -> None:
    """Two samples at once are what each is by itself; flash-attn takes no mask, so torch's attention does."""
    inputs = decoder_inputs()
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    for name in ("sdpa", "flash"):
        model = load_model(tiny_checkpoints, "base", parts=("transformer",), attention=name)
        with torch.no_grad():
            unmasked = model.transformer(**inputs).sample
            flash_calls.clear()
            with attending_to(mask):
                both = model.transformer(**inputs).sample
            windows = [call["window_size"] for call in flash_calls]
            alone = {key: value[1:] for key, value in inputs.items()}
            alone["encoder_hidden_states"] = alone["encoder_hidden_states"][:, :4]
            single = model.transformer(**alone).sample
        assert windows == ([(8, 8), (-1, -1)] * 2 if name == "flash" else [])  # self-attention alone
        torch.testing.assert_close(both[1:], single, rtol=0, atol=1e-5)
        torch.testing.assert_close(both[:1], unmasked[:1], rtol=0, atol=1e-5)
        assert float((both[1:] - unmasked[1:]).abs().max()) > 1e-3


def test_flash_repeats_itself_where_that_is_asked_for(flash_calls: list[dict[str, Any]]) -> None:
    query = torch.randn(1, 3, 2, 8)
    before = torch.are_deterministic_algorithms_enabled()  # a training in this process may have left it on
    try:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            flash_attention(query, query, query.double(), SCALE)  # the value's precision is everyone's
    finally:
        torch.use_deterministic_algorithms(before)
    assert [call["deterministic"] for call in flash_calls] == [False, True]


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
            banded_attention(query, key, key, SCALE, window=16)
        return size

    assert saved(2048) <= 2.1 * saved(1024)


def test_far_positions_play_no_part() -> None:
    query, key, value = (torch.randn(1, 100, 2, 8) for _ in range(3))
    before = banded_attention(query, key, value, SCALE, window=8)
    value[:, 50] += 100
    changed = (banded_attention(query, key, value, SCALE, window=8) != before).any(dim=-1).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(42, 59))
