"""The training objective: flow matching on latents, as the original model's own training code has it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidestep.acestep.attention import attending_to
from sidestep.data.tensors import Sample
from sidestep.training import rng
from sidestep.training.chunks import covering
from sidestep.training.timesteps import corrected_timesteps, vanilla_timesteps


@dataclass(frozen=True)
class Batch:
    """What one forward pass of the decoder takes: samples of one length. Time is never padded."""

    latents: Tensor  # x0 [B, T, 64]
    context: Tensor  # [B, T, 128]
    conditions: Tensor  # [B, L, D]
    timesteps: Tensor  # t [B], fp32; its values are those that the model is told
    noise: Tensor  # [B, T, 64]
    mask: Tensor | None = None  # [B, L] (bool): the conditions that are no padding; None: all of them

    def to(self, device: str | torch.device) -> "Batch":
        """Out of pinned memory, without waiting until all of it is there."""
        return self._each(lambda part: part.to(device, non_blocking=part.is_pinned()))

    def pinned(self) -> "Batch":
        """The same in pinned memory, from which a GPU takes it by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, moved: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, **{name: moved(part) for name, part in vars(self).items() if part is not None})


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn: the part of the song, the timestep, and which conditions it has.

    Every draw depends on the seed, its purpose and the sample's number in the run alone; of chunks that cover
    a song, on the seed, the song and the visit. Conditions are asked in this order, and the first yes counts:
    none at all (cfg_dropout), those of the trigger word alone (caption_dropout), those of the genre
    (genre_share); else they are the song's own.
    """

    mode: str  # corrected | vanilla
    mu: float
    sigma: float
    cfg_dropout: float
    seed: int
    chunk_frames: int | None = None  # latents of a song that one sample is; None: all
    timestep_dtype: torch.dtype = torch.float32  # what the model computes in, and so is told t in
    chunks_cover: bool = False  # a song over the epochs, rather than being cut out anywhere
    caption_dropout: float = 0.0
    genre_share: float = 0.0

    def as_captioned(self, seed: int) -> "SamplingConfig":
        """The same with another seed, and each song's own conditions always: to judge by, not to train on."""
        return replace(self, seed=seed, cfg_dropout=0.0, caption_dropout=0.0, genre_share=0.0)

    def length(self, frames: int) -> int:
        """The latents that a sample of a song of `frames` has."""
        return min(frames, self.chunk_frames or frames)

    def chunk(self, index: int, frames: int, song: int = 0, visit: int | None = None) -> slice:
        """The part of a song's `frames` latents that sample number `index` is.

        Uniformly drawn; or, where chunks cover songs, the one whose turn it is at this `visit` of `song`.
        """
        if self.chunk_frames is None or self.chunk_frames >= frames:
            return slice(0, frames)
        if self.chunks_cover and visit is not None:
            return covering(self.seed, song, visit, frames, self.chunk_frames)
        starts = frames - self.chunk_frames + 1
        start = int(torch.randint(starts, (), generator=rng.generator(self.seed, "crop", index)))
        return slice(start, start + self.chunk_frames)

    def timestep(self, index: int) -> Tensor:
        """The timestep t [1] of sample number `index`, from 0 (clean) to 1 (noise).

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
        """Whether sample number `index` is trained without its conditions; in corrected mode alone."""
        draw = torch.rand((), generator=rng.generator(self.seed, "condition", index))
        return self.mode == "corrected" and bool(draw < self.cfg_dropout)

    def conditions(self, index: int, sample: Sample) -> Tensor:
        """The conditions [L, D] of sample number `index`, one of `sample`, where they are not dropped.

        Those of a genre are the song's own where it has none.
        """
        if self._is_drawn("caption", index, self.caption_dropout):
            return sample.alternates["trigger"]
        if self._is_drawn("genre", index, self.genre_share):
            return sample.alternates.get("genre", sample.encoder_hidden_states)
        return sample.encoder_hidden_states

    def _is_drawn(self, purpose: str, index: int, share: float) -> bool:
        if not share:
            return False
        return bool(torch.rand((), generator=rng.generator(self.seed, purpose, index)) < share)


def draw_batch(
    sample: Sample,
    null_condition: Tensor,
    sampling: SamplingConfig,
    index: int,
    device: str | torch.device,
    *,
    song: int = 0,
    visit: int | None = None,
) -> Batch:
    """Sample number `index` of the run: `sample` with its chunk, noise, timestep and dropout.

    `null_condition` [1, 1, D] takes the place of every condition token of a dropped sample. `song` and
    `visit` are for chunks that cover songs: see `SamplingConfig.chunk`.
    """
    chunk = sampling.chunk(index, len(sample.target_latents), song, visit)
    latents = sample.target_latents[None, chunk].float()
    noise = torch.randn(latents.shape, generator=rng.generator(sampling.seed, "noise", index))
    if sampling.drops_conditions(index):
        conditions = null_condition.float().expand_as(sample.encoder_hidden_states[None])
    else:
        conditions = sampling.conditions(index, sample)[None].float()
    # The context is cut with the latents, as other trainers do: in some files it is made of the same song.
    context = sample.context_latents[None, chunk].float()
    parts = (latents, context, conditions, sampling.timestep(index), noise)
    return Batch(*(part.to(device) for part in parts))


def flow_loss(transformer: nn.Module, batch: Batch) -> Tensor:
    """The mean of `flow_losses`."""
    return flow_losses(transformer, batch).mean()


def flow_losses(transformer: nn.Module, batch: Batch) -> Tensor:
    """Of each sample, [B]: the mean squared error of the predicted velocity against noise − x0, at
    x_t = t·noise + (1 − t)·x0."""
    t = batch.timesteps.view(-1, 1, 1)
    noised = t * batch.noise + (1 - t) * batch.latents
    conditions = batch.conditions
    if batch.mask is not None:  # a weight of zero does not make up for a NaN
        conditions = conditions.masked_fill(~batch.mask[..., None], 0)
    with attending_to(batch.mask):
        velocity = transformer(
            hidden_states=noised,
            timestep=batch.timesteps,
            timestep_r=batch.timesteps,
            encoder_hidden_states=conditions,
            context_latents=batch.context,
            return_dict=False,
        )[0]
    pairs = zip(velocity.float(), batch.noise - batch.latents, strict=True)
    return torch.stack([F.mse_loss(found, wanted) for found, wanted in pairs])
