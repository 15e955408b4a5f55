"""Mel spectrograms as pictures."""

import io

import numpy as np
import torch
from torch import Tensor

BANDS, WINDOW, HOP = 128, 2048, 512
RANGE_DB = 80.0  # below the loudest, all is black
QUIET_DB = -20.0  # a clip that is softer than this all through is dark all through
PARTS = 600  # of a picture in a file, from left to right, whatever the length


def mel_picture(samples: Tensor, rate: int) -> np.ndarray:
    """Pixels [BANDS, frames, 3] (8 bits) of sound [channels, N]: high tones above, loud ones bright.

    The power in mel bands (HTK's scale) from 20 Hz to half the rate, in dB below the loudest.
    """
    from matplotlib import colormaps
    from transformers.audio_utils import mel_filter_bank

    mono = torch.nn.functional.pad(samples.mean(0), (0, max(WINDOW - samples.shape[1], 0)))
    window = torch.hann_window(WINDOW)
    power = torch.stft(mono, WINDOW, HOP, window=window, return_complex=True).abs() ** 2
    filters = mel_filter_bank(WINDOW // 2 + 1, BANDS, 20.0, rate / 2, rate)  # [WINDOW/2 + 1, BANDS]
    bands = torch.from_numpy(filters).float().T @ power
    level = 10 * torch.log10(bands.clamp(min=1e-10))
    loudest = level.max().clamp(min=QUIET_DB)
    brightness = ((level - loudest) / RANGE_DB + 1).clamp(0, 1).flip(0)
    colours: np.ndarray = colormaps["magma"](brightness.numpy(), bytes=True)
    return colours[..., :3]


def mel_png(samples: Tensor, rate: int) -> bytes:
    """The same of PARTS columns at most, as a PNG file."""
    from matplotlib import image

    pixels = torch.from_numpy(mel_picture(samples, rate)).float()  # [bands, frames, 3]
    if pixels.shape[1] > PARTS:
        bands, frames, colours = pixels.shape
        flat = pixels.permute(0, 2, 1).reshape(1, bands * colours, frames)
        pixels = (
            torch.nn.functional.adaptive_avg_pool1d(flat, PARTS)
            .reshape(bands, colours, PARTS)
            .permute(0, 2, 1)
        )
    file = io.BytesIO()
    nameless = {"Software": None}  # else matplotlib's version is in it
    image.imsave(file, pixels.round().byte().numpy(), format="png", metadata=nameless)  # type: ignore[arg-type]
    return file.getvalue()
