"""Compiled blocks by inductor, as a run has them: loss and gradients of each step are the plain path's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep import adapters
from sidestep.acestep.attention import WindowedAttnProcessor
from sidestep.acestep.recompute import recompute_layers
from sidestep.config.adapter import AdapterSpec
from sidestep.training.compiled import TOLERANCE, compile_blocks, compile_checked, difference
from sidestep.training.dropout import Masks
from sidestep.training.flow import flow_loss
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from tests.bench.rivals import SHORT, decoder
from tests.bench.rivals import songs as long_songs
from tests.songs import MakeSpec, song, write_songs
from tests.training.trainers import trainer_of

pytestmark = [
    pytest.mark.usefixtures("fresh"),
    pytest.mark.slow,
    pytest.mark.timeout(900),  # inductor calls a C++ compiler some dozens of times
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # inductor's own use of it
]

DROPOUT = {"dropout": 0.5}


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    found = {name: each.grad for name, each in trainer.adapter.parameters().items()}
    return {name: each for name, each in found.items() if each is not None}


@pytest.mark.parametrize("recomputed", [1, 0.5])
def test_each_step_is_the_plain_one(
    make_spec: MakeSpec, two_layers: Path, tmp_path: Path, recomputed: float
) -> None:
    """Also in micro-batches that the check before the first step does not see: of two songs of one length,
    one of which is padded, and of a longer one."""
    sizes = ((40, 6), (40, 11), (56, 9))
    songs = write_songs(tmp_path / "lengths", [song(n, f, c) for n, (f, c) in enumerate(sizes)])
    settings = {"gradient_checkpointing_ratio": recomputed, "batch_size": 2, "adapter": DROPOUT}
    plain, compiled = (
        trainer_of(make_spec(name, **settings, checkpoint_dir=two_layers, dataset_dir=songs))
        for name in ("plain", "compiled")
    )
    assert compile_checked(compiled, 2, "fp32") is None
    for step in range(2):  # from the same weights: what Adam makes of a zero's last bit is not the question
        with torch.no_grad():
            for name, weight in compiled.adapter.parameters().items():
                weight.copy_(plain.adapter.parameters()[name])
        one, same = plain.step(step), compiled.step(step)
        assert one is not None and same is not None
        assert same.losses == pytest.approx(one.losses, rel=1e-5)
        assert difference(gradients(plain), gradients(compiled), 1e-5) is None
        assert {len(batch) for batch in plain.micro_batches(one.group.entries)} == {1, 2}


@pytest.mark.parametrize(
    ("adapter", "precision"),
    [(DROPOUT | {"type": "lokr", "factor": 4}, "fp32"), (DROPOUT, "bf16")],
    ids=["lokr", "bf16"],
)
def test_the_check_passes_what_it_should(
    make_spec: MakeSpec, two_layers: Path, tmp_path: Path, adapter: dict[str, Any], precision: str
) -> None:
    """With recomputation, which is the default."""
    songs = write_songs(tmp_path / "one", [song(1)])
    spec = make_spec(checkpoint_dir=two_layers, dataset_dir=songs, adapter=adapter)
    trainer = trainer_of(spec, Machine(torch.device("cpu"), precision))
    assert compile_checked(trainer, 2, precision) is None
    result = trainer.step(0)
    assert result is not None and result.is_finite


def test_at_a_real_shape() -> None:
    """A song of 20 s with its prompt, heads as wide as the released ones, a window within the song."""
    models = []
    for _ in range(2):
        model = decoder(torch.device("cpu"), layers=2)
        model.set_attn_processor(WindowedAttnProcessor())
        adapter = adapters.inject(model, AdapterSpec(rank=64, alpha=128, dropout=0.1), seed=1)
        torch.manual_seed(2)
        with torch.no_grad():
            for weight in adapter.parameters().values():
                weight.add_(0.02 * torch.randn_like(weight))
        recompute_layers(model, 1.0)
        models.append((model.train(), adapter, Masks(adapter, seed=1)))
    compile_blocks(models[1][0])
    found = []
    for model, adapter, masks in models:
        masks.begin([3], torch.device("cpu"))
        loss = flow_loss(model, long_songs(20, SHORT, torch.device("cpu"))[1])
        loss.backward()
        weights = adapter.parameters().items()
        found.append({"loss": loss.detach(), **{n: w.grad for n, w in weights if w.grad is not None}})
    plain, compiled = found
    assert len(plain) == 1 + len(models[0][1].parameters())
    assert difference(plain, compiled, TOLERANCE["fp32"]) is None
