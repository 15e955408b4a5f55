"""The decoder's attention: full, or banded where a layer has a sliding window.

diffusers masks the sliding layers with a dense S×S matrix, which costs memory quadratic in a song's
length and keeps CUDA's fast kernels from being used. Here are two ways to the same function whose
memory is linear in the length:

- `sdpa`, everywhere: a query block of w positions meets the three key blocks that its window can reach.
- `flash`, where the package flash-attn is installed: its kernel takes the window as such.

The conditions of several samples are padded. diffusers hands no mask of them down to its layers, so it comes
another way: see `attending_to`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.ace_step_transformer import AceStepAttention
from torch import Tensor

from sidestep.runtime.words import first_line

AttentionName = Literal["sdpa", "flash"]

_mask: ContextVar[Tensor | None] = ContextVar("mask of the conditions", default=None)


@contextmanager
def attending_to(mask: Tensor | None) -> Iterator[None]:
    """Inside, the decoder sees those conditions alone that are True in `mask` [B, L]; None: all."""
    before = _mask.set(mask)
    try:
        yield
    finally:
        _mask.reset(before)


def mask_of_conditions() -> Tensor | None:
    """What the decoder is attending to."""
    return _mask.get()


class WindowedAttnProcessor:
    """Attention processor for diffusers' ACE-Step decoder. Holds no weights."""

    # The transformer asks its first processor for this name; for a flash backend it builds no dense
    # mask and leaves the window to the processor, which is what happens here.
    _attention_backend = AttentionBackendName.FLASH
    _parallel_config = None

    def __init__(self, attention: AttentionName = "sdpa") -> None:
        self._attention = {"sdpa": banded_attention, "flash": flash_attention}[attention]

    def __call__(
        self,
        attn: AceStepAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, S, hidden] (and conditions [B, L, hidden] in cross-attention) → [B, S, hidden]."""
        assert attention_mask is None, "the decoder takes no padding: trim its inputs"
        is_cross = attn.is_cross_attention and encoder_hidden_states is not None
        source = encoder_hidden_states if is_cross else hidden_states
        query = attn.norm_q(attn.to_q(hidden_states).unflatten(-1, (attn.heads, attn.head_dim)))
        key = attn.norm_k(attn.to_k(source).unflatten(-1, (attn.kv_heads, attn.head_dim)))
        value = attn.to_v(source).unflatten(-1, (attn.kv_heads, attn.head_dim))
        if not is_cross and image_rotary_emb is not None:
            query, key = (
                apply_rotary_emb(x, image_rotary_emb, use_real=True, use_real_unbind_dim=-2, sequence_dim=1)
                for x in (query, key)
            )
        if is_cross and (mask := mask_of_conditions()) is not None:
            mixed = banded_attention(query, key, value, attn.scaling, mask=mask)  # flash-attn takes none
        else:
            window = None if is_cross else attn.sliding_window
            mixed = self._attention(query, key, value, attn.scaling, window)
        output: Tensor = attn.to_out[1](attn.to_out[0](mixed.flatten(2).to(query.dtype)))
        return output


def why_no_flash() -> str | None:
    """Why flash-attn cannot be used on this machine; None where it can. Its import needs its own CUDA."""
    try:
        import_module("flash_attn")
    except Exception as error:  # noqa: BLE001 - whatever its own libraries fail with
        if isinstance(error, ModuleNotFoundError) and error.name == "flash_attn":
            return "flash-attn is not installed"
        return f"flash-attn does not load: {first_line(error)}"
    return None


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """`banded_attention` by flash-attn's kernel: bf16 or fp16 on a GPU, grouped heads as they are."""
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    # Norms and rotation may have left query and key in fp32; the kernel takes one half precision for all.
    mixed: Tensor = flash_attn_func(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        softmax_scale=scale,
        window_size=(-1, -1) if window is None else (window, window),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return mixed


def banded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Softmax attention of query [B, S, H, D] over key and value [B, L, G, D], H a multiple of G.

    With a `window` w (self-attention, S = L), position i sees the positions j with |i − j| ≤ w. With a
    `mask` [B, L] and no window, all see the keys that are True in it. Returns [B, S, H, D].
    """
    # Grouped heads are spelt out: CUDA's memory-efficient kernel takes equal head counts only, and
    # without it torch falls to a kernel with an S×S matrix.
    groups = query.shape[2] // key.shape[2]
    query = query.transpose(1, 2)
    key, value = (x.repeat_interleave(groups, dim=2).transpose(1, 2) for x in (key, value))
    if window is None or query.shape[2] <= window + 1:
        seen = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
    else:
        mixed = _banded(query, key, value, scale, window)
    return mixed.transpose(1, 2)


def _banded(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int) -> Tensor:
    """`banded_attention` within |i − j| ≤ window, on [B, H, S, D], in blocks of `window` queries."""
    batch, _, length, _ = query.shape
    blocks = -(-length // window)
    tail = blocks * window - length

    def per_block(x: Tensor) -> Tensor:
        """[B, H, S, D] → [B·blocks, H, 3·window, D]: the keys from a block before to a block after."""
        padded = F.pad(x, (0, 0, window, window + tail)).unflatten(2, (blocks + 2, window))
        reach = torch.cat([padded[:, :, shift : shift + blocks] for shift in range(3)], dim=3)
        return reach.transpose(1, 2).flatten(0, 1)

    mixed = F.scaled_dot_product_attention(
        F.pad(query, (0, 0, 0, tail)).unflatten(2, (blocks, window)).transpose(1, 2).flatten(0, 1),
        per_block(key),
        per_block(value),
        attn_mask=_band(length, window, blocks, query.device).repeat(batch, 1, 1, 1),
        scale=scale,
    )
    by_block: Tensor = mixed.unflatten(0, (batch, blocks))
    return by_block.transpose(1, 2).flatten(2, 3)[:, :, :length]


def _band(length: int, window: int, blocks: int, device: torch.device) -> Tensor:
    """The keys that each query sees, as a mask [blocks, 1, window, 3·window] (bool); each sees some."""
    start = torch.arange(blocks, device=device).view(-1, 1, 1) * window
    query = start + torch.arange(window, device=device).view(1, -1, 1)
    key = start - window + torch.arange(3 * window, device=device).view(1, 1, -1)
    seen = ((query - key).abs() <= window) & (key >= 0) & (key < length)
    return seen.unsqueeze(1)
