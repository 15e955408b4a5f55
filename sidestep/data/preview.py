"""A clip of a song, and what the VAE makes of it: two WAV files beside the tensors, to hear and to look at.

Training sees latents alone. What is lost on the way there, the adapter cannot learn; these two let an ear
judge that before a GPU is rented. They are of the dataset's first song, ten seconds from its middle.
"""

import io
import logging
import wave
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from sidestep.acestep.vae import OVERLAP_FRAMES, SAMPLE_RATE, SAMPLES_PER_LATENT, decode_latents
from sidestep.data.listing import PREVIEW
from sidestep.runtime.errors import BadDataError
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

NAMES = ("clip", "reconstruction")
CLIP_FRAMES = 250  # latents: ten seconds
BYTES_AT_MOST = 10_000_000  # of a file, which may be another trainer's


@dataclass(frozen=True)
class Sound:
    """16-bit sound, as a WAV file holds it."""

    name: str
    wav: bytes
    samples: Tensor  # [channels, N], from -1 to 1
    rate: int  # per second


def has_preview(tensors: Store) -> bool:
    return all(tensors.stat(_path(name)) for name in NAMES)


def write_preview(tensors: Store, vae: AutoencoderOobleck, waveform: Tensor, latents: Tensor) -> None:
    """Write both files of a song: `waveform` [2, N] at 48 kHz, and its `latents` [T, 64]."""
    frames = len(latents)
    start = max(frames - CLIP_FRAMES, 0) // 2
    stop = min(start + CLIP_FRAMES, frames)
    # Latents beside the clip give the decoder context, as they do in a whole song.
    begin, end = max(start - OVERLAP_FRAMES, 0), min(stop + OVERLAP_FRAMES, frames)
    decoded = decode_latents(vae, latents[begin:end])
    clip = waveform[:, start * SAMPLES_PER_LATENT : stop * SAMPLES_PER_LATENT]
    offset = (start - begin) * SAMPLES_PER_LATENT
    reconstruction = decoded[:, offset : offset + clip.shape[1]]  # a song's last latent is part silence
    for name, sound in zip(NAMES, (clip, reconstruction), strict=True):
        tensors.write_bytes(_path(name), wav_bytes(sound))


def read_preview(tensors: Store) -> list[Sound]:
    """The sounds that lie beside the tensors; those that are none are said and left out."""
    sounds: list[Sound] = []
    for name in NAMES:
        info = tensors.stat(_path(name))
        if info is None:
            continue
        try:
            if info.size > BYTES_AT_MOST:
                raise BadDataError(f"it has more than {BYTES_AT_MOST} bytes")
            sounds.append(_sound(name, tensors.read_bytes(_path(name))))
        except BadDataError as error:
            log.warning("%s/%s is not shown: %s", tensors.place, _path(name), error)
    return sounds


def wav_bytes(waveform: Tensor) -> bytes:
    """A WAV file of 16 bits at 48 kHz of a waveform [channels, N]; what is louder than 1 is cut off."""
    samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(samples.shape[0])
        target.setsampwidth(2)
        target.setframerate(SAMPLE_RATE)
        target.writeframes(samples.T.contiguous().numpy().astype("<i2").tobytes())
    return file.getvalue()


def _sound(name: str, data: bytes) -> Sound:
    try:
        with wave.open(io.BytesIO(data)) as source:
            channels, width, rate = source.getnchannels(), source.getsampwidth(), source.getframerate()
            promised, frames = source.getnframes(), source.readframes(source.getnframes())
    except (wave.Error, EOFError) as error:
        raise BadDataError(f"it is not a WAV file ({error})") from error
    whole = len(frames) - len(frames) % (2 * channels)
    if width != 2 or not whole:
        raise BadDataError("it is not 16-bit sound")
    if whole != promised * 2 * channels:
        raise BadDataError("it is cut short")
    samples = np.frombuffer(frames[:whole], "<i2").reshape(-1, channels).T.astype(np.float32) / 32767
    return Sound(name, data, torch.from_numpy(samples), rate)


def _path(name: str) -> str:
    return f"{PREVIEW}/{name}.wav"
