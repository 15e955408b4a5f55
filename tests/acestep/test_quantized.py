"""Frozen layers in 8 and 4 bits: what they hold, that they compute with it, and that it may be moved."""

import copy
import sys
from functools import partial
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from sidestep.acestep import load_model
from sidestep.acestep.attention import why_no_flash
from sidestep.acestep.quantized import QuantizedLinear, check_quantization, pack
from sidestep.acestep.releases import released_config
from sidestep.acestep.shapes import decoder_bytes
from sidestep.acestep.tiny import tiny_config
from sidestep.config.memory import QUANTIZED, Quantization, bytes_held, chosen_quantization
from sidestep.config.training import TrainSpec
from sidestep.runtime.errors import MachineError
from sidestep.training.optimizer import check_optimizer
from tests.planning.cards import least_memory

ADAMW8BIT = TrainSpec(optimizer_type="adamw8bit")
GENERATOR = torch.Generator().manual_seed(0)


def layer_of(weight: torch.Tensor, kind: Quantization) -> QuantizedLinear:
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer = QuantizedLinear(plain, kind, torch.float32)
    layer.load_state_dict(pack(weight, kind)._asdict(), strict=True, assign=True)
    return layer


def test_8bit_rounds_as_bitsandbytes_does() -> None:
    weight = torch.randn(48, 64, generator=GENERATOR).half()
    codes, scales, _ = bnb.int8_vectorwise_quant(weight)
    found = pack(weight, "8bit")
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.scales.flatten() * 127, scales.flatten())


def test_nf4_is_that_of_bitsandbytes() -> None:
    weight = torch.randn(48, 64, generator=GENERATOR)
    codes, state = bnb.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    assert torch.equal(layer_of(weight, "nf4").weight, bnb.dequantize_4bit(codes, state))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_it_computes_with_what_it_holds(kind: Quantization) -> None:
    """Odd sizes, a row of zeros, and the gradient of the input; what is held is what is said."""
    weight = torch.randn(7, 33, generator=GENERATOR)
    weight[2] = 0
    layer = layer_of(weight, kind)
    x = torch.randn(2, 5, 33, generator=GENERATOR, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, linear(x, layer.weight)) and torch.equal(layer.weight[2], weight[2])
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(gradient, (2 * y) @ layer.weight)
    assert sum(buffer.nbytes for buffer in layer.buffers()) == bytes_held(7 * 33, 7, kind, 4)
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("kind", QUANTIZED)
def test_it_may_be_moved(kind: Quantization) -> None:
    layer = layer_of(torch.randn(16, 64, generator=GENERATOR), kind)
    x = torch.randn(3, 64, generator=GENERATOR)
    before = layer(x)
    for _ in range(2):
        layer._apply(torch.clone)  # type: ignore[no-untyped-call]  # as .to() does
        assert torch.equal(layer(x), before)
    assert torch.equal(copy.deepcopy(layer)(x), before)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_only_the_layers_matrices_are_rounded(tiny_checkpoints: Path, kind: Quantization) -> None:
    plain, rough = (
        load_model(tiny_checkpoints, "base", parts=("transformer",), quantize=each).transformer
        for each in ("none", kind)
    )
    kinds = {name: type(module) for name, module in rough.named_modules() if isinstance(module, nn.Linear)}
    assert {name for name, found in kinds.items() if found is QuantizedLinear} == {
        name for name in kinds if name.startswith("layers.")
    }
    for name, tensor in rough.named_parameters():
        assert torch.equal(tensor, plain.get_parameter(name)), name
    held = sum(tensor.nbytes for tensor in rough.state_dict().values())
    assert held == decoder_bytes(tiny_config("base"), 4)[kind]


def test_auto_goes_by_what_the_weights_leave() -> None:
    found = {}
    for variant in ("base", "xl-base"):
        sizes = decoder_bytes(released_config(variant), 2)
        for kind, size in sizes.items():
            assert chosen_quantization(sizes, least_memory(size)) == kind
            assert kind == "nf4" or chosen_quantization(sizes, least_memory(size) - 9) != kind
        cards = (None, 6, 8, 10, 12, 16)
        found[variant] = [chosen_quantization(sizes, card and card * 2**30) for card in cards]
    assert found == {
        "base": ["none", "nf4", "none", "none", "none", "none"],
        "xl-base": ["none", "nf4", "nf4", "8bit", "8bit", "none"],
    }


def test_nf4_needs_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check_quantization("8bit")
    with pytest.raises(MachineError, match=r"train\.quantize is nf4.*bitsandbytes(.|\n)*8bit"):
        check_quantization("nf4")


@pytest.mark.parametrize(
    "error", ["ImportError('x.so: undefined symbol')", "OSError('libcudart.so')", "RuntimeError('no\\nCUDA')"]
)
def test_packages_whose_libraries_do_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    """Each fails in its own way, and with pages."""
    for name in ("bitsandbytes", "flash_attn"):
        (tmp_path / f"{name}.py").write_text(f"raise {error}")
        for module in [each for each in sys.modules if each.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    checks = partial(check_quantization, "nf4"), partial(check_optimizer, ADAMW8BIT)
    for check in checks:
        with pytest.raises(MachineError) as caught:
            check()
        assert "bitsandbytes cannot be imported: " in str(caught.value) and "CUDA" not in str(caught.value)
    assert "flash-attn does not load" in (why_no_flash() or "")
