"""The loss on fixed draws: without dropout, with all conditions, on draws that no step trains on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sidestep.config.job import JobSpec
from sidestep.training.loop import EVALUATION_DRAWS, Trainer
from sidestep.training.numbers import Progress
from tests.songs import MakeSpec
from tests.training import trainers


def trainer_of(spec: JobSpec) -> Trainer:
    """A trainer whose adapter has an effect, as it has none before the first step."""
    trainer = trainers.trainer_of(spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.adapter.parameters().values():
            parameter.normal_(std=0.2, generator=generator)
    return trainer


@contextmanager
def inputs_seen(model: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """The keyword arguments of each forward pass."""
    seen: list[dict[str, Tensor]] = []

    def note(_module: nn.Module, _args: Any, inputs: dict[str, Tensor]) -> None:
        seen.append(inputs)

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def test_dropout_is_on_in_steps_and_off_in_the_evaluations_around_them(make_spec: MakeSpec) -> None:
    evaluations, losses = [], []
    for dropout in (0.0, 0.5):
        # At such a rate the weights stay what they are, to the bit.
        trainer = trainer_of(make_spec(cfg_dropout=0, lr=1e-12, adapter={"dropout": dropout}))
        evaluations.append(trainer.evaluate())
        step = trainer.step(0)
        assert step is not None
        losses.append(step.losses)
        evaluations.append(trainer.evaluate())
    assert len(set(evaluations)) == 1
    assert losses[0] != losses[1]


def test_its_draws_are_the_same_at_every_step_and_none_of_them_is_trained_on(make_spec: MakeSpec) -> None:
    trainer = trainer_of(make_spec(cfg_dropout=0.9))
    with inputs_seen(trainer.model) as seen:
        first, later = trainer.evaluate(), trainer.evaluate()
    assert first == later and len(seen) == 2 * EVALUATION_DRAWS
    drawn = {float(inputs["timestep"]) for inputs in seen}
    assert len(drawn) == EVALUATION_DRAWS
    assert drawn.isdisjoint(float(trainer.sampling.timestep(index)) for index in range(EVALUATION_DRAWS))
    null = trainer.null_condition.float()
    assert not any(torch.equal(inputs["encoder_hidden_states"][:, :1], null) for inputs in seen)
    songs = {inputs["hidden_states"].shape[1] for inputs in seen}
    assert len(songs) == len(trainer.samples)  # each has a length of its own


def test_it_is_made_before_the_first_step_and_after_the_last(make_spec: MakeSpec) -> None:
    progress = Progress()
    trainers.run(trainer_of(make_spec(epochs=2, accumulation=2)), progress)
    assert list(progress.evaluations) == [0, 4]
    resumed = Progress(step=2)
    trainers.run(trainer_of(make_spec(epochs=2, accumulation=2)), resumed)
    assert list(resumed.evaluations) == [4]
