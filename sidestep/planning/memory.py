"""The memory that a step takes on a GPU, of training or of an estimate, by part: weights, activations …"""

import math
from dataclasses import dataclass
from typing import Any

from sidestep.acestep.shapes import decoder_bytes
from sidestep.config.job import JobSpec
from sidestep.config.memory import chosen_quantization
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.planning.trace import Trace, trace_step
from sidestep.training.savings import MOST_AT_ONCE

CONTEXT = 1.0e9
"""Assumed for CUDA's context, cuBLAS' workspace, loaded kernels, and what the allocator cannot use."""

MULTIPROCESSORS = 132
"""Assumed of the GPU: an H100's; smaller cards have fewer."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, and the trace they come from."""

    weights: float
    adapter: float
    average: float  # of the adapter's weights
    gradients: float
    optimizer: float
    activations: float
    attention: float
    context: float
    trace: Trace

    @property
    def total(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        names = (
            *("weights", "adapter", "average", "gradients", "optimizer"),
            *("activations", "attention", "context"),
        )
        return {name: size for name in names if (size := getattr(self, name))}


def memory_of(
    spec: JobSpec, config: dict[str, Any], precision: str, frames: int, tokens: int, samples: int = 1
) -> Memory:
    """The most that a micro-batch of `samples` takes, of `frames` latents and `tokens` condition tokens each.

    Gradients and optimizer state are there from the second one on, so they count beside activations.
    A quantization that is still to be found out is none: see `on_a_card`.
    """
    train = spec.train
    trace = trace_step(
        config,
        train.adapter,
        recomputed=train.gradient_checkpointing_ratio if train.gradient_checkpointing else 0.0,
        precision=precision,
        frames=frames,
        conditions=tokens,
        samples=samples,
        quantize="none" if train.quantize == "auto" else train.quantize,
        offload=train.offload_activations,
    )
    waiting = max(0, min(train.block_swap, config["num_hidden_layers"]) - MOST_AT_ONCE)
    return Memory(
        weights=trace.weights - waiting * trace.layer,
        adapter=4 * trace.adapter_parameters,
        average=4 * trace.adapter_parameters if train.ema.decay else 0,
        gradients=4 * trace.adapter_parameters,
        optimizer=sum(map(OPTIMIZERS[train.optimizer_type].state_bytes, trace.shapes)),
        activations=trace.peak,
        attention=samples
        * attention_workspace(config, precision, frames, tokens, spec.runtime.deterministic),
        context=CONTEXT,
        trace=trace,
    )


def on_a_card(
    spec: JobSpec, config: dict[str, Any], memory: float | None, *, has_bf16: bool = True
) -> JobSpec:
    """`spec` with what `train.quantize` is on a GPU of so many bytes, where it is auto."""
    if spec.train.quantize != "auto" or memory is None:
        return spec
    wish = spec.runtime.precision
    sizes = decoder_bytes(config, 4 if wish == "fp32" or (wish == "auto" and not has_bf16) else 2)
    return spec.changed({"train.quantize": chosen_quantization(sizes, int(memory))})


def estimate_memory_of(
    spec: JobSpec, config: dict[str, Any], precision: str, frames: int, tokens: int
) -> Memory:
    """The most that a batch of an estimate takes: all layers are recomputed, and there is no adapter.

    A weight's gradient is measured and dropped as soon as it is there: two of the largest are counted.
    """
    trace = trace_step(config, None, recomputed=1.0, precision=precision, frames=frames, conditions=tokens)
    size = 4 if precision == "fp32" else 2
    return Memory(
        weights=trace.weights,
        adapter=0,
        average=0,
        gradients=2 * size * max(math.prod(shape) for shape in trace.shapes),
        optimizer=0,
        activations=trace.peak,
        attention=attention_workspace(config, precision, frames, tokens, spec.runtime.deterministic),
        context=CONTEXT,
        trace=trace,
    )


def attention_workspace(
    config: dict[str, Any], precision: str, frames: int, tokens: int, deterministic: bool
) -> int:
    """Bytes that CUDA's attention kernels take in the backward pass of a sample, beyond its tensors.

    The fused kernels (flash, memory-efficient) hold no scores. In half precision they add up the gradients
    of query, key and value in fp32, 4 bytes for each value, and keep 8 bytes of statistics for each row of
    scores. For the same bits each time, flash adds up the query's once for each group of multiprocessors
    that shares the heads. It is one layer's at a time: a full one's, with the song's keys or the conditions',
    whichever are more.

    Source: dq_accum, dk_accum, dv_accum, softmax_d and nsplits of flash-attention 2; gQ_accum, gK_accum and
    gV_accum of xformers' memory-efficient kernels. torch carries both.
    """
    patches: int = -(-frames // config.get("patch_size", 2))
    heads: int = config["num_attention_heads"]
    size: int = config["head_dim"]
    statistics = 8 * heads * patches
    if precision == "fp32":
        return statistics
    copies = -(-MULTIPROCESSORS // heads) if deterministic else 1
    return 4 * heads * size * (copies * patches + 2 * max(patches, tokens)) + statistics
