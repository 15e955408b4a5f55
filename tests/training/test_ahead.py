"""Micro-batches are drawn ahead of their steps, and are what they would be."""

from collections.abc import Sequence

import pytest
import torch

from sidestep.data.tensors import Sample
from sidestep.runtime.errors import BadDataError
from sidestep.training.flow import Batch
from sidestep.training.loop import AHEAD, StepResult, Trainer
from sidestep.training.numbers import Progress
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of


class Counted(Sequence[Sample]):
    """Songs, of which the reading that is number `bad` fails."""

    def __init__(self, samples: Sequence[Sample], bad: int = -1) -> None:
        self.samples, self.bad, self.read = samples, bad, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        self.read += 1
        if self.read == self.bad:
            raise BadDataError(f"song {index} is damaged")
        return self.samples[index]


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    monkeypatch.setattr(Trainer, "evaluate", lambda self: 1.0)
    return Progress()


@pytest.mark.parametrize("split", [(1, 2), (2, 1)])
def test_steps_are_the_same_as_drawn_one_by_one(
    split: tuple[int, int], make_spec: MakeSpec, progress: Progress
) -> None:
    """Two samples a step, an epoch's last one alone; losses, gradients and weights bit for bit."""
    batch_size, accumulation = split
    settings = {"batch_size": batch_size, "accumulation": accumulation, "adapter": {"dropout": 0.5}}
    one_by_one, running = (trainer_of(make_spec(epochs=2, **settings)) for _ in range(2))
    one_by_one.masks.law = progress.law
    for result in running.steps(progress):
        wanted = one_by_one.step(result.step - 1)
        assert isinstance(wanted, StepResult)
        assert (result.losses, result.grad_norm) == (wanted.losses, wanted.grad_norm)
    assert progress.step == running.schedule.total_steps == 4
    weights = one_by_one.adapter.parameters()
    for name, parameter in running.adapter.parameters().items():
        assert torch.equal(parameter, weights[name]), name


def test_a_bad_song_ends_the_run_at_the_step_that_wants_it(make_spec: MakeSpec, progress: Progress) -> None:
    trainer = trainer_of(make_spec(epochs=3, accumulation=1))
    trainer.samples = songs = Counted(trainer.samples, bad=6)
    steps = trainer.steps(progress)
    for step in range(1, 6):
        assert next(steps).step == step
        assert songs.read <= min(step + AHEAD + 1, 6), "no more songs are in memory than was said"
    with pytest.raises(BadDataError, match="damaged"):
        next(steps)
    assert progress.step == 5 and trainer._ahead is None


def test_for_a_gpu_they_are_in_memory_that_it_takes_them_from(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is here: what is asked for is looked at, not what comes of it."""
    trainer = trainer_of(make_spec())
    batch = trainer._batch(trainer.schedule.group(0).entries[:1])
    assert next(trainer._sendable([batch])) is batch
    pinned: list[Batch] = []

    def pin(self: Batch) -> Batch:
        pinned.append(self)
        return self

    monkeypatch.setattr(Batch, "pinned", pin)
    monkeypatch.setattr(type(trainer.fabric), "device", torch.device("cuda"))
    next(trainer._sendable([batch]))
    assert pinned == [batch]
