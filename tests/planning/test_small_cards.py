"""What a plan says of quantized and swapped layers, on cards of every size."""

import math
import sys

import pytest

from sidestep.acestep.shapes import decoder_bytes, decoder_shapes
from sidestep.acestep.tiny import tiny_config
from sidestep.config.memory import least_memory
from sidestep.planning.memory import memory_of, on_a_card
from sidestep.planning.trace import _trace
from tests.planning.test_plan import plan_of, spec_of

CONFIG = tiny_config("base")


def test_swapped_layers_leave_their_memory_but_for_two() -> None:
    weights = [memory_of(spec_of(block_swap=n), CONFIG, "fp32", 200, 10).weights for n in (0, 2, 4, 9)]
    shapes = decoder_shapes(CONFIG).items()
    layer = 4 * sum(math.prod(shape) for name, shape in shapes if ".layers.1." in name)
    assert [weights[0] - left for left in weights] == [0, 0, 2 * layer, 2 * layer]


def test_a_plan_needs_no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a layer in 4 bits, too, a trace has the shapes alone."""
    dora = {"type": "lora", "weight_decompose": True}

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    _trace.cache_clear()
    for adapter in ({"type": "lora"}, dora):
        nf4, plain = (spec_of(quantize=kind, adapter=adapter) for kind in ("nf4", "none"))
        held, whole = (memory_of(spec, CONFIG, "bf16", 200, 10) for spec in (nf4, plain))
        assert held.weights < whole.weights and held.activations > 0


def test_auto_is_another_thing_on_each_card() -> None:
    sizes, spec = decoder_bytes(CONFIG, 2), spec_of(quantize="auto")
    for kind, size in sizes.items():
        assert on_a_card(spec, CONFIG, least_memory(size)).train.quantize == kind
    assert on_a_card(spec, CONFIG, None) == spec
    assert on_a_card(spec_of(quantize="8bit"), CONFIG, 1).train.quantize == "8bit"


def test_a_plan_goes_by_the_card_that_it_is_to_fit() -> None:
    sizes = decoder_bytes(CONFIG, 2)
    plan = plan_of(spec_of(quantize="auto", sample={}), limit=least_memory(sizes["8bit"]))
    assert plan.phases[-1].memory["weights"].value == pytest.approx(sizes["8bit"])
