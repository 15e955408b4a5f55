"""Draws depend on their key alone."""

import hashlib
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from sidestep.config.training import TrainSpec
from sidestep.training import rng
from sidestep.training.schedule import Schedule


def test_keys_tell_seed_purpose_and_index_apart() -> None:
    keys = {rng.key(s, p, i) for s in range(3) for p in ("noise", "timestep") for i in range(50)}
    assert len(keys) == 300


def test_keys_are_what_they_have_always_been() -> None:
    """With others, a run that was begun before would go on with other draws."""
    assert (rng.key(42, "noise"), rng.key(0, "order", 3)) == (1948580212742351494, 2723741169552378311)
    assert rng.order(0, 3, 6) == (2, 5, 0, 3, 1, 4)


def test_a_draw_is_the_same_in_every_process() -> None:
    code = "from sidestep.training import rng; import torch; print(rng.key(7, 'noise', 3), "
    code += "torch.randn(2, generator=rng.generator(7, 'noise', 3)).tolist())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = torch.randn(2, generator=rng.generator(7, "noise", 3)).tolist()
    assert there == f"{rng.key(7, 'noise', 3)} {here}\n"


def test_keys_are_what_they_were() -> None:
    """Runs that are under way were begun with these."""
    digest = hashlib.sha256(b"42/micro-batch/7").hexdigest()
    assert rng.key(42, "micro-batch", 7) == int(digest[:16], 16) // 2 == 6921587574153383929
    assert rng.key(42, "evaluation") == rng.key(42, "evaluation", 0)


def test_reseeding_reaches_all_global_generators() -> None:
    number = rng.key(1, "micro-batch", 2)
    for _ in range(2):
        rng.reseed_globals(1, "micro-batch", 2)
        assert random.random() == random.Random(number).random()
        assert np.random.rand() == np.random.RandomState(number % 2**32).rand()  # noqa: NPY002
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(number)))


def test_an_epoch_s_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each of its steps; also where curves look back at the epoch before."""
    drawn: list[int] = []
    draw = torch.randperm

    def counted(count: int, **options: Any) -> Any:
        drawn.append(count)
        return draw(count, **options)

    monkeypatch.setattr(torch, "randperm", counted)
    rng.order.cache_clear()
    plan = Schedule.of(TrainSpec(epochs=3, accumulation=2), samples=11)
    for step in range(plan.total_steps):
        plan.group(step)
        plan.group(max(step - 4, 0))
    assert drawn == [11] * 3


def test_each_epoch_has_its_own_order() -> None:
    orders = [rng.order(0, epoch, 20) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == rng.order(0, 0, 20)
    for epoch, order in enumerate(orders):
        generator = torch.Generator().manual_seed(rng.key(0, "order", epoch))
        assert list(order) == torch.randperm(20, generator=generator).tolist()
