"""Runs that keep an average of their weights, cut off at any place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sidestep.adapters.adapter import read_safetensors
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.loop import EVALUATION_DRAWS
from tests.runs import Stopped, newest, outcome, train, train_until_stopped
from tests.songs import MakeSpec

SETTINGS: dict[str, Any] = {"epochs": 3, "ema": {"decay": 0.7}, "checkpoint": {"every_epochs": 1}}


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(folder / "training_state.safetensors")[0]


@pytest.mark.parametrize(
    "adapter",
    [pytest.param({}, marks=pytest.mark.slow), {"type": "lokr", "rank": 2, "use_scalar": True}],
    ids=["lora", "lokr"],
)
def test_a_resumed_run_has_the_average_of_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, adapter: dict[str, Any]
) -> None:
    whole, cut = (make_spec(name, adapter=adapter, **SETTINGS) for name in ("whole", "cut"))
    train(whole)
    train_until_stopped(cut, monkeypatch, commits=1)
    made: list[Batch] = []

    def vanish(model: nn.Module, batch: Batch) -> torch.Tensor:
        """In the middle of the last evaluation."""
        made.append(batch)
        if len(made) == EVALUATION_DRAWS // 2:
            raise Stopped
        return flow_loss(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr("sidestep.training.loop.flow_loss", vanish)
        with pytest.raises(Stopped):
            train(cut)
    assert newest(cut).step < newest(whole).step
    train(cut)
    assert outcome(cut) == outcome(whole)
    first, second = (state_of(Path(spec.output_place) / newest(spec).folder) for spec in (whole, cut))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    averages = [name for name in first if name.startswith("ema.")]
    assert averages
    assert any(not torch.equal(first[name], first[name.replace("ema.", "adapter.", 1)]) for name in averages)


@pytest.mark.slow
def test_what_is_published_is_what_is_in_use(make_spec: MakeSpec) -> None:
    """The average, the weights beside an average, and those of a run without one."""
    adapters, losses = [], []
    for name, ema in (("average", {"decay": 0.7}), ("beside", {"decay": 0.7, "use": False}), ("without", {})):
        spec = make_spec(name, **SETTINGS | {"ema": ema})
        losses.append(train(spec).last_loss)
        adapters.append(outcome(spec)[0])
    assert adapters[1] == adapters[2] != adapters[0]
    assert losses[1] == losses[2] != losses[0]
