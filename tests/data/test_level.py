"""Levels as measured on the result, by another meter than the one that set them."""

import pytest
import torch

from sidestep.config.schema import PreprocessSpec
from sidestep.data.keys import levels
from sidestep.data.level import loudness, normalized, peak_db
from tests.facts import tells


def music(seconds: float, peak: float = 0.2) -> torch.Tensor:
    """Noise whose level moves as a song's does, and not the same on both sides."""
    samples = round(seconds * 48_000)
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    swell = 1 + torch.sin(torch.arange(samples) / 9000)
    waveform = noise.clamp(-3, 3) * swell * torch.tensor([[1.0], [0.3]])
    return waveform / waveform.abs().max() * peak


def test_loudness_is_that_of_torchaudio() -> None:
    """torchaudio.functional.loudness of the same noise, by torchaudio 2.11, recorded."""
    assert loudness(music(0.8)) == pytest.approx(-22.0398, abs=0.1)


@pytest.mark.parametrize(("amplitude", "sides", "lufs"), [(1.0, 2, 0.0), (1.0, 1, -3.01), (0.1, 2, -20.0)])
def test_loudness_of_the_standard_s_sine(amplitude: float, sides: int, lufs: float) -> None:
    """BS.1770: a full-scale sine of 997 Hz on one side has −3.01 LUFS."""
    sine = amplitude * torch.sin(2 * torch.pi * 997 * torch.arange(96_000) / 48_000)
    waveform = torch.stack([sine, sine if sides == 2 else torch.zeros_like(sine)])
    assert loudness(waveform) == pytest.approx(lufs, abs=0.05)


@pytest.mark.parametrize("target", [-24.0, -30.0])
@pytest.mark.parametrize("peak", [1e-3, 0.9])
def test_lufs_is_reached_by_one_gain(target: float, peak: float) -> None:
    waveform = music(2, peak)
    result = normalized(waveform, {"peak": -1.0, "lufs": target}, "a song")
    assert loudness(result) == pytest.approx(target, abs=0.05)
    gain = result / waveform
    assert torch.allclose(gain[waveform != 0], gain[0, 0], rtol=1e-4)


def test_lufs_ends_where_peaks_would_go_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="sidestep"):
        result = normalized(music(2), {"peak": -1.0, "lufs": -6.0}, "a song")
    assert peak_db(result) == pytest.approx(-1.0, abs=1e-3)
    assert loudness(result) < -7
    assert tells(caplog.text, "a song", "-1 dBFS")


@pytest.mark.parametrize("wanted", [{"peak": -3.0}, {"peak": -3.0, "lufs": -14.0}])
def test_a_song_too_short_for_a_loudness_is_set_by_its_peak(wanted: dict[str, float]) -> None:
    assert peak_db(normalized(music(0.2), wanted, "short")) == pytest.approx(-3.0, abs=1e-3)


def test_what_a_spec_asks_for() -> None:
    assert levels(PreprocessSpec()) == {}
    assert levels(PreprocessSpec(normalize="peak", target_db=-2)) == {"peak": -2}
    assert levels(PreprocessSpec(normalize="lufs")) == {"peak": -1, "lufs": -14}
    waveform = music(0.1)
    assert normalized(waveform, {}, "a song") is waveform
