"""The clip and its reconstruction: from the song's middle, of the same length, and what TensorBoard shows."""

import io
import logging
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sidestep.acestep.loading import load_vae
from sidestep.acestep.vae import SAMPLE_RATE, decode_latents, encode_audio
from sidestep.config.schema import StorageSpec
from sidestep.data.preview import read_preview, wav_bytes, write_preview
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.training.events import EventFiles
from sidestep.training.mel import BANDS, mel_picture
from sidestep.training.metrics import description
from tests.facts import tells

CLIP_FRAMES = 25  # a second, for speed


@pytest.fixture
def tensors(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "tensors"), StorageSpec())


def tone(seconds: float, hertz: float = 440.0) -> torch.Tensor:
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return torch.stack([0.5 * torch.sin(2 * torch.pi * hertz * time), 0.25 * time / seconds])


@pytest.mark.parametrize("seconds", [0.2, 0.51, 2.1])
def test_a_clip_and_what_the_vae_makes_of_it(
    tiny_checkpoints: Path, tensors: Store, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestep.data.preview.CLIP_FRAMES", CLIP_FRAMES)
    monkeypatch.setattr("sidestep.data.preview.OVERLAP_FRAMES", 12)
    vae = load_vae(tiny_checkpoints, "cpu", torch.float32)
    waveform = tone(seconds)
    latents = encode_audio(vae, waveform)
    write_preview(tensors, vae, waveform, latents)
    clip, reconstruction = read_preview(tensors)
    assert (clip.name, reconstruction.name) == ("clip", "reconstruction")
    assert clip.samples.shape == reconstruction.samples.shape == (2, min(waveform.shape[1], SAMPLE_RATE))
    start = max(len(latents) - CLIP_FRAMES, 0) // 2 * 1920
    assert torch.allclose(clip.samples, waveform[:, start : start + clip.samples.shape[1]], atol=1e-4)
    whole = decode_latents(vae, latents)[:, start : start + clip.samples.shape[1]].clamp(-1, 1)
    assert torch.allclose(reconstruction.samples, whole, atol=1e-3)  # as in the whole song


def test_what_is_no_sound_is_said_and_left_out(tensors: Store, caplog: pytest.LogCaptureFixture) -> None:
    tensors.write_bytes("preview/clip.wav", b"RIFF, not really")
    tensors.write_bytes("preview/reconstruction.wav", wav_bytes(tone(0.1))[:44])
    with caplog.at_level(logging.WARNING):
        assert read_preview(tensors) == []
    assert [name in caplog.text for name in ("clip.wav", "reconstruction.wav")] == [True, True]


def test_tensorboard_plays_and_shows_it(tiny_checkpoints: Path, tensors: Store, tmp_path: Path) -> None:
    vae = load_vae(tiny_checkpoints, "cpu", torch.float32)
    waveform = tone(1.0)
    write_preview(tensors, vae, waveform, encode_audio(vae, waveform))
    written = EventFiles(tmp_path / "runs", first_step=1)
    for summary in description("name: a", {"lr": 1e-4}, read_preview(tensors)):
        written.add(summary, step=0)
    written.close()
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert set(events.Tags()["audio"]) == {"audio/clip", "audio/reconstruction"}
    assert set(events.Tags()["images"]) == {"mel/clip", "mel/reconstruction"}
    (sound,) = events.Audio("audio/clip")
    with wave.open(io.BytesIO(sound.encoded_audio_string)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (48_000, 2, 48_000)
    assert (sound.sample_rate, sound.length_frames, sound.content_type) == (48_000, 48_000, "audio/wav")
    (picture,) = events.Images("mel/clip")
    with Image.open(io.BytesIO(picture.encoded_image_string)) as shown:
        assert shown.size == (picture.width, picture.height) == (94, BANDS)


def test_in_the_picture_high_tones_are_above_and_silence_is_dark() -> None:
    def row(hertz: float) -> int:
        pixels = mel_picture(tone(1.0, hertz)[:1], SAMPLE_RATE).astype(float).sum(axis=(1, 2))
        return int(np.argmax(pixels))

    assert row(8000) < row(1000) < row(100)
    silent = mel_picture(torch.cat([tone(1.0)[:1], torch.zeros(1, SAMPLE_RATE)], dim=1), SAMPLE_RATE)
    assert silent[:, -20:].max() < 10
    assert mel_picture(torch.zeros(2, 10), SAMPLE_RATE).shape == (BANDS, 5, 3)
    assert mel_picture(torch.zeros(2, SAMPLE_RATE), SAMPLE_RATE).max() < 10


def test_a_file_that_is_cut_short_is_left_out(tensors: Store, caplog: pytest.LogCaptureFixture) -> None:
    tensors.write_bytes("preview/clip.wav", wav_bytes(tone(0.1))[:1000])
    assert read_preview(tensors) == []
    assert tells(caplog.text, "clip.wav", "cut short")
