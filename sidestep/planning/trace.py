"""One training step on tensors that have shapes and no content: what it keeps, and what it computes.

The step is the real one: our adapter put into diffusers' decoder, our checkpointing, attention and loss,
under Fabric's precision. Tensors are FakeTensors on the CPU: autograd then keeps exactly what it keeps in a
real step. (On the meta device attention takes another path, whose scores are quadratic in the length.) In
half precision the CPU's autocast stands for CUDA's, which holds the same tensors in bf16 or fp16.

Layers repeat themselves, so a step of a few stands for one of all: of each kind of layer the last is kept,
and what it adds counts once for each layer of its kind. That is exact, as kinds differ in all that matters.
"""

import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sidestep import adapters
from sidestep.acestep.attention import WindowedAttnProcessor
from sidestep.acestep.loading import build_transformer
from sidestep.acestep.quantized import Packed, QuantizedLinear, Quantizing
from sidestep.acestep.recompute import recompute_layers, recomputed_layers
from sidestep.acestep.weights import load_exactly
from sidestep.config.adapter import AdapterSpec
from sidestep.config.memory import Quantization
from sidestep.planning.meter import Meter
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.machine import Machine
from sidestep.training.offload import Away, Offload
from sidestep.training.sensitivity import attention_weights


@dataclass(frozen=True)
class Trace:
    """One micro-batch. Bytes, but for the two counts and FLOPs."""

    weights: int  # of the frozen decoder
    layer: int  # those of one of its layers
    adapter_tensors: int
    adapter_parameters: int
    shapes: tuple[torch.Size, ...]  # of the adapter's tensors
    kept: int  # by autograd, from the end of the forward pass on
    peak: int  # the most that is in memory at a time beside weights, adapter, its gradients and optimizer
    forward: int  # FLOPs of the forward pass, as in a validation
    flops: int  # forward, backward and what is computed again


def trace_step(
    config: dict[str, Any],
    adapter: AdapterSpec | None,
    *,
    recomputed: float,
    precision: str,
    frames: int,
    conditions: int,
    samples: int = 1,
    quantize: Quantization = "none",
    offload: bool = False,
) -> Trace:
    """Trace a step on so many `samples` of `frames` latents and `conditions` condition tokens each.

    `config` is an original config.json, `recomputed` the share of layers under gradient checkpointing,
    `precision` bf16, fp16 or fp32; `quantize` and `offload` are those of `train`. Without an `adapter` the
    attention's own weights get gradients, as in an estimate, and count as its tensors.

    Raises BadSpecError where the adapter's targets do not fit the model.
    """
    # As text they are the cache's key: plans of neighbouring settings share their traces.
    model, tuning = json.dumps(config, sort_keys=True), adapter.model_dump_json() if adapter else ""
    step = (frames, conditions, samples)
    return _trace(model, tuning, recomputed, precision, *step, quantize, offload)


@lru_cache(maxsize=256)
def _trace(
    model: str,
    tuning: str,
    recomputed: float,
    precision: str,
    frames: int,
    conditions: int,
    samples: int,
    quantize: Quantization,
    offload: bool,
) -> Trace:
    # fp16 is as wide as bf16, which CPUs have.
    machine = Machine(torch.device("cpu"), "fp32" if precision == "fp32" else "bf16")
    with torch.device("meta"):
        transformer = build_transformer(json.loads(model))
        load_exactly(transformer, transformer.state_dict().items(), "meta", machine.dtype, "the config")
        transformer.requires_grad_(False)
        if quantize != "none":
            Quantizing(quantize, machine.dtype).put_into(transformer)
        if quantize == "nf4":
            _unpack_to_shapes(transformer)
        weights = sum(weight.nbytes for weight in transformer.state_dict().values())
        layer = sum(weight.nbytes for weight in transformer.layers[0].state_dict().values())
        parameters = _to_train(transformer, tuning)
    transformer.set_attn_processor(WindowedAttnProcessor())
    recompute_layers(transformer, recomputed)
    kinds = _kinds(transformer, parameters, recomputed)
    shown = {kind: index for index, kind in enumerate(kinds)}  # the last layer of each kind
    transformer.layers = nn.ModuleList(transformer.layers[index] for index in sorted(shown.values()))
    step = (frames, conditions, samples)
    meter, forward = _measure_step(machine, transformer, sorted(shown.values()), len(kinds), *step, offload)

    left_out = {index: shown[kind] for index, kind in enumerate(kinds) if shown[kind] != index}

    def of_left_out(amounts: Counter[int], before: int) -> int:
        return sum(amounts[like] for index, like in left_out.items() if index < before)

    return Trace(
        weights=weights,
        layer=layer,
        adapter_tensors=len(parameters),
        adapter_parameters=sum(parameter.numel() for parameter in parameters.values()),
        shapes=tuple(parameter.shape for parameter in parameters.values()),
        kept=meter.kept.total() + of_left_out(meter.kept, before=len(kinds)),
        # While a layer is at work, what the layers before it keep is in memory; that of later ones is gone.
        peak=max(peak + of_left_out(meter.kept, before=layer) for layer, peak in meter.peaks.items()),
        forward=forward.total() + of_left_out(forward, before=len(kinds)),
        flops=meter.flops.total() + of_left_out(meter.flops, before=len(kinds)),
    )


class _Vanishing(Offload):
    """What leaves the device is in no memory that counts."""

    def leave(self, tensor: Tensor) -> Any:
        return tensor.size(), tensor.stride(), tensor.dtype

    def come_back(self, away: Away) -> Tensor:
        size, stride, dtype = away.content
        return torch.empty_strided(size, stride, dtype=dtype)


def _unpack_to_shapes(transformer: nn.Module) -> None:
    """Let quantized layers make their matrices of nothing, as a plan needs no bitsandbytes, which would."""
    for layer in transformer.modules():
        if isinstance(layer, QuantizedLinear):
            vars(layer)["unpacked"] = partial(_like_unpacked, layer)


def _like_unpacked(layer: QuantizedLinear, held: Packed) -> Tensor:
    return held.codes.new_empty(layer.out_features, layer.in_features, dtype=layer.dtype)


def _to_train(transformer: nn.Module, tuning: str) -> dict[str, nn.Parameter]:
    """What gets gradients, by its original name: the adapter's tensors, or the attention's weights."""
    if tuning:
        with _without_notices():
            return adapters.inject(transformer, AdapterSpec.model_validate_json(tuning), seed=0).parameters()
    weights = attention_weights(transformer)
    for weight in weights.values():
        weight.requires_grad_(True)
    return weights


@contextmanager
def _without_notices() -> Iterator[None]:
    """Silence the adapter's notices on its settings: they are for the run that trains it."""
    logger = logging.getLogger(adapters.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _kinds(
    transformer: AceStepTransformer1DModel, parameters: dict[str, nn.Parameter], recomputed: float
) -> list[tuple[Any, ...]]:
    """What each layer's memory and FLOPs depend on: window, adapter, checkpointing, gradients.

    The first layer with an adapter passes no gradient on, and those before it have none at all.
    """
    adapted: list[list[Any]] = [[] for _ in transformer.layers]
    for name, parameter in parameters.items():
        _, layer, within = name.split(".", 2)
        adapted[int(layer)].append((within, parameter.shape))
    first = next(index for index, found in enumerate(adapted) if found)
    return [
        (
            layer.self_attn.sliding_window,
            tuple(adapted[index]),
            index < recomputed_layers(len(adapted), recomputed),
            (index > first) - (index < first),
        )
        for index, layer in enumerate(transformer.layers)
    ]


def _measure_step(
    machine: Machine,
    transformer: AceStepTransformer1DModel,
    numbers: list[int],
    head: int,
    frames: int,
    conditions: int,
    samples: int,
    offload: bool,
) -> tuple[Meter, Counter[int]]:
    """Forward and backward, and the FLOPs of the first by layer.

    `numbers` are the layers' in the whole decoder, `head` comes after them all.
    """
    # What comes to be inside is fake by itself; the weights on the meta device are let in to be made so.
    with FakeTensorMode(allow_non_fake_inputs=True), _interrupts_noted() as interrupted:
        transformer.to_empty(device="cpu")
        fabric = machine.fabric()
        model = fabric.setup_module(transformer, move_to_device=False)
        model.train()
        batch = Batch(
            latents=torch.empty(samples, frames, 64),
            context=torch.empty(samples, frames, 128),
            conditions=torch.empty(samples, conditions, transformer.condition_embedder.in_features),
            timesteps=torch.empty(samples),
            noise=torch.empty(samples, frames, 64),
            mask=torch.empty(samples, conditions, dtype=torch.bool) if samples > 1 else None,
        )
        # The batch itself, some megabytes, is not counted.
        given = [part for part in vars(batch).values() if part is not None]
        meter = Meter([*transformer.parameters(), *transformer.buffers(), *given], interrupted)
        with meter:
            for parameter in transformer.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(meter.leave_out)
            kept_elsewhere = _Vanishing(transformer) if offload else nullcontext()
            with meter.watch(transformer.layers, numbers, head), kept_elsewhere:
                loss = flow_loss(model, batch)
            meter.kept, forward = Counter(meter.held), Counter(meter.flops)
            fabric.backward(loss)
    return meter, forward


@contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Inside, Ctrl-C sets an event: raised where a tensor is just being freed, Python would drop it."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt
