"""Songs that come more often in an epoch, and songs that weigh more in a step's loss."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.training import TrainSpec
from sidestep.lifecycle.job import Job
from sidestep.planning.songs import find_songs
from sidestep.runtime.errors import BadSpecError
from sidestep.training.loop import relative
from sidestep.training.schedule import Schedule
from tests.facts import facts
from tests.runs import EVERY_STEP, train, train_until_stopped
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of


def schedule(repeats: Any, **settings: Any) -> Schedule:
    return Schedule.of(TrainSpec.model_validate(settings), repeats)


def test_a_song_is_so_many_samples_of_an_epoch_each_with_its_own_draws() -> None:
    plan = schedule([1, 3, 2], accumulation=4, epochs=3)
    assert (plan.samples, plan.steps_per_epoch, plan.total_steps) == (6, 2, 6)
    entries = [entry for step in range(6) for entry in plan.group(step).entries]
    assert [entry.index for entry in entries] == list(range(18))
    for epoch in range(3):
        seen = Counter(entry.song for entry in entries[6 * epoch : 6 * epoch + 6])
        assert seen == {0: 1, 1: 3, 2: 2}
    for song, times in ((0, 3), (1, 9), (2, 6)):
        assert sorted(entry.visit for entry in entries if entry.song == song) == list(range(times))
    orders = [[entry.song for entry in entries[6 * epoch : 6 * epoch + 6]] for epoch in range(3)]
    assert orders[0] != orders[1]


def test_songs_that_come_once_are_as_they_were() -> None:
    assert schedule([1, 1, 1], accumulation=2) == schedule(3, accumulation=2)


def test_weights_are_of_a_step_and_equal_ones_are_none() -> None:
    assert relative([0.1, 0.1, 0.1]) == [1.0, 1.0, 1.0]
    assert relative([3, 1]) == [1.5, 0.5]
    assert sum(relative([0.001, 1000, 7])) == pytest.approx(3)


def adapter(spec: Any) -> bytes:
    return (Path(train(spec).adapter) / "adapter_model.safetensors").read_bytes()


def test_a_weight_is_a_song_s_share_of_the_gradient(make_spec: MakeSpec) -> None:
    """Of a step of all three songs: that of each alone, by the weights."""
    settings: dict[str, Any] = {"accumulation": 3, "adapter": {"dropout": 0}, "max_grad_norm": 1e9}
    weights = {"0": 2, "1": 1, "2": 5}

    def gradients(**more: Any) -> tuple[list[torch.Tensor], float, list[float], list[int]]:
        trainer = trainer_of(make_spec(**settings, **more))
        for parameter in trainer.adapter.parameters().values():
            torch.nn.init.constant_(parameter, 0.02)
        result = trainer.step(0)
        assert result is not None
        grads = [p.grad.clone() for p in trainer.adapter.parameters().values() if p.grad is not None]
        return grads, result.loss, result.losses, list(result.group.samples)

    weighed, loss, losses, order = gradients(weights=weights)
    shares = [weights[str(song)] / 8 for song in order]
    assert loss == pytest.approx(sum(share * one for share, one in zip(shares, losses, strict=True)))
    alone = [gradients(weights={str(song): 1000, f"[!{song}]": 0.001})[0] for song in order]
    norms = [sum(float(grad.norm()) for grad in grads) for grads in alone]
    assert min(norms) > 0.01 * max(norms)  # each by its own weight, not by another's
    for n, found in enumerate(weighed):
        expected = sum(share * grads[n] for share, grads in zip(shares, alone, strict=True))
        assert torch.allclose(found, torch.as_tensor(expected), rtol=1e-3, atol=1e-6)


def test_equal_weights_and_single_repeats_are_today_s_bytes(make_spec: MakeSpec) -> None:
    plain = adapter(make_spec("plain", epochs=1))
    assert adapter(make_spec("equal", epochs=1, weights={"*": 0.3}, repeats={"*": 1})) == plain
    assert adapter(make_spec("weighed", epochs=1, weights={"0": 3})) != plain


def test_a_run_of_repeats_and_weights_that_was_cut_off_is_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**EVERY_STEP, "epochs": 2, "repeats": {"1": 3}, "weights": {"2": 0.5}}
    whole = adapter(make_spec("whole", **settings))
    train_until_stopped(make_spec("cut", **settings), monkeypatch, commits=4)  # in the second epoch
    assert adapter(make_spec("cut", **settings)) == whole
    with pytest.raises(BadSpecError, match=facts("train.repeats", 3, "1.pt")):
        train(make_spec("cut", **settings | {"repeats": {}, "epochs": 3, "extend": True}))
    songs = json.loads(Path(str(make_spec("whole").output_dir), "history.json").read_text())["songs"]
    assert [song.get("repeats") for song in songs] == [None, 3, None]
    assert [song.get("weight") for song in songs] == [None, None, 0.5]


def test_a_plan_counts_repeats(make_spec: MakeSpec) -> None:
    assert find_songs(Job(make_spec(repeats={"1": 3}))).repeats == (1, 3, 1)


def test_what_is_made_again_is_what_it_was(make_spec: MakeSpec) -> None:
    spec = make_spec(repeats={"1": 3}, weights={"0": 2})
    train(spec)
    history = Path(str(spec.output_dir), "history.json")
    before = history.read_bytes()
    history.unlink()
    train(spec)
    assert history.read_bytes() == before
