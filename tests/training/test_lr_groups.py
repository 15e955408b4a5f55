"""Learning rates by module: who gets which, and that each keeps its own through schedule and resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW, Optimizer

from sidestep.config.job import JobSpec
from sidestep.config.targets import rate_factors
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.loop import Trainer
from sidestep.training.numbers import Progress
from sidestep.training.snapshot import Snapshot
from tests.facts import facts
from tests.runs import outcome, settings_of_job, train, train_until_stopped
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

PATHS = [
    *("layers.3.self_attn.q_proj", "layers.3.cross_attn.q_proj", "layers.3.mlp.up_proj"),
    *("layers.31.self_attn.q_proj", "layers.31.self_attn.v_proj", "layers.31.cross_attn.v_proj"),
]
GROUPS = {"cross_attn": 0.5, "layers.1": 4.0, "layers.1.cross_attn": 0.25, "v_proj": 0.5}
WHOLE = {"target_modules": ["q_proj", "v_proj", "up_proj"]}


@pytest.mark.parametrize(
    ("groups", "factors"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"cross_attn": 0.5, "mlp": 2}, [1, 0.5, 2, 1, 1, 0.5]),
        ({"layers.3": 3}, [3, 3, 3, 1, 1, 1]),  # and not layer 31
        ({"q_proj": 3, "self_attn.q_proj": 5}, [5, 3, 1, 5, 1, 1]),  # the longer one
        ({"self_attn.q_proj": 5, "q_proj": 3}, [5, 3, 1, 5, 1, 1]),  # in any order
        ({"layers.31.self_attn.v_proj": 7}, [1, 1, 1, 1, 7, 1]),
    ],
)
def test_the_longest_part_of_a_path_sets_its_factor(groups: dict[str, float], factors: list[float]) -> None:
    assert list(rate_factors(PATHS, groups).values()) == factors


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"k_proj": 2}, "k_proj"),
        ({"attn": 2}, "attn"),  # no whole component
        ({"layers.": 2}, "layers."),
        ({"mlp": 2, "up_proj": 3}, "mlp"),  # which is left with no module
        ({"layers.3": 2, "layers.31": 3, "v_proj.0": 1}, "v_proj.0"),
    ],
)
def test_a_group_without_a_module_is_refused(groups: dict[str, float], said: str) -> None:
    with pytest.raises(BadSpecError, match=facts("lr_groups", said)):
        rate_factors(PATHS, groups)


def test_two_parts_of_one_length_are_refused_in_any_order() -> None:
    for groups in ({"layers.31": 2.0, "self_attn": 3.0}, {"self_attn": 3.0, "layers.31": 2.0}):
        with pytest.raises(BadSpecError, match=facts("layers.31 and self_attn", PATHS[3])):
            rate_factors(PATHS, groups)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_groups": {"mlp": 0}},
        {"lr_groups": {"mlp": -1}},
        {"lr_groups": {"mlp": 101}},
        {"lr_groups": {"mlp": 0.5}, "optimizer_type": "prodigy"},
    ],
)
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSpecError, match="lr_groups"):
        JobSpec.load(None, task="train", output_dir="out", train=wrong)


def rates(optimizer: Optimizer, names: dict[int, str]) -> dict[str, float]:
    return {names[id(p)]: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}


def names_of(trainer: Trainer) -> dict[int, str]:
    return {id(parameter): name for name, parameter in trainer.adapter.parameters().items()}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor"])
@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_each_module_is_trained_at_its_factor_of_the_schedule(
    make_spec: MakeSpec, optimizer: str, kind: str
) -> None:
    spec = make_spec(
        lr_groups=GROUPS, optimizer_type=optimizer, adapter={"type": kind, **WHOLE}, epochs=3, warmup_steps=2
    )
    trainer = trainer_of(spec)
    assert [group["factor"] for group in trainer.optimizer.param_groups] == [0.25, 0.5, 1, 4]
    factors = rate_factors(list(trainer.adapter.layers), GROUPS)
    for step in range(4):
        trainer.step(step)
        found = rates(trainer.optimizer, names_of(trainer))
        assert found.keys() == trainer.adapter.parameters().keys()
        for path, factor in factors.items():
            (rate,) = {rate for name, rate in found.items() if name.startswith(f"{path}.")}
            assert rate == trainer.schedule.learning_rate(step) * factor


def test_adam_s_first_step_is_each_module_s_rate(make_spec: MakeSpec) -> None:
    spec = make_spec(lr_groups={"cross_attn": 0.5}, lr=1e-3, weight_decay=0, warmup_steps=0)
    trainer = trainer_of(spec)
    trainer.step(0)
    for part, rate in (("cross_attn", 5e-4), ("self_attn", 1e-3)):
        moved = [
            p.detach().abs().flatten()
            for n, p in trainer.adapter.parameters().items()
            if part in n and "lora_B" in n
        ]
        assert float(torch.cat(moved).median()) == pytest.approx(rate, rel=1e-3)


def state_by_name(trainer: Trainer, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, parameter in trainer.adapter.parameters().items()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, torch.Tensor)
    }


def write(folder: Path, trainer: Trainer) -> Path:
    folder.mkdir()
    for name, parts in checkpoint_files(trainer.adapter, trainer.optimizer, Progress(3), {}, {}).items():
        (folder / name).write_bytes(b"".join(parts))
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor"])
def test_states_go_to_their_parameters_by_name(make_spec: MakeSpec, tmp_path: Path, optimizer: str) -> None:
    """Into an optimizer whose groups, and the parameters in them, stand in another order."""
    spec = make_spec(lr_groups=GROUPS, optimizer_type=optimizer, adapter={"rank": 64, **WHOLE}, epochs=4)
    first, second = trainer_of(spec), trainer_of(spec)
    for step in range(3):
        first.step(step)
    folder = write(tmp_path / "saved", first)
    groups = second.optimizer.param_groups
    groups.reverse()
    for group in groups:
        group["params"].reverse()
    restore(folder, second.adapter, second.optimizer)
    assert [group["factor"] for group in second.optimizer.param_groups] == [4, 1, 0.5, 0.25]
    one, other = (state_by_name(trainer, trainer.optimizer) for trainer in (first, second))
    assert one.keys() == other.keys() and one
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name


def test_groups_of_other_factors_are_not_restored(make_spec: MakeSpec, tmp_path: Path) -> None:
    first = trainer_of(make_spec(lr_groups={"cross_attn": 0.5}))
    first.step(0)
    folder = write(tmp_path / "saved", first)
    for groups in ({}, {"cross_attn": 0.25}, {"cross_attn": 0.5, "q_proj": 2}):
        other = trainer_of(make_spec(lr_groups=groups))
        with pytest.raises(BadDataError, match="optimizer settings"):
            restore(folder, other.adapter, other.optimizer)
    numbers = json.loads((folder / "training_state.json").read_text())
    for damaged in ([{"factor": []}, {"factor": 1}], [{"factor": 0.5}] * 2, [{"factor": 0.5}]):
        numbers["optimizer"]["groups"] = damaged
        (folder / "training_state.json").write_text(json.dumps(numbers))
        with pytest.raises(BadDataError, match="optimizer settings"):
            restore(folder, first.adapter, first.optimizer)


def test_a_snapshot_has_the_groups(make_spec: MakeSpec) -> None:
    spec = make_spec(lr_groups=GROUPS, adapter=WHOLE)
    trainer = trainer_of(spec)
    snapshot = Snapshot(trainer.adapter, trainer.optimizer, spec.train, {}, {})
    for step in range(2):
        trainer.step(step)
    snapshot.take(Progress(2))
    live = checkpoint_files(trainer.adapter, trainer.optimizer, Progress(2), {}, {})
    taken = snapshot.files()
    assert {n: b"".join(p) for n, p in taken.items()} == {n: b"".join(p) for n, p in live.items()}


def test_a_run_without_groups_says_nothing_of_them(make_spec: MakeSpec, tmp_path: Path) -> None:
    trainer = trainer_of(make_spec())
    trainer.step(0)
    content = json.loads((write(tmp_path / "saved", trainer) / "training_state.json").read_text())
    assert content["optimizer"]["groups"] == [{}]
    assert "train.lr_groups" not in settings_of_job(make_spec())
    assert isinstance(trainer.optimizer, AdamW)


def test_a_resumed_run_trains_each_group_at_its_own_rate(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rates that history.json tells are those that the optimizer had, before and after the cut."""
    settings = {"lr_groups": GROUPS, "adapter": WHOLE, "epochs": 3, "checkpoint": {"every_epochs": 1}}
    whole, cut = make_spec("whole", **settings), make_spec("cut", **settings)
    applied: dict[int, dict[float, float]] = {}
    original = Trainer.step

    def step(self: Trainer, number: int) -> Any:
        result = original(self, number)
        applied[number] = {group["factor"]: group["lr"] for group in self.optimizer.param_groups}
        return result

    monkeypatch.setattr(Trainer, "step", step)
    train(whole)
    applied.clear()
    train_until_stopped(cut, monkeypatch, commits=1)
    monkeypatch.setattr(Trainer, "step", step)
    train(cut)
    assert outcome(cut) == outcome(whole)
    history = json.loads(Path(cut.output_place, "history.json").read_text())
    assert history == json.loads(Path(whole.output_place, "history.json").read_text())
    assert sorted(applied) == list(range(6))
    for name, factor in GROUPS.items():
        wanted = [applied[number][factor] for number in range(6)]
        assert history["learning_rates_by_group"][name] == pytest.approx(wanted, rel=1e-5)
    assert history["learning_rates"] == pytest.approx([applied[n][1.0] for n in range(6)], rel=1e-5)
    with pytest.raises(BadSpecError, match="lr_groups"):
        train(make_spec("cut", **settings | {"lr_groups": {}}))


def test_each_group_has_its_curve(make_spec: MakeSpec, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_spec(lr_groups={"cross_attn": 0.5, "layers.1.self_attn": 3}))
    events = EventAccumulator(str(tmp_path / "out" / "runs"))
    events.Reload()
    base = [event.value for event in events.Scalars("lr")]
    for name, factor in (("cross_attn", 0.5), ("layers.1.self_attn", 3)):
        assert [event.value for event in events.Scalars(f"lr/{name}")] == pytest.approx(
            [factor * value for value in base]
        )
    history = tmp_path / "out" / "history.json"
    whole = history.read_bytes()
    history.write_bytes(whole[:-5])
    train(make_spec(lr_groups={"cross_attn": 0.5, "layers.1.self_attn": 3}))
    assert history.read_bytes() == whole
