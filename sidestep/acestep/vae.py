"""Songs to latents: 1920 samples of 48 kHz stereo make one latent frame of 64 numbers."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d
from torch import Tensor

from sidestep.runtime.liveness import sign_of_life

SAMPLE_RATE = 48_000
SAMPLES_PER_LATENT = 1920
LATENTS_PER_SECOND = 25
LATENT_CHANNELS = 64

TILE_FRAMES = 30 * LATENTS_PER_SECOND
OVERLAP_FRAMES = 2 * LATENTS_PER_SECOND


class _Snake(Snake1d):  # type: ignore[misc]  # diffusers is not typed
    """x + sin²(αx) / β as diffusers computes it, to the bit, in one new tensor where that takes five.

    At 48 kHz and 128 channels each of them is 25 MB a second of sound. On a CPU, memory that is asked for
    anew costs as much as the arithmetic.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            plain: Tensor = super().forward(hidden_states)
            return plain
        alpha, beta = (torch.exp(x) if self.logscale else x for x in (self.alpha, self.beta))
        squared = (alpha * hidden_states).sin_().pow_(2)
        return squared.mul_((beta + 1e-9).reciprocal()).add_(hidden_states)


def build_vae(config: dict[str, Any]) -> AutoencoderOobleck:
    """The autoencoder that a `vae/config.json` describes, with random weights."""
    with warnings.catch_warnings():  # diffusers still uses it, and has to: the checkpoint's keys are its
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        vae = AutoencoderOobleck.from_config(config)
    for module in vae.modules():
        if type(module) is Snake1d:
            module.__class__ = _Snake
    return vae


@torch.inference_mode()
def encode_audio(
    vae: AutoencoderOobleck,
    waveform: Tensor,
    tile_frames: int = TILE_FRAMES,
    overlap_frames: int = OVERLAP_FRAMES,
) -> Tensor:
    """Latents [T, 64] (fp32, on the CPU) of a waveform [2, N], T = ceil(N / 1920).

    The mean of the posterior, so that the same song gives the same latents. A last, partial frame is
    filled up with silence. Long songs are encoded in tiles of `tile_frames` latents, of which
    `overlap_frames` at each inner side only give context and are discarded: memory does not grow
    with the song.
    """
    frames = -(-waveform.shape[-1] // SAMPLES_PER_LATENT)
    waveform = F.pad(waveform, (0, frames * SAMPLES_PER_LATENT - waveform.shape[-1]))
    latents = []
    for start, stop, begin, end in tiles(frames, tile_frames, overlap_frames):
        sign_of_life()
        tile = waveform[None, :, begin * SAMPLES_PER_LATENT : end * SAMPLES_PER_LATENT]
        mean = vae.encode(tile.to(vae.device, vae.dtype)).latent_dist.mean[0].T  # [frames of the tile, 64]
        latents.append(mean[start - begin : stop - begin].float().cpu())
    return torch.cat(latents)


def tiles(
    frames: int, tile_frames: int = TILE_FRAMES, overlap_frames: int = OVERLAP_FRAMES
) -> Iterator[tuple[int, int, int, int]]:
    """The tiles of so many latents: start and stop of those kept, begin and end of what is encoded."""
    stride = tile_frames - 2 * overlap_frames
    assert stride > 0, "a tile must be longer than its two overlaps"
    for start in range(0, frames, stride):
        stop = min(start + stride, frames)
        yield start, stop, max(start - overlap_frames, 0), min(stop + overlap_frames, frames)


@torch.inference_mode()
def decode_latents(vae: AutoencoderOobleck, latents: Tensor) -> Tensor:
    """The waveform [2, 1920 · T] (fp32, on the CPU) of latents [T, 64], in one shot: for short ones."""
    decoded: Tensor = vae.decode(latents.T[None].to(vae.device, vae.dtype)).sample[0]
    return decoded.float().cpu()
