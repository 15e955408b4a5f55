"""Small sound files of every kind that is read."""

import struct
from pathlib import Path

import av
import numpy as np

RATE = 48_000
KINDS = {  # name → FFmpeg's format, codec, options of the format
    "a.wav": ("wav", "pcm_s16le", {}),
    "a.w64": ("w64", "pcm_s24le", {}),
    "rf64.wave": ("wav", "pcm_s16le", {"rf64": "always"}),
    "a.mp3": ("mp3", "libmp3lame", {}),
    "a.flac": ("flac", "flac", {}),
    "a.ogg": ("ogg", "libopus", {}),
    "flac.oga": ("ogg", "flac", {}),
    "a.opus": ("ogg", "libopus", {}),
    "a.m4a": ("ipod", "aac", {}),
    "index-first.m4b": ("ipod", "aac", {"movflags": "faststart"}),
    "fragments.mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
    "a.aac": ("adts", "aac", {}),
    "a.aiff": ("aiff", "pcm_s16be", {}),
    "floats.aifc": ("aiff", "pcm_f32be", {}),
    "a.webm": ("webm", "libopus", {}),
    "live.webm": ("webm", "libopus", {"live": "1"}),
    "a.mka": ("matroska", "libmp3lame", {}),
    "a.wma": ("asf", "wmav2", {}),
}


def make_kind(path: Path, kind: str, seconds: float = 2, seed: int = 0, **more: str) -> Path:
    """A file of one of KINDS with stereo noise, at 128 kbit/s where that means something."""
    format_name, codec, options = KINDS[kind]
    samples = round(seconds * RATE) + 7  # not a multiple of any codec's frame
    noise = (0.3 * np.random.default_rng(seed).standard_normal((1, samples))).clip(-1, 1)
    frame = av.AudioFrame.from_ndarray(noise.astype(np.float32).repeat(2, 0), "fltp", "stereo")
    frame.sample_rate, frame.pts = RATE, 0
    with av.open(str(path), "w", format=format_name, options={**options, **more}) as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 128_000
        sizes = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format.name, "stereo", RATE, sizes)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return path


def pcm_wav(samples: np.ndarray, bits: int, valid: int) -> bytes:
    """A WAVE_FORMAT_EXTENSIBLE file of int32 samples [N, channels], of which the upper `bits` are stored."""
    channels, width = samples.shape[1], bits // 8
    data = samples.astype("<i4").view("u1").reshape(-1, 4)[:, 4 - width :].tobytes()
    frame = channels * width
    layout = struct.pack(
        "<HHIIHHHHIH", 0xFFFE, channels, RATE, RATE * frame, frame, bits, 22, valid, (1 << channels) - 1, 1
    )
    return riff(layout + bytes.fromhex("000000001000800000aa00389b71"), data)


def riff(layout: bytes, data: bytes, magic: bytes = b"RIFF") -> bytes:
    """A WAV file of what describes the samples, and of them."""
    order = ">I" if magic == b"RIFX" else "<I"
    body = b"WAVEfmt " + struct.pack(order, len(layout)) + layout
    body += b"data" + struct.pack(order, len(data)) + data
    return magic + struct.pack(order, len(body)) + body
