"""The decoder's frozen linear layers in 8 or 4 bits: held so, and computed with in the model's precision.

Only weights are rounded, once, as they are read. Both passes compute with the same rounded weight, so that
the gradient is that of the loss, and adapter and activations are as precise as without.

8bit: each row of the weight in int8, scaled by its largest value: as bitsandbytes' LLM.int8, which rounds
activations as well. nf4: QLoRA's 4-bit NormalFloat (arXiv 2305.14314), 64 a block, by bitsandbytes.

Such a layer is an `nn.Linear` whose `weight` is worked out when it is asked for: what reads weights (PEFT,
LyCORIS, DoRA's lengths) sees the matrix that the layer computes with, not the bytes that it holds. These are
plain buffers, which may be moved between devices like any other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sidestep.acestep.swap import content_of
from sidestep.config.memory import NF4_BLOCK, Quantization
from sidestep.runtime.errors import MachineError
from sidestep.runtime.words import first_line


class Packed(NamedTuple):
    """A weight as it is held."""

    codes: Tensor  # 8bit: int8 [out, in]; nf4: uint8 [⌈out · in / 2⌉, 1]
    scales: Tensor  # fp32; 8bit: [out, 1]; nf4: [⌈out · in / 64⌉]


class QuantizedLinear(nn.Linear):
    """y = W·x + b, where W is held in 8 or 4 bits. It has a place for its content, and none yet."""

    codes: Tensor
    scales: Tensor

    def __init__(self, like: nn.Linear, kind: Quantization, dtype: torch.dtype) -> None:
        """In the place of `like`, whose bias it takes over. `dtype` is what it computes in."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.kind, self.dtype = kind, dtype
        self.register_parameter("bias", like.bias)
        with torch.device("meta"):
            codes, scales = _empty(kind, self.out_features, self.in_features)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # not a parameter, as nothing ever trains it
        """The matrix [out, in] that the layer computes with, made anew at each call."""
        return self.unpacked(Packed(self.codes, self.scales))

    def unpacked(self, held: Packed) -> Tensor:
        """The matrix that is held so."""
        shape = (self.out_features, self.in_features)
        if self.kind == "8bit":
            return (held.codes * held.scales).to(self.dtype)
        made: Tensor = _nf4().dequantize_4bit(*held, NF4_BLOCK, "nf4", shape, self.dtype)
        return made

    def forward(self, input: Tensor) -> Tensor:  # torch's name of it
        product: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """x·Wᵀ, which keeps nothing for the backward pass: the weight is worked out again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return linear(x.to(layer.dtype), layer.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        layer: QuantizedLinear = ctx.layer
        return gradient.to(layer.dtype) @ layer.weight, None


def weight_of(layer: nn.Linear) -> Tensor:
    """The matrix that `layer` computes with, also while it is swapped out, and then on the CPU."""
    if isinstance(layer, QuantizedLinear):
        return layer.unpacked(Packed(content_of(layer.codes), content_of(layer.scales)))
    return content_of(layer.weight)


def pack(weight: Tensor, kind: Quantization) -> Packed:
    """Round a weight [out, in] to what a layer of `kind` holds, on the weight's device."""
    weight = weight.float().contiguous()
    if kind == "8bit":
        largest = weight.abs().amax(dim=1, keepdim=True)
        scales = largest / 127
        codes = (weight / torch.where(scales == 0, 1.0, scales)).round().to(torch.int8)
        return Packed(codes, scales)
    return Packed(*_nf4().quantize_4bit(weight, NF4_BLOCK, "nf4", torch.uint8))


@dataclass(frozen=True)
class Quantizing:
    """Puts layers of `kind` in the place of the linear layers of a decoder's blocks, as it is loaded."""

    kind: Quantization
    dtype: torch.dtype

    def of(self, transformer: nn.Module) -> dict[str, nn.Linear]:
        """The layers it is about, by their names: nearly all of the weights. What is before and after the
        blocks stays as it is, as do norms."""
        return {
            f"layers.{name}": module
            for name, module in transformer.get_submodule("layers").named_modules()
            if isinstance(module, nn.Linear)
        }

    def packed(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The buffers of the layer whose weight is called `name`."""
        above = name.removesuffix("weight")
        held = pack(weight, self.kind)._asdict()
        yield from ((f"{above}{field}", tensor) for field, tensor in held.items())

    def put_into(self, transformer: nn.Module) -> None:
        """Put the layers in place, on the meta device."""
        for name, module in self.of(transformer).items():
            above, _, last = name.rpartition(".")
            setattr(transformer.get_submodule(above), last, QuantizedLinear(module, self.kind, self.dtype))


def check_quantization(kind: Quantization | Literal["auto"]) -> None:
    """Raise MachineError where what rounds and unpacks the weights is not installed."""
    if kind == "nf4":
        _nf4()


def _empty(kind: Quantization, rows: int, columns: int) -> Packed:
    if kind == "8bit":
        return Packed(torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows, 1))
    values = rows * columns
    return Packed(torch.empty(-(-values // 2), 1, dtype=torch.uint8), torch.empty(-(-values // NF4_BLOCK)))


class _Nf4(NamedTuple):
    """bitsandbytes' operations: each has a kernel for CUDA, one for the CPU, and a shape for tracing."""

    quantize_4bit: Callable[..., tuple[Tensor, Tensor]]
    dequantize_4bit: Callable[..., Tensor]


def _nf4() -> _Nf4:
    try:
        import bitsandbytes  # noqa: F401  # it registers them
    except Exception as error:  # whatever its own libraries fail with
        raise MachineError(
            f"train.quantize is nf4, but bitsandbytes cannot be imported: {first_line(error)}\n"
            "  pip install bitsandbytes, or choose 8bit, which needs no package"
        ) from error
    operations = torch.ops.bitsandbytes
    return _Nf4(operations.quantize_4bit.default, operations.dequantize_4bit.default)
