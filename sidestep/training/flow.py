"""The training objective: flow matching on latents, as the original model's own training code has it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidestep.data.tensors import Sample
from sidestep.training import rng
from sidestep.training.timesteps import corrected_timesteps, vanilla_timesteps


@dataclass(frozen=True)
class Batch:
    """What one forward pass of the decoder takes; no padding anywhere."""

    latents: Tensor  # x0 [B, T, 64]
    context: Tensor  # [B, T, 128]
    conditions: Tensor  # [B, L, D]
    timesteps: Tensor  # t [B], fp32; its values are those that the model is told
    noise: Tensor  # [B, T, 64]


@dataclass(frozen=True)
class SamplingConfig:
    """How micro-batches are drawn: the part of the song, the timestep, and whether conditions are dropped.

    Every draw depends on the seed and the micro-batch's number alone.
    """

    mode: str  # corrected | vanilla
    mu: float
    sigma: float
    cfg_dropout: float
    seed: int
    chunk_frames: int | None = None  # latents of a song that one micro-batch sees; None: all
    timestep_dtype: torch.dtype = torch.float32  # what the model computes in, and so is told t in

    def chunk(self, index: int, frames: int) -> slice:
        """The part of a song's `frames` latents that micro-batch number `index` sees, uniformly drawn."""
        if self.chunk_frames is None or self.chunk_frames >= frames:
            return slice(0, frames)
        starts = frames - self.chunk_frames + 1
        start = int(torch.randint(starts, (), generator=rng.generator(self.seed, "crop", index)))
        return slice(start, start + self.chunk_frames)

    def timestep(self, index: int) -> Tensor:
        """The timestep t [1] of micro-batch number `index`, from 0 (clean) to 1 (noise).

        In half precision Fabric casts t on its way into the model. So t is rounded before x_t is made of it,
        or the model would be told another noise level than it sees. It stays fp32, for an exact 1 − t.
        """
        generator = rng.generator(self.seed, "timestep", index)
        if self.mode == "corrected":
            drawn = corrected_timesteps(1, self.mu, self.sigma, generator)
        else:
            drawn = vanilla_timesteps(1, generator)
        return drawn.to(self.timestep_dtype).float()

    def drops_conditions(self, index: int) -> bool:
        """Whether micro-batch number `index` is trained without its conditions; in corrected mode alone."""
        draw = torch.rand((), generator=rng.generator(self.seed, "condition", index))
        return self.mode == "corrected" and bool(draw < self.cfg_dropout)


def draw_batch(
    sample: Sample, null_condition: Tensor, sampling: SamplingConfig, index: int, device: str | torch.device
) -> Batch:
    """Micro-batch number `index` of the run: `sample` with its chunk, noise, timestep and dropout.

    `null_condition` [1, 1, D] takes the place of every condition token of a dropped sample.
    """
    chunk = sampling.chunk(index, len(sample.target_latents))
    latents = sample.target_latents[None, chunk].float()
    conditions = sample.encoder_hidden_states[None].float()
    noise = torch.randn(latents.shape, generator=rng.generator(sampling.seed, "noise", index))
    if sampling.drops_conditions(index):
        conditions = null_condition.float().expand_as(conditions)
    # The context is cut with the latents, as other trainers do: in some files it is made of the same song.
    context = sample.context_latents[None, chunk].float()
    parts = (latents, context, conditions, sampling.timestep(index), noise)
    return Batch(*(part.to(device) for part in parts))


def flow_loss(transformer: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the predicted velocity against noise − x0, at x_t = t·noise + (1 − t)·x0."""
    t = batch.timesteps.view(-1, 1, 1)
    noised = t * batch.noise + (1 - t) * batch.latents
    velocity = transformer(
        hidden_states=noised,
        timestep=batch.timesteps,
        timestep_r=batch.timesteps,
        encoder_hidden_states=batch.conditions,
        context_latents=batch.context,
        return_dict=False,
    )[0]
    return F.mse_loss(velocity.float(), batch.noise - batch.latents)
