"""Every optimizer learns at the guide's rates, and its whole state survives a save and a load."""

import sys
from pathlib import Path

import pytest
import torch

from sidestep.adapters.adapter import read_safetensors
from sidestep.runtime.errors import BadDataError, MachineError
from sidestep.tasks import run as train
from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.loop import Trainer
from sidestep.training.numbers import Progress
from tests.facts import facts, tells
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "prodigy")
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
each_in_turn = pytest.mark.parametrize(
    "optimizer", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS[1:])]
)


def take_steps(trainer: Trainer, start: int, end: int) -> None:
    for step in range(start, end):
        trainer.step(step)


@each_in_turn
def test_lora_b_moves_at_the_guides_rate_within_fifty_steps(make_spec: MakeSpec, optimizer: str) -> None:
    """It starts at zero; an optimizer whose steps are a share of the parameter would leave it there."""
    spec = make_spec(optimizer_type=optimizer, lr=None, epochs=17, accumulation=1, warmup_steps=0)
    assert spec.train.lr == (1.0 if optimizer == "prodigy" else 1e-4)
    trainer = trainer_of(spec)
    take_steps(trainer, 0, 50)
    for name, parameter in trainer.adapter.parameters().items():
        if "lora_B" in name:
            assert parameter.detach().abs().mean() > 1e-4, name


def test_the_rate_of_a_step_is_the_schedules(make_spec: MakeSpec) -> None:
    """Adam's first step moves each weight that has a gradient by the learning rate."""
    spec = make_spec(optimizer_type="adamw", lr=1e-3, weight_decay=0, epochs=50, warmup_steps=10)
    trainer = trainer_of(spec)
    before = {name: p.detach().clone() for name, p in trainer.adapter.parameters().items()}
    result = trainer.step(0)
    moved = torch.cat(
        [(p.detach() - before[n]).flatten() for n, p in trainer.adapter.parameters().items() if "lora_B" in n]
    )
    assert result is not None and result.lr == pytest.approx(1e-4)  # the first of ten steps of warm-up
    assert float(moved.abs().median()) == pytest.approx(1e-4, rel=1e-3)


@each_in_turn
def test_weight_decay_pulls_weights_towards_zero(make_spec: MakeSpec, optimizer: str) -> None:
    lengths = []
    for decay in (0.0, 0.5):
        spec = make_spec(optimizer_type=optimizer, lr=None, weight_decay=decay, epochs=8)
        trainer = trainer_of(spec)
        take_steps(trainer, 0, 16)
        lora_a = [p.detach() for name, p in trainer.adapter.parameters().items() if "lora_A" in name]
        lengths.append(float(torch.nn.utils.get_total_norm(lora_a)))
    assert lengths[1] < 0.9999 * lengths[0]


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [*((name, "lora") for name in OPTIMIZERS), ("adamw8bit", "lokr"), ("prodigy", "lokr")],
)
def test_the_state_survives_a_save_and_a_load_exactly(
    make_spec: MakeSpec, tmp_path: Path, optimizer: str, kind: str
) -> None:
    """A second trainer that reads the checkpoint takes the first one's steps, bit for bit."""
    adapter = {"type": kind, "rank": 64, "alpha": 64}  # large enough for bitsandbytes to use 8 bits
    if kind == "lokr":
        adapter |= {"rank": 2, "factor": 8}
        adapter |= dict.fromkeys(("decompose_both", "use_scalar", "weight_decompose"), True)
    spec = make_spec(optimizer_type=optimizer, lr=None, epochs=4, adapter=adapter)
    first, second = trainer_of(spec), trainer_of(spec)
    take_steps(first, 0, 3)
    for name, data in checkpoint_files(first.adapter, first.optimizer, Progress(3), {}, {}).items():
        (tmp_path / name).write_bytes(b"".join(data))
    restore(tmp_path, second.adapter, second.optimizer)
    assert_same_state(first, second)
    take_steps(first, 3, 6)
    take_steps(second, 3, 6)
    assert_same_state(first, second)
    if optimizer == "adamw8bit" and kind == "lora":
        states = [state["state1"].dtype for state in second.optimizer.state.values()]
        assert torch.uint8 in states


def assert_same_state(first: Trainer, second: Trainer) -> None:
    pairs = zip(first.adapter.parameters().items(), second.adapter.parameters().values(), strict=True)
    for (name, one), other in pairs:
        assert torch.equal(one, other), name
        saved, loaded = first.optimizer.state[one], second.optimizer.state[other]
        assert saved.keys() == loaded.keys() and saved
        for key, value in saved.items():
            assert type(loaded[key]) is type(value), (name, key)
            if isinstance(value, torch.Tensor):
                assert loaded[key].dtype == value.dtype, (name, key)
                assert torch.equal(loaded[key], value), (name, key)
            else:
                assert loaded[key] == value, (name, key)
    groups = [
        {
            key: value
            for key, value in trainer.optimizer.param_groups[0].items()
            if key not in ("params", "lr")
        }
        for trainer in (first, second)
    ]
    assert groups[0] == groups[1]


@every_optimizer
def test_a_lost_tensor_of_the_state_is_noticed(make_spec: MakeSpec, tmp_path: Path, optimizer: str) -> None:
    from safetensors.torch import save_file

    trainer = trainer_of(make_spec(optimizer_type=optimizer, lr=None))
    take_steps(trainer, 0, 1)
    for name, data in checkpoint_files(trainer.adapter, trainer.optimizer, Progress(1), {}, {}).items():
        (tmp_path / name).write_bytes(b"".join(data))
    file = tmp_path / "training_state.safetensors"
    tensors, _ = read_safetensors(file)
    assert tensors["history.losses"].dtype == torch.float64
    lost = max(key for key in tensors if key.startswith("optimizer."))
    save_file({key: tensor for key, tensor in tensors.items() if key != lost}, file)
    with pytest.raises(BadDataError, match=lost):
        restore(tmp_path, trainer.adapter, trainer.optimizer)


def test_a_parameter_of_another_type_is_not_cast(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Nothing here writes one: the run that goes on would not be the one that was saved."""
    from safetensors.torch import save_file

    trainer = trainer_of(make_spec())
    take_steps(trainer, 0, 1)
    for name, data in checkpoint_files(trainer.adapter, trainer.optimizer, Progress(1), {}, {}).items():
        (tmp_path / name).write_bytes(b"".join(data))
    file = tmp_path / "training_state.safetensors"
    tensors, _ = read_safetensors(file)
    name = next(key for key in tensors if key.startswith("adapter."))
    save_file({**tensors, name: tensors[name].half()}, file)
    with pytest.raises(BadDataError, match=r"float16.*float32"):
        restore(tmp_path, trainer.adapter, trainer.optimizer)


def test_prodigy_finds_its_rate_through_the_warm_up(make_spec: MakeSpec) -> None:
    """With safeguard_warmup, small rates do not blow up its estimate; bias correction would slow it down."""
    (group,) = trainer_of(make_spec(optimizer_type="prodigy", lr=None)).optimizer.param_groups
    assert group["safeguard_warmup"] and not group["use_bias_correction"]


def test_a_missing_bitsandbytes_is_named_before_a_model_is_pulled(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.delattr("sidestep.tasks.prepared.prepare_setup")
    with pytest.raises(MachineError, match=facts("adamw8bit", "bitsandbytes")):
        train(make_spec(optimizer_type="adamw8bit"))


def test_what_is_used_is_said(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="sidestep"):
        trainer_of(make_spec(optimizer_type="prodigy", lr=None))
    assert any(tells(line, "prodigy", "rate 1,", "constant") for line in caplog.messages)
