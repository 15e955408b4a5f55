"""Real files, encoded here: does the decoder give the same sound back, at its length and its level?"""

import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from sidestep.data import audio
from sidestep.data.audio import SAMPLE_RATE, read_audio, seconds_by_header
from sidestep.data.probe import problem_of
from sidestep.runtime.errors import BadDataError
from tests.data.sounds import make_kind
from tests.facts import facts

AMPLITUDE = 0.5
FREQUENCY = 1000.0


def encode(
    path: Path, codec: str, rate: int, layout: str = "stereo", seconds: float = 1.0, **options: str
) -> int:
    """Write a sine with PyAV, the same in all channels; gives the number of samples."""
    channels = av.AudioLayout(layout).nb_channels
    samples = round(seconds * rate) + 7  # not a multiple of any codec's frame
    sine = AMPLITUDE * np.sin(2 * np.pi * FREQUENCY * np.arange(samples) / rate)
    container_options = {key: options.pop(key) for key in ("write_xing",) if key in options}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options=options)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.tile(sine.astype(np.float32), (channels, 1)), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return samples


def write_wav(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    """16-bit samples [N, channels] without a channel mask, as simple recorders write them."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def level(waveform: torch.Tensor) -> list[float]:
    """Amplitude of a sine, per channel, away from the edges."""
    return (2 * waveform[:, 4800:-4800].double().square().mean(1)).sqrt().tolist()


def loudest_frequency(waveform: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(
        waveform[0].double() * torch.hann_window(waveform.shape[1], dtype=torch.float64)
    )
    return float(spectrum.abs().argmax()) * SAMPLE_RATE / waveform.shape[1]


# lame itself takes 5 % off at its default bit rate; AAC ends on a whole frame of 1024 samples
@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "options", "extra_samples", "level_tolerance"),
    [
        ("a.wav", "pcm_s16le", 44_100, "stereo", {}, 0, 1e-3),
        ("a.wav", "pcm_u8", 8_000, "mono", {}, 0, 1e-2),
        ("a.wav", "pcm_s24le", 96_000, "mono", {}, 0, 1e-3),
        ("a.wav", "pcm_f32le", 48_000, "stereo", {}, 0, 1e-3),
        ("a.wav", "pcm_s16le", 22_050, "5.1", {}, 0, 1e-3),
        ("a.mp3", "libmp3lame", 44_100, "stereo", {}, 0, 0.06),
        ("a.mp3", "libmp3lame", 22_050, "mono", {}, 0, 0.06),
        ("a.flac", "flac", 44_100, "stereo", {}, 0, 1e-3),
        ("a.flac", "flac", 96_000, "5.1", {}, 0, 1e-3),
        ("a.ogg", "vorbis", 44_100, "stereo", {"strict": "-2"}, 1100, 0.05),
        ("a.ogg", "libopus", 48_000, "mono", {}, 0, 0.02),
        ("a.opus", "libopus", 48_000, "stereo", {}, 0, 0.02),
        ("a.m4a", "aac", 44_100, "stereo", {}, 1115, 0.01),
        ("a.m4a", "alac", 44_100, "mono", {}, 0, 1e-3),
    ],
)
def test_every_codec_keeps_length_pitch_and_level(
    tmp_path: Path,
    name: str,
    codec: str,
    rate: int,
    layout: str,
    options: dict[str, Any],
    extra_samples: int,
    level_tolerance: float,
) -> None:
    samples = encode(tmp_path / name, codec, rate, layout, **options)
    waveform = read_audio(tmp_path / name, max_duration=10)
    assert waveform.dtype == torch.float32 and waveform.shape[0] == 2
    wanted = samples * SAMPLE_RATE / rate
    assert -1 <= waveform.shape[1] - wanted <= 1 + extra_samples
    assert loudest_frequency(waveform) == pytest.approx(FREQUENCY, abs=1.5)
    assert level(waveform) == pytest.approx([AMPLITUDE] * 2, rel=level_tolerance)


def test_at_48_khz_samples_are_untouched(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, (4800, 2))
    waveform = read_audio(write_wav(tmp_path / "a.wav", samples), 1)
    assert torch.equal(waveform, torch.tensor(samples.T / 32768, dtype=torch.float32))


def test_mono_is_duplicated_at_its_own_level(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, (4800, 1))
    waveform = read_audio(write_wav(tmp_path / "a.wav", samples), 1)
    assert torch.equal(waveform, torch.tensor(samples.T / 32768, dtype=torch.float32).expand(2, -1))


@pytest.mark.parametrize("channels", [3, 4, 6, 8])
def test_channels_without_names_are_mixed_down_without_clipping(tmp_path: Path, channels: int) -> None:
    samples = np.full((4800, channels), 32767)
    assert read_audio(write_wav(tmp_path / "a.wav", samples), 1).abs().max() <= 1.0


def test_exactly_max_duration_of_a_longer_song(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp3", "libmp3lame", 44_100, seconds=2)
    whole = read_audio(tmp_path / "a.mp3", 10)
    part = read_audio(tmp_path / "a.mp3", 0.7501)
    assert part.shape == (2, 36_005)
    assert torch.equal(part, whole[:, :36_005])


def test_nothing_past_max_duration_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.flac", "flac", 48_000, seconds=20)
    decoded = []
    decode = audio._decode

    def counted(*given: Any) -> Iterator[av.AudioFrame]:
        for frame in decode(*given):
            decoded.append(frame.samples)
            yield frame

    monkeypatch.setattr(audio, "_decode", counted)
    assert read_audio(tmp_path / "a.flac", 1.0).shape == (2, SAMPLE_RATE)
    assert sum(decoded) < 2 * SAMPLE_RATE


TRUNCATED = [
    ("a.wav", "pcm_s16le", {}),
    ("a.wav", "pcm_f32le", {}),
    ("a.mp3", "libmp3lame", {}),
    ("a.flac", "flac", {}),
    ("a.ogg", "vorbis", {"strict": "-2"}),
    ("a.opus", "libopus", {}),
    ("a.m4a", "aac", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), TRUNCATED)
@pytest.mark.parametrize("share", [0.02, 0.6, 0.9])
def test_a_truncated_file_is_refused_by_name(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any], share: float
) -> None:
    path = tmp_path / name
    encode(path, codec, 48_000, seconds=3, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadDataError, match=f"{name} is (truncated|not a sound file|empty)"):
        read_audio(path, 240)


def test_damage_after_max_duration_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    encode(path, "flac", 48_000, seconds=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert read_audio(path, 1).shape == (2, SAMPLE_RATE)


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    encode(path, "flac", 48_000, seconds=3)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="truncated or damaged"):
        read_audio(path, 240)


@pytest.mark.parametrize("junk", [b"TAG" + b"x" * 125, bytes(500)])
def test_junk_after_the_last_frame_is_no_damage(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.mp3"
    samples = encode(path, "libmp3lame", 48_000)
    path.write_bytes(path.read_bytes() + junk)
    assert read_audio(path, 240).shape == (2, samples)


def test_an_mp3_without_a_length_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    encode(path, "libmp3lame", 48_000, write_xing="0")
    path.write_bytes(path.read_bytes()[:-2000])
    assert read_audio(path, 240).shape[1] > 0.7 * SAMPLE_RATE


def test_a_wav_written_into_a_pipe_has_no_length_and_is_whole(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.ones((4800, 1)))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFF_FFFF)
    path.write_bytes(content)
    assert read_audio(path, 240).shape == (2, 4800)


def test_a_file_that_changes_its_format_on_the_way(tmp_path: Path) -> None:
    lengths = []
    for name, layout in (("a", "stereo"), ("b", "mono")):
        lengths.append(encode(tmp_path / f"{name}.mp3", "libmp3lame", 48_000, layout, write_xing="0"))
    joined = tmp_path / "joined.mp3"
    joined.write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    waveform = read_audio(joined, 240)
    assert waveform.shape[1] == pytest.approx(sum(lengths), abs=6000)
    assert level(waveform[:, 60_000:90_000]) == pytest.approx([AMPLITUDE] * 2, rel=0.06)


def test_no_sample_is_lost_where_the_rate_changes() -> None:
    """An mp3 loses some at a joint by itself, so these frames come from no file."""
    frames = []
    for rate, layout in ((44_100, "stereo"), (22_050, "mono"), (44_100, "stereo")):
        channels = 2 if layout == "stereo" else 1
        frame = av.AudioFrame.from_ndarray(np.zeros((channels, rate), np.float32), "fltp", layout)
        frame.sample_rate = rate
        frames.append(frame)
    resampled = list(audio._at_48_khz(iter(frames)))
    assert sum(frame.samples for frame in resampled) == 3 * SAMPLE_RATE
    assert {frame.sample_rate for frame in resampled} == {SAMPLE_RATE}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.flac", b"hello world\n" * 100),
        ("nothing.wav", b""),
        ("nothing.flac", b""),
        ("random.mp3", np.random.default_rng(0).bytes(20_000)),
        ("playlist.mp3", b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/hostname\n"),
    ],
)
def test_what_is_not_audio_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadDataError, match=f"{name} is (empty|not a sound file)"):
        read_audio(tmp_path / name, 240)


@pytest.mark.parametrize("name", ["song.mp3", "song.wav"])
def test_a_playlist_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FFmpeg would play the file that it names, whatever the playlist is called."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "secret.wav", np.ones((4800, 1)))
    (tmp_path / name).write_text("ffconcat version 1.0\nfile secret.wav\n")
    with pytest.raises(BadDataError, match=f"{name} is not a sound file"):
        read_audio(tmp_path / name, 240)


@pytest.mark.parametrize("rate", [1, 999, 2_000_000, 1_795_210_112])
def test_a_rate_that_no_sound_has_is_refused(tmp_path: Path, rate: int) -> None:
    """A resampler for it would take gigabytes, and a minute. Where a WAV names its rate: byte 24."""
    path = make_kind(tmp_path / "a.wav", "a.wav", seconds=0.5)
    content = path.read_bytes()
    path.write_bytes(content[:24] + rate.to_bytes(4, "little") + content[28:])
    with pytest.raises(BadDataError, match=facts("a.wav", f"{rate:,}")):
        read_audio(path, 1)


@pytest.mark.parametrize("rate", [1000, 384_000])
def test_rare_rates_are_read(tmp_path: Path, rate: int) -> None:
    path = write_wav(tmp_path / "a.wav", np.full((rate, 2), 0.1, np.float32), rate)
    assert read_audio(path, 2).shape[1] == pytest.approx(SAMPLE_RATE, abs=50)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.m4a", "index-first.m4b", "a.webm"])
def test_tags_may_be_in_any_encoding(tmp_path: Path, name: str) -> None:
    """As Windows wrote them, say. FFmpeg says in each that it was the encoder."""
    path = make_kind(tmp_path / name, name, seconds=0.5)
    before, content = read_audio(path, 1), path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"L\xe4vf", 1))
    assert torch.equal(read_audio(path, 1), before)
    assert problem_of(path, 1) is None and seconds_by_header(path)


def test_a_wav_without_samples_is_empty(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"a\.wav is empty"):
        read_audio(write_wav(tmp_path / "a.wav", np.ones((0, 1))), 240)


def test_a_picture_has_no_audio(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for packet in [*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(BadDataError, match="no audio"):
        read_audio(tmp_path / "a.m4a", 240)


def test_samples_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 436, b"WAVE", b"fmt ", 16, 3, 1, 48000, 192000, 4, 32, b"data", 400
    )
    (tmp_path / "a.wav").write_bytes(header + np.full(100, np.nan, "<f4").tobytes())
    with pytest.raises(BadDataError, match="not numbers"):
        read_audio(tmp_path / "a.wav", 240)


def write_floats(path: Path, samples: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=SAMPLE_RATE, layout="stereo", format="flt")
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32).reshape(1, -1), "flt", "stereo")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.mka"])
@pytest.mark.parametrize(
    ("peak", "said", "likely"),
    [(16383, "+84.3", 32768), (32768, "+90.3", 32768), (10.5, "+20.4", 32768), (2.0**31, "+186.6", 2**31)],
)
def test_integers_in_disguise_are_refused_with_their_peak(
    tmp_path: Path, name: str, peak: float, said: str, likely: int
) -> None:
    path = write_floats(tmp_path / name, peak * np.sin(np.arange(9600) / 20 + np.pi / 2))
    with pytest.raises(BadDataError, match=facts(name, f"{said} dBFS", f"--float-scale {likely}")):
        read_audio(path, 240)
    assert read_audio(path, 240, float_scale=likely).abs().max() <= 1


def test_a_hot_master_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_floats(tmp_path / "a.wav", 1.5 * np.ones(9600))
    with caplog.at_level("INFO", logger="sidestep"):
        assert read_audio(path, 240).max() == 1.5
    assert "+3.5 dBFS" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="sidestep"):
        read_audio(write_floats(tmp_path / "b.wav", np.ones(9600)), 240)
    assert not caplog.records


def test_the_scale_of_floats_leaves_integers_alone(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.full((4800, 2), 16384))
    assert read_audio(path, 240, float_scale=32768).unique().tolist() == [0.5]


def test_names_with_anything_in_them(tmp_path: Path) -> None:
    """A colon would be a protocol to FFmpeg, a percent sign a pattern."""
    path = write_wav(tmp_path / 'concat:%03d "wörld"\n?.wav', np.ones((4800, 2)))
    assert read_audio(path, 240).shape == (2, 4800)
