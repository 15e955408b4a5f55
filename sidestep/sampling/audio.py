"""Latents to sound, in tiles, and sound to files."""

import io
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from sidestep.acestep.vae import SAMPLE_RATE
from sidestep.data.preview import wav_bytes
from sidestep.runtime.liveness import sign_of_life
from sidestep.sampling.pipeline import evaluating
from sidestep.sampling.wish import Kind

PEAK_DB = -1.0
"""Of each take, as the ACE-Step app and diffusers' pipeline leave it."""

_SILENT = 1e-6
_BLOCK = 4096  # samples that the FLAC encoder gets at once


@torch.no_grad()
def decode_tiled(
    vae: AutoencoderOobleck, latents: Tensor, on_tile: Callable[[], object] = lambda: None
) -> Tensor:
    """The waveform [2, 1920 · T] (fp32, on the CPU) of latents [T, 64], at a peak of -1 dBFS.

    Above 512 latents it is decoded in tiles of so many, which overlap by 64 on each inner side: memory does
    not grow with the length, and a sample depends on far fewer latents around it. Then the level is set as
    diffusers' pipeline does. `on_tile` is called before each.
    """

    def before_tile(*_: Any) -> None:
        sign_of_life()
        on_tile()

    hook = vae.decoder.register_forward_pre_hook(before_tile)
    before, vae.use_tiling = vae.use_tiling, True
    try:
        with evaluating(vae):
            decoded = vae.decode(latents.T[None].to(vae.device, vae.dtype)).sample[0].float().cpu()
    finally:
        vae.use_tiling = before
        hook.remove()
    decoded = decoded / decoded.abs().max().clamp(min=1.0)
    at_peak: Tensor = decoded * (10 ** (PEAK_DB / 20) / decoded.abs().max().clamp(min=_SILENT))
    return at_peak


def flac_bytes(waveform: Tensor) -> bytes:
    """A FLAC file of 16 bits at 48 kHz of a waveform [2, N]. The same sound gives the same bytes, with one
    version of the encoder; nothing of time or host is in them."""
    samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    file = io.BytesIO()
    with av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="stereo", format="s16")
        for start in range(0, samples.shape[1], _BLOCK):
            block = np.ascontiguousarray(samples[:, start : start + _BLOCK].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, "s16", "stereo")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


WRITERS: dict[Kind, Callable[[Tensor], bytes]] = {"flac": flac_bytes, "wav": wav_bytes}
