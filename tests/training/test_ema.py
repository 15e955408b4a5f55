"""The average of the weights: what it is, that training never sees it, and that a checkpoint has both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.adapters.adapter import read_safetensors
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.runtime.preemption import Preemption
from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.ema import Ema, decay_at
from sidestep.training.loop import Trainer
from sidestep.training.numbers import Progress
from sidestep.training.snapshot import Snapshot
from tests.runs import settings_of_job
from tests.songs import MakeSpec, absurd_song, song, write_songs
from tests.training.trainers import run, trainer_of

WHOLE_LOKR = {"type": "lokr", "rank": 2, "alpha": 3, "factor": 8} | dict.fromkeys(
    ("decompose_both", "use_scalar", "weight_decompose"), True
)
every_kind = pytest.mark.parametrize("adapter", [{"dropout": 0.1}, WHOLE_LOKR], ids=["lora", "lokr"])


def average_of(trainer: Trainer) -> Ema:
    assert trainer.ema
    return trainer.ema


def raw(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.adapter.parameters().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def saved(trainer: Trainer, progress: Progress | None = None, *, ema: bool = True) -> dict[str, bytes]:
    average = trainer.ema if ema else None
    files = checkpoint_files(trainer.adapter, trainer.optimizer, progress or Progress(), {}, {}, ema=average)
    return {name: b"".join(parts) for name, parts in files.items()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def fill(trainer: Trainer, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainer.adapter.parameters().items():
            parameter.copy_(values[name])


@pytest.mark.parametrize(
    ("step", "decay", "left"),
    [
        (1, 0.999, 2 / 11),
        (2, 0.999, 3 / 12),
        (10**6, 0.999, 0.999),
        (1, 0.1, 0.1),
        (8, 0.5, 0.5),
        (7, 0.5, 8 / 17),
    ],
)
def test_what_a_step_leaves_of_it_is_a_function_of_its_number(step: int, decay: float, left: float) -> None:
    assert decay_at(step, decay) == pytest.approx(left, rel=1e-15)


@every_kind
def test_it_is_the_average_by_hand(make_spec: MakeSpec, adapter: dict[str, Any]) -> None:
    trainer = trainer_of(make_spec(ema={"decay": 0.2}, adapter=adapter, epochs=3))
    wanted = {name: value.double() for name, value in raw(trainer).items()}
    assert same(average_of(trainer).values, raw(trainer))
    for step, left in enumerate((2 / 11, 0.2, 0.2, 0.2)):
        trainer.step(step)
        now = raw(trainer)
        wanted = {name: left * value + (1 - left) * now[name] for name, value in wanted.items()}
    assert average_of(trainer).values.keys() == wanted.keys()
    for name, value in average_of(trainer).values.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-7)
    assert not same(average_of(trainer).values, raw(trainer))


def test_a_skipped_step_leaves_it_and_counts_as_a_step(make_spec: MakeSpec) -> None:
    folder = write_songs(Path("two"), [song(0), absurd_song(1)])
    trainer = trainer_of(make_spec(dataset_dir=folder, accumulation=1, epochs=4, ema={"decay": 0.9}))
    bad = [1 in trainer.schedule.group(step).samples for step in range(4)]
    assert sorted(bad[:2]) == [False, True]
    for step in range(4):
        before = {name: value.clone() for name, value in average_of(trainer).values.items()}
        trainer.step(step)
        assert same(average_of(trainer).values, before) == bad[step]
        if not bad[step]:
            name, value = next((n, v) for n, v in average_of(trainer).values.items() if "lora_B" in n)
            left = (2 + step) / (11 + step)
            torch.testing.assert_close(value, left * before[name] + (1 - left) * raw(trainer)[name])


@pytest.mark.parametrize(
    "adapter", [pytest.param({"dropout": 0.1}, marks=pytest.mark.slow), WHOLE_LOKR], ids=["lora", "lokr"]
)
def test_training_is_the_same_with_and_without_it(make_spec: MakeSpec, adapter: dict[str, Any]) -> None:
    states = []
    for ema in ({}, {"decay": 0.9}, {"decay": 0.5, "use": False}):
        trainer, progress = trainer_of(make_spec(adapter=adapter, epochs=2, ema=ema)), Progress()
        run(trainer, progress)
        progress.evaluations = {}
        states.append(saved(trainer, progress, ema=False))
    assert states[0] == states[1] == states[2]


@every_kind
def test_the_files_are_those_of_what_is_in_use(
    make_spec: MakeSpec, adapter: dict[str, Any], tmp_path: Path
) -> None:
    files = {}
    for use in (True, False):
        trainer = trainer_of(make_spec(adapter=adapter, ema={"decay": 0.9, "use": use}))
        for step in range(3):
            trainer.step(step)
        before = raw(trainer)
        files[use] = saved(trainer)
        assert same(raw(trainer), before)
        state, _ = read_safetensors(write(tmp_path / f"{use}", files[use]) / "training_state.safetensors")
        assert same(
            {n.removeprefix("adapter."): t for n, t in state.items() if n.startswith("adapter.")}, before
        )
        average = {n.removeprefix("ema."): t for n, t in state.items() if n.startswith("ema.")}
        assert same(average, average_of(trainer).values)
        # As if the adapter had those values, and no average were kept.
        fill(trainer, average if use else before)
        alone = saved(trainer, ema=False)
        assert files[use].keys() == alone.keys()
        adapters = [name for name in alone if not name.startswith("training_state")]
        assert adapters and all(files[use][name] == alone[name] for name in adapters)
    assert all(files[True][name] != files[False][name] for name in adapters if name.endswith(".safetensors"))


@every_kind
def test_evaluations_are_of_what_is_published(make_spec: MakeSpec, adapter: dict[str, Any]) -> None:
    losses = {}
    for use in (True, False):
        trainer = trainer_of(make_spec(adapter=adapter, ema={"decay": 0.9, "use": use}))
        for step in range(3):
            trainer.step(step)
        before, average = raw(trainer), {n: v.clone() for n, v in average_of(trainer).values.items()}
        losses[use] = trainer.evaluate()
        assert same(raw(trainer), before) and same(average_of(trainer).values, average)
        trainer.ema = None
        fill(trainer, average if use else before)
        assert trainer.evaluate() == losses[use]
    assert losses[True] != losses[False]


def test_the_weights_are_back_after_an_evaluation_that_fails(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make_spec(ema={"decay": 0.9}))
    trainer.step(0)
    before, average = raw(trainer), {n: v.clone() for n, v in average_of(trainer).values.items()}
    seen = []

    def fail(*_: Any) -> Tensor:
        seen.append(raw(trainer))
        raise KeyboardInterrupt

    monkeypatch.setattr("sidestep.training.loop.flow_loss", fail)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    assert same(seen[0], average)
    assert same(raw(trainer), before) and same(average_of(trainer).values, average)


@pytest.mark.parametrize("use", [True, False])
def test_validations_are_of_what_is_published_and_one_that_is_given_up_gives_the_weights_back(
    make_spec: MakeSpec, use: bool
) -> None:
    folder = write_songs(Path("eight"), [song(number) for number in range(8)])
    held_out = {"songs": ["3", "5"], "draws": 2}
    spec = make_spec(dataset_dir=folder, validation=held_out, ema={"decay": 0.9, "use": use})
    trainer = trainer_of(spec)
    for step in range(3):
        trainer.step(step)
    before, average = raw(trainer), {n: v.clone() for n, v in average_of(trainer).values.items()}
    given_up, made, alone = Progress(), Progress(), Progress()
    trainer.preemption.request()
    assert not trainer.validate(given_up) and not given_up.validations
    assert same(raw(trainer), before) and same(average_of(trainer).values, average)
    trainer.preemption = Preemption()
    assert trainer.validate(made)
    trainer.ema = None
    fill(trainer, average if use else before)
    assert trainer.validate(alone)
    assert made.validations == alone.validations
    fill(trainer, before if use else average)
    assert trainer.validate(other := Progress())
    assert made.validations != other.validations


def test_while_it_is_in_place_nothing_is_saved_and_no_step_is_taken_in(make_spec: MakeSpec) -> None:
    spec = make_spec(ema={"decay": 0.9})
    trainer = trainer_of(spec)
    snapshot = Snapshot(trainer.adapter, trainer.optimizer, spec.train, {}, {}, ema=trainer.ema)
    trainer.step(0)
    with average_of(trainer).in_place():
        for act in (
            lambda: snapshot.take(Progress(1)),
            lambda: saved(trainer),
            lambda: average_of(trainer).update(1),
        ):
            with pytest.raises(AssertionError, match="average"):
                act()
    snapshot.take(Progress(1))


@every_kind
def test_a_snapshot_has_both(make_spec: MakeSpec, adapter: dict[str, Any]) -> None:
    spec = make_spec(adapter=adapter, ema={"decay": 0.9})
    trainer = trainer_of(spec)
    snapshot = Snapshot(trainer.adapter, trainer.optimizer, spec.train, {}, {}, ema=trainer.ema)
    for step in range(2):
        trainer.step(step)
    live = saved(trainer, Progress(2))
    snapshot.take(Progress(2))
    trainer.step(2)
    assert {name: b"".join(parts) for name, parts in snapshot.files().items()} == live
    assert saved(trainer, Progress(2)) != live


def test_it_goes_on_from_a_checkpoint(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(ema={"decay": 0.9}, epochs=4)
    first, second = trainer_of(spec), trainer_of(spec)
    for step in range(3):
        first.step(step)
    folder = write(tmp_path / "saved", saved(first, Progress(3)))
    restore(folder, second.adapter, second.optimizer, second.ema)
    assert same(average_of(second).values, average_of(first).values)
    for trainer in (first, second):
        trainer.step(3)
    assert saved(first) == saved(second)
    with pytest.raises(BadDataError, match=r"ema\."):  # a run without one
        restore(folder, second.adapter, second.optimizer)
    without = write(tmp_path / "without", saved(first, ema=False))
    with pytest.raises(BadDataError, match="lacks"):
        restore(without, second.adapter, second.optimizer, second.ema)


def test_a_run_without_it_says_nothing_of_it(make_spec: MakeSpec, tmp_path: Path) -> None:
    trainer = trainer_of(make_spec())
    assert trainer.ema is None
    trainer.step(0)
    state, _ = read_safetensors(write(tmp_path / "saved", saved(trainer)) / "training_state.safetensors")
    assert {name.partition(".")[0] for name in state} == {"adapter", "optimizer", "history"}
    assert "train.ema" not in settings_of_job(make_spec())
    assert settings_of_job(make_spec(ema={"decay": 0.5}))["train.ema"] == {"decay": 0.5}


@pytest.mark.parametrize("ema", [{"use": False}, {"decay": 0}, {"decay": 1}, {"decay": 1.5}, {"use": 3}])
def test_what_is_refused(ema: dict[str, Any]) -> None:
    with pytest.raises(BadSpecError, match=r"train\.ema\."):
        JobSpec.load(None, task="train", output_dir="out", train={"ema": ema})
