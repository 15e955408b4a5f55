"""Latents to sound: tiles without a seam, the pipeline's level, and files that give the sound back."""

import io
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from sidestep.acestep import load_vae
from sidestep.acestep.vae import SAMPLES_PER_LATENT
from sidestep.data.preview import wav_bytes
from sidestep.sampling.audio import PEAK_DB, decode_tiled, flac_bytes

TILE, FRAMES = 24, 40
ENOUGH = 8  # latents around one that reach its sound: see the twin


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(FRAMES, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def vae(tiny_checkpoints: Path) -> AutoencoderOobleck:
    return load_vae(tiny_checkpoints, "cpu", torch.float32)


def at_seams(vae: AutoencoderOobleck, latents: Tensor, overlap: int) -> list[float]:
    """How far tiles are from one shot, in the ten milliseconds around each seam."""
    whole = decode_tiled(vae, latents)
    assert len(latents) <= vae.tile_latent_min_length
    vae.tile_latent_min_length, vae.tile_latent_overlap = TILE, overlap
    difference = (decode_tiled(vae, latents) - whole).abs()
    assert difference.shape == (2, FRAMES * SAMPLES_PER_LATENT)
    seams = range(TILE - 2 * overlap, FRAMES, TILE - 2 * overlap)
    near = (slice(seam * SAMPLES_PER_LATENT - 240, seam * SAMPLES_PER_LATENT + 240) for seam in seams)
    return [float(difference[:, samples].max()) for samples in near]


def test_tiles_leave_no_seam(vae: AutoencoderOobleck, latents: Tensor) -> None:
    """More than three tiles. The overlap that is used is eight times what is enough here."""
    assert vae.tile_latent_overlap >= ENOUGH and vae.tile_latent_min_length > 2 * vae.tile_latent_overlap
    seams = at_seams(vae, latents, ENOUGH)
    assert len(seams) > 3 and max(seams) <= 1e-5


def test_too_small_an_overlap_would_show(vae: AutoencoderOobleck, latents: Tensor) -> None:
    assert max(at_seams(vae, latents, 2)) > 1e-3


def test_long_latents_are_decoded_in_tiles_and_the_vae_is_as_before(
    vae: AutoencoderOobleck, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def decode(z: Tensor) -> Tensor:
        asked.append(z.shape[-1])
        return torch.zeros(1, 2, z.shape[-1] * SAMPLES_PER_LATENT)

    monkeypatch.setattr(vae, "decoder", torch.nn.Module())
    monkeypatch.setattr(vae.decoder, "forward", decode)
    assert decode_tiled(vae, torch.zeros(1500, 64)).shape == (2, 1500 * SAMPLES_PER_LATENT)
    assert len(asked) > 3 and max(asked) <= 512
    assert not vae.use_tiling


def test_the_level_is_the_pipeline_s(vae: AutoencoderOobleck, latents: Tensor) -> None:
    peak = decode_tiled(vae, latents[:4]).abs().max()
    assert float(20 * peak.log10()) == pytest.approx(PEAK_DB, abs=1e-4)


def test_files_give_the_sound_back() -> None:
    t = torch.arange(10_007) / 48_000  # not a multiple of the encoder's block
    waveform = torch.stack([(t * 2764).sin() * 0.8, (t * 5529).cos() * 1.2])
    sound = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    data = flac_bytes(waveform)
    assert data == flac_bytes(waveform.clone())
    assert b"Lavf" not in data and b"Lavc" not in data
    with av.open(io.BytesIO(data), "r") as container:
        codec = container.streams.audio[0].codec_context
        assert (codec.name, codec.sample_rate, codec.layout.name) == ("flac", 48_000, "stereo")
        frames = [frame.to_ndarray().reshape(-1, 2).T for frame in container.decode(audio=0)]
    assert np.array_equal(np.concatenate(frames, axis=1), sound)
    with wave.open(io.BytesIO(wav_bytes(waveform))) as file:
        assert np.array_equal(np.frombuffer(file.readframes(-1), "<i2").reshape(-1, 2).T, sound)
