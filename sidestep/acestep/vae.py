"""Songs to latents: 1920 samples of 48 kHz stereo make one latent frame of 64 numbers."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderOobleck
from torch import Tensor

SAMPLE_RATE = 48_000
SAMPLES_PER_LATENT = 1920
LATENTS_PER_SECOND = 25
LATENT_CHANNELS = 64

TILE_SECONDS = 30
OVERLAP_SECONDS = 2


@torch.inference_mode()
def encode_audio(
    vae: AutoencoderOobleck,
    waveform: Tensor,
    tile_seconds: int = TILE_SECONDS,
    overlap_seconds: int = OVERLAP_SECONDS,
) -> Tensor:
    """Latents [T, 64] (fp32, on the CPU) of a waveform [2, N], T = ceil(N / 1920).

    The mean of the posterior, so that the same song gives the same latents. A last, partial frame is
    filled up with silence. Long songs are encoded in tiles of `tile_seconds`, of which
    `overlap_seconds` at each inner side only give context and are discarded: memory does not grow
    with the song.
    """
    frames = -(-waveform.shape[-1] // SAMPLES_PER_LATENT)
    waveform = F.pad(waveform, (0, frames * SAMPLES_PER_LATENT - waveform.shape[-1]))
    overlap = overlap_seconds * LATENTS_PER_SECOND
    stride = tile_seconds * LATENTS_PER_SECOND - 2 * overlap
    assert stride > 0, "a tile must be longer than its two overlaps"
    latents = []
    for start in range(0, frames, stride):
        stop = min(start + stride, frames)
        begin, end = max(start - overlap, 0), min(stop + overlap, frames)
        tile = waveform[None, :, begin * SAMPLES_PER_LATENT : end * SAMPLES_PER_LATENT]
        mean = vae.encode(tile.to(vae.device, vae.dtype)).latent_dist.mean[0].T  # [frames of the tile, 64]
        latents.append(mean[start - begin : stop - begin].float().cpu())
    return torch.cat(latents)
