"""Runs on a quantized base: resolved once, recorded, and kept; how it is held elsewhere may change."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.acestep.shapes import decoder_bytes
from sidestep.acestep.tiny import tiny_config
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import BadSpecError
from sidestep.training.machine import Machine
from tests.facts import facts
from tests.planning.cards import least_memory
from tests.runs import adapter, newest, train, train_until_stopped
from tests.songs import MakeSpec

EVERY_EPOCH: dict[str, Any] = {"epochs": 3, "checkpoint": {"every_epochs": 1}}
SIZES = decoder_bytes(tiny_config("base"), 4)


def recorded(spec: JobSpec) -> Any:
    folder = Path(spec.output_place) / newest(spec).folder
    return json.loads((folder / "training_state.json").read_text())["recipe"].get("train.quantize")


def on_a_gpu_of(memory: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "memory", memory)


def test_auto_is_found_out_once(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the card that a run begins on; it keeps to it on a larger one, and is what asking for it gives."""
    auto, plain = {**EVERY_EPOCH, "quantize": "auto"}, {**EVERY_EPOCH, "quantize": "8bit"}
    on_a_gpu_of(least_memory(SIZES["8bit"]), monkeypatch)
    train_until_stopped(make_spec("auto", **auto), monkeypatch, 1)
    assert recorded(make_spec("auto")) == "8bit"
    on_a_gpu_of(least_memory(SIZES["none"]), monkeypatch)
    with pytest.raises(BadSpecError, match=facts("train.quantize", "'8bit' then", "'none' now")):
        train(make_spec("auto", **EVERY_EPOCH))
    train(make_spec("auto", **auto, block_swap=2, offload_activations=True))
    train(make_spec("plain", **plain))
    assert recorded(make_spec("auto")) == recorded(make_spec("plain")) == "8bit"
    assert adapter(make_spec("auto")) == adapter(make_spec("plain"))


def test_a_run_without_says_nothing_of_it(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older one; so it goes on under `auto` wherever that would quantize."""
    train_until_stopped(make_spec(**EVERY_EPOCH), monkeypatch, 1)
    assert recorded(make_spec()) is None
    on_a_gpu_of(1, monkeypatch)
    train(make_spec(**EVERY_EPOCH, quantize="auto"))
    assert recorded(make_spec()) is None
    with pytest.raises(BadSpecError, match=facts("train.quantize", "'none' then", "'nf4' now")):
        train(make_spec(**EVERY_EPOCH, quantize="nf4", extend=True))
