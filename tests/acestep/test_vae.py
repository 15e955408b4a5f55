"""Latents of whole songs: their number, and tiles that leave no seam."""

from math import prod
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d

from sidestep.acestep import load_vae
from sidestep.acestep import vae as vae_module
from sidestep.acestep.vae import SAMPLES_PER_LATENT, encode_audio
from sidestep.data import audio, tensors


@pytest.fixture(scope="module")
def vae(tiny_checkpoints: Path) -> AutoencoderOobleck:
    return load_vae(tiny_checkpoints, "cpu", torch.float32)


def test_the_numbers_are_those_of_the_autoencoder(golden: Path) -> None:
    config = load_vae(golden / "checkpoints", "cpu", torch.float32).config
    assert (
        (config.sampling_rate, config.audio_channels) == (vae_module.SAMPLE_RATE, 2) == (audio.SAMPLE_RATE, 2)
    )
    assert prod(config.downsampling_ratios) == SAMPLES_PER_LATENT
    assert vae_module.LATENTS_PER_SECOND == vae_module.SAMPLE_RATE / SAMPLES_PER_LATENT
    assert config.decoder_input_channels == vae_module.LATENT_CHANNELS == tensors.LATENT_CHANNELS
    assert (vae_module.TILE_FRAMES, vae_module.OVERLAP_FRAMES) == (30 * 25, 2 * 25)  # as upstream encodes


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (1920, 1), (1921, 2), (4800, 3)])
def test_a_partial_frame_counts(vae: AutoencoderOobleck, samples: int, frames: int) -> None:
    assert encode_audio(vae, torch.zeros(2, samples)).shape == (frames, 64)


def test_tiles_leave_no_seam(vae: AutoencoderOobleck) -> None:
    """Three tiles against one shot. A frame sees less than 8 frames around it, so the overlap is enough."""
    waveform = torch.randn(2, 20 * SAMPLES_PER_LATENT, generator=torch.Generator().manual_seed(0)) * 0.3
    whole = encode_audio(vae, waveform)
    tiled = encode_audio(vae, waveform, tile_frames=24, overlap_frames=8)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)


def test_the_activation_in_one_tensor_is_diffusers_own_to_the_bit() -> None:
    torch.manual_seed(0)
    ours = vae_module._Snake(6)
    with torch.no_grad():
        for parameter in (ours.alpha, ours.beta):
            parameter.normal_()
    plain = Snake1d(6)
    plain.load_state_dict(ours.state_dict())
    sound = 3 * torch.randn(2, 6, 1001)
    with torch.inference_mode():
        before = sound.clone()
        assert torch.equal(ours(sound), plain(sound)) and torch.equal(sound, before)
    ours(sound).sum().backward()  # where a gradient is asked for, nothing is overwritten
    plain(sound).sum().backward()
    assert ours.alpha.grad is not None and torch.equal(ours.alpha.grad, plain.alpha.grad)


def test_every_activation_of_the_autoencoder_is_that_one(vae: AutoencoderOobleck) -> None:
    assert {type(module) for module in vae.modules() if isinstance(module, Snake1d)} == {vae_module._Snake}
