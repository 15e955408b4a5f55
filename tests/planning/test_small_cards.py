"""What a plan says of quantized and swapped layers, on cards of every size."""

import math
import sys
from dataclasses import replace
from functools import partial

import pytest

from sidestep.acestep.releases import released_config
from sidestep.acestep.shapes import decoder_bytes, decoder_shapes
from sidestep.acestep.tiny import tiny_config
from sidestep.config.job import JobSpec
from sidestep.planning import plan
from sidestep.planning.cards import CARDS
from sidestep.planning.memory import memory_of, on_a_card
from sidestep.planning.phases import ESTIMATE, phases_of
from sidestep.planning.report import as_data, as_text
from sidestep.planning.songs import assumed_songs
from sidestep.planning.trace import _trace
from tests.facts import tells
from tests.planning.cards import least_memory
from tests.planning.test_plan import TINY, plan_of, spec_of

CONFIG = tiny_config("base")


def test_swapped_layers_leave_their_memory_but_for_two() -> None:
    weights = [memory_of(spec_of(block_swap=n), CONFIG, "fp32", 200, 10).weights for n in (0, 2, 4, 9)]
    shapes = decoder_shapes(CONFIG).items()
    layer = 4 * sum(math.prod(shape) for name, shape in shapes if ".layers.1." in name)
    assert [weights[0] - left for left in weights] == [0, 0, 2 * layer, 2 * layer]


@pytest.mark.slow
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
    before_bf16 = on_a_card(spec, CONFIG, least_memory(sizes["none"]), has_bf16=False)
    assert before_bf16.train.quantize != "none", "it computes in fp32, as the run does there"
    half = spec.changed({"runtime.precision": "fp16"})
    assert on_a_card(half, CONFIG, least_memory(sizes["none"]), has_bf16=False).train.quantize == "none"
    assert on_a_card(spec_of(quantize="8bit"), CONFIG, 1).train.quantize == "8bit"


@pytest.mark.slow
def test_a_plan_goes_by_the_card_that_it_is_to_fit() -> None:
    sizes = decoder_bytes(CONFIG, 2)
    plan = plan_of(spec_of(quantize="auto", sample={}), limit=least_memory(sizes["8bit"]))
    assert plan.phases[-1].memory["weights"].value == pytest.approx(sizes["8bit"])


def test_a_released_xl_model_is_quantized_on_a_card_without_bf16() -> None:
    """A T4's 16 GB hold it in bf16, and not in fp32, which it trains in."""
    (t4,) = (card for card in CARDS if not card.has_bf16)
    spec, config = spec_of(quantize="auto"), released_config("xl-base")
    assert on_a_card(spec, config, t4.memory, has_bf16=False).train.quantize == "8bit"
    assert on_a_card(spec, config, t4.memory).train.quantize == "none"


def test_a_plan_s_table_goes_by_each_card_s_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float | None, bool]] = []

    def noted(spec: JobSpec, config: object, memory: float | None, *, has_bf16: bool = True) -> JobSpec:
        seen.append((memory, has_bf16))
        return spec

    monkeypatch.setattr(plan, "on_a_card", noted)
    plan_of(spec_of(quantize="auto"))
    assert {(card.memory, card.has_bf16) for card in CARDS} <= set(seen)


def test_where_the_estimate_alone_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the whole model; the other phases may well fit, and the plan says how."""
    spec = spec_of(task="pipeline", accumulation=1)
    phases = phases_of(spec, TINY, assumed_songs(7, 8.0))
    sizes = {name: {"weights": 9e9 if name == ESTIMATE else 1e9} for name in (each.name for each in phases)}
    larger = [replace(each, parts=partial(lambda name, _: sizes[name], each.name)) for each in phases]
    monkeypatch.setattr(plan, "phases_of", lambda *_: larger)
    found = plan_of(spec, limit=8e9)
    assert tells(as_text(found), "estimate takes 9.00 GB", "preprocess and train", "as they are")
    assert as_data(found)["fit"]["changes"] is None and as_data(found)["fit"]["without_estimate"] == []
    found = plan_of(spec.changed({"task": "train"}), limit=8e9)
    assert "without_estimate" not in as_data(found)["fit"]
