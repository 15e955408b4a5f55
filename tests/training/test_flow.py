"""The objective by hand; and chunks of songs: cut anywhere, out of all that runs along the song."""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidestep.config.job import JobSpec
from sidestep.data.tensors import Sample
from sidestep.tasks.setup import sampling_config
from sidestep.training.flow import Batch, SamplingConfig, draw_batch, flow_loss
from sidestep.training.machine import Machine
from sidestep.training.timesteps import VANILLA_STEPS
from tests.songs import song

SAMPLING = SamplingConfig("corrected", -0.4, 1.0, cfg_dropout=0.0, seed=3, chunk_frames=8)
NULL = torch.zeros(1, 1, 64)


class Velocity(nn.Module):
    """A model that answers one velocity everywhere, and keeps what it was asked."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer
        self.inputs: dict[str, Any] = {}

    def forward(self, **inputs: Any) -> tuple[Tensor]:
        self.inputs = inputs
        return (torch.full_like(inputs["hidden_states"], self.answer),)


@pytest.mark.parametrize(("answer", "loss"), [(3.0, 0.0), (0.0, 9.0), (-3.0, 36.0), (4.0, 1.0)])
def test_the_objective_by_hand(answer: float, loss: float) -> None:
    """A song of twos in noise of fives: at t = 0.25 all of it is 2.75, and flows with 5 − 2 towards noise."""
    song, noise = torch.full((1, 3, 64), 2.0), torch.full((1, 3, 64), 5.0)
    context, conditions, t = torch.ones(1, 3, 128), torch.zeros(1, 2, 64), torch.tensor([0.25])
    model = Velocity(answer)
    assert float(flow_loss(model, Batch(song, context, conditions, t, noise))) == loss
    assert torch.equal(model.inputs["hidden_states"], torch.full((1, 3, 64), 2.75))
    assert torch.equal(model.inputs["timestep"], t) and torch.equal(model.inputs["timestep_r"], t)
    assert model.inputs["context_latents"] is context
    assert model.inputs["encoder_hidden_states"] is conditions


def numbered(frames: int) -> Sample:
    """A song whose latents and context carry the number of their frame."""
    numbers = torch.arange(frames, dtype=torch.float32)[:, None]
    return replace(song(0), target_latents=numbers.expand(-1, 64), context_latents=numbers.expand(-1, 128))


def test_a_chunk_is_cut_from_latents_and_context_alike() -> None:
    batch = draw_batch(numbered(20), NULL, SAMPLING, 5, "cpu")
    assert batch.latents.shape == batch.noise.shape == (1, 8, 64)
    start = int(batch.latents[0, 0, 0])
    assert torch.equal(batch.latents[0, :, 0], torch.arange(start, start + 8.0))
    assert torch.equal(batch.context[0, :, 0], batch.latents[0, :, 0])


def keyed(purpose: str, index: int) -> torch.Generator:
    """The generator of one draw, as runs that are under way have drawn from it: seed 3."""
    digest = hashlib.sha256(f"3/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@pytest.mark.parametrize("mode", ["corrected", "vanilla"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_model_is_told_the_noise_level_that_it_sees(mode: str, precision: str) -> None:
    """Through Fabric, which casts what enters the model: of a song of zeros, x_t is t · noise."""
    machine = Machine(torch.device("cpu"), precision)
    sampling = SamplingConfig(mode, -0.4, 1.0, cfg_dropout=0, seed=3, timestep_dtype=machine.dtype)
    model = Velocity(0.0)
    module = machine.fabric().setup_module(model)
    quiet = replace(song(0), target_latents=torch.zeros(20, 64), context_latents=torch.zeros(20, 128))
    for index in range(8):
        batch = draw_batch(quiet, NULL, sampling, index, "cpu")
        flow_loss(module, batch)
        told, seen = model.inputs["timestep"], model.inputs["hidden_states"]
        assert told.dtype == seen.dtype == machine.dtype
        assert torch.equal(seen, (told.float() * batch.noise).to(machine.dtype))
        if precision == "fp32":
            assert torch.equal(told, replace(sampling, timestep_dtype=torch.float32).timestep(index))


@pytest.mark.parametrize("mode", ["corrected", "vanilla"])
@pytest.mark.parametrize("index", [0, 1, 2, 3, 1000])
def test_each_draw_of_a_micro_batch_has_a_key_of_its_own(mode: str, index: int) -> None:
    """A run goes on with the draws it began with: purpose and micro-batch are the whole of the key."""
    sampling = SamplingConfig(mode, mu=0.3, sigma=0.7, cfg_dropout=0.5, seed=3, chunk_frames=8)
    torch.manual_seed(index)
    batch = draw_batch(numbered(30), torch.full((1, 1, 64), 7.0), sampling, index, "cpu")
    start = int(torch.randint(23, (), generator=keyed("crop", index)))
    assert torch.equal(batch.latents[0, :, 0], torch.arange(start, start + 8.0))
    assert torch.equal(batch.noise, torch.randn(1, 8, 64, generator=keyed("noise", index)))
    is_dropped = mode == "corrected" and bool(torch.rand((), generator=keyed("condition", index)) < 0.5)
    assert bool((batch.conditions == 7).all()) == is_dropped
    if mode == "vanilla":
        step = int(torch.randint(8, (1,), generator=keyed("timestep", index)))
        assert batch.timesteps.tolist() == [pytest.approx(VANILLA_STEPS[step])]
    else:
        both = torch.sigmoid(0.3 + 0.7 * torch.randn(2, 1, generator=keyed("timestep", index)))
        assert torch.equal(batch.timesteps, both.amax(0))


def test_every_place_is_as_likely() -> None:
    """The first and the last one too: 20 frames hold 13 chunks of 8."""
    starts = Counter(SAMPLING.chunk(index, 20).start for index in range(13 * 200))
    assert set(starts) == set(range(13))
    assert all(140 < count < 260 for count in starts.values())


def test_a_chunk_depends_on_seed_and_index_alone() -> None:
    chunks = [SAMPLING.chunk(index, 1000) for index in range(50)]
    torch.rand(3)
    assert [SAMPLING.chunk(index, 1000) for index in reversed(range(50))] == chunks[::-1]
    assert chunks != [replace(SAMPLING, seed=4).chunk(index, 1000) for index in range(50)]


@pytest.mark.parametrize("frames", [1, 7, 8])
def test_a_song_no_longer_than_a_chunk_is_seen_whole(frames: int) -> None:
    assert SAMPLING.chunk(0, frames) == slice(0, frames)
    assert replace(SAMPLING, chunk_frames=None).chunk(0, 100) == slice(0, 100)


def test_seconds_of_the_spec_are_25_frames_each() -> None:
    config = {"timestep_mu": -0.4, "timestep_sigma": 1.0}
    spec = JobSpec(task="train", output_dir="out", train={"chunk_duration": 2.5})
    assert sampling_config(spec, config, torch.float32).chunk_frames == 62
    spec = JobSpec(task="train", output_dir="out")
    assert sampling_config(spec, config, torch.float32).chunk_frames is None


def test_the_timestep_law_is_the_spec_s_or_else_the_checkpoint_s() -> None:
    config = {"timestep_mu": -0.3, "timestep_sigma": 1.1}
    for train, law in (
        ({}, (-0.3, 1.1)),
        ({"timestep_mu": 0.0}, (0.0, 1.1)),
        ({"timestep_sigma": 0.5}, (-0.3, 0.5)),
        ({"timestep_mu": 0.2, "timestep_sigma": 0.7}, (0.2, 0.7)),
    ):
        sampling = sampling_config(
            JobSpec(task="train", output_dir="out", train=train), config, torch.float32
        )
        assert (sampling.mu, sampling.sigma) == law
