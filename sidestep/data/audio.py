"""Songs from files: any codec, rate and channel count → 48 kHz stereo, as the VAE takes it."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import torch
from av.audio import AudioFrame, AudioStream
from av.container import InputContainer
from torch import Tensor

from sidestep.data.sidecar import AUDIO_SUFFIXES
from sidestep.runtime.errors import BadDataError

log = logging.getLogger(__name__)

SAMPLE_RATE = 48_000

# FFmpeg looks at the content, not at the name. Without this list a playlist named song.mp3 would be
# opened as a playlist, and could name any file or address.
_OPTIONS = {"format_whitelist": "wav,mp3,flac,ogg,mov,m4a"}

# Rounding in headers and codec delay move a song's end by some 50 ms.
_END_TOLERANCE = 0.1

_UNKNOWN_RIFF_SIZE = 0x7FFF_F000  # writers into a pipe put this or more, as they cannot know


def read_audio(path: Path, max_duration: float) -> Tensor:
    """Decode the first `max_duration` seconds of a file: float32 [2, N] at 48 kHz, full scale ±1.

    Mono is duplicated at its own level. More than two channels are mixed down by FFmpeg's own matrix,
    scaled so that nothing can clip. Nothing after `max_duration` is decoded, so a song that is longer
    gives exactly round(max_duration · 48000) samples.

    Raises BadDataError, naming the file, where it is not audio, is empty, breaks off before the end that its
    header gives, or holds values that are not numbers.
    """
    limit = round(max_duration * SAMPLE_RATE)
    chunks: list[Tensor] = []
    length = 0
    try:
        with path.open("rb") as file, av.open(file, "r", options=_OPTIONS) as container:
            if not container.streams.audio:
                raise BadDataError(f"{path} has no audio in it")
            stream = container.streams.audio[0]
            for frame in _at_48_khz(_decode(container, stream, path)):
                chunks.append(torch.from_numpy(frame.to_ndarray()).expand(2, -1))
                length += frame.samples
                if length >= limit:
                    break
            else:
                if length and _breaks_off(file, container, stream, length / SAMPLE_RATE):
                    raise BadDataError(
                        f"{path} is truncated or damaged: it breaks off after {length / SAMPLE_RATE:.2f} s\n"
                        "  copy or convert this song again, or take it out of the dataset"
                    )
    except av.FFmpegError as error:
        raise BadDataError(
            f"{path} is not a sound file that can be read: {error.strerror}\n"
            f"  wanted is one of {', '.join(AUDIO_SUFFIXES)}, whole"
        ) from error
    if not length:
        raise BadDataError(f"{path} is empty or not a sound file: nothing in it decodes to sound")
    waveform = torch.cat(chunks, dim=1)[:, :limit]
    if not waveform.isfinite().all():
        raise BadDataError(f"{path} holds samples that are not numbers (NaN or infinite)")
    return waveform


def seconds_by_header(path: Path) -> float | None:
    """A sound file's length in seconds by its header. None if that has none, or the file is no sound."""
    try:
        with path.open("rb") as file, av.open(file, "r", options=_OPTIONS) as container:
            return container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, OSError):
        return None


def _decode(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[AudioFrame]:
    """All frames of a stream. Packets that do not decode are skipped, as players do: tags and junk at
    a file's end look like that too. Whether the song is whole is checked later.
    """
    damaged = 0
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            damaged += 1
    if damaged:
        log.warning("%s: %d damaged packets were skipped", path, damaged)


def _at_48_khz(frames: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    """Frames as planar float32 at 48 kHz with one or two channels.

    A file may change its format on the way (joined ogg or mp3 files): each stretch gets its own
    resampler, flushed at its end, or its last samples would be lost.
    """
    resampler, source = None, None
    for frame in frames:
        if source != (source := (frame.format.name, frame.layout.name, frame.sample_rate)):
            if resampler:
                yield from _resample(resampler, None)
            # FFmpeg would take 3 dB off mono on its way to stereo. With rematrix_maxval it mixes surround
            # down at the level of its integer formats; without, float output grows up to 2.4-fold.
            resampler = av.AudioResampler(
                format="fltp",
                layout="mono" if frame.layout.nb_channels == 1 else "stereo",
                rate=SAMPLE_RATE,
                options={"rematrix_maxval": "1"},
            )
        assert resampler is not None
        yield from _resample(resampler, frame)
    if resampler:
        yield from _resample(resampler, None)


def _resample(resampler: av.AudioResampler, frame: AudioFrame | None) -> Iterator[AudioFrame]:
    """`frame` resampled, or the rest flushed for None (which one with nothing to do gives back)."""
    return (resampled for resampled in resampler.resample(frame) if resampled is not None)


def _breaks_off(file: BinaryIO, container: InputContainer, stream: AudioStream, seconds: float) -> bool:
    """Whether a file that gave `seconds` of sound ends before its song does.

    FFmpeg decodes what is there and is content; each container says in its own way how much there should be.
    """
    size = file.seek(0, os.SEEK_END)
    if container.format.name == "wav":
        file.seek(0)
        magic, declared = file.read(4), int.from_bytes(file.read(4), "little")
        if magic == b"RIFF" and size < declared < _UNKNOWN_RIFF_SIZE:
            return True
    if container.format.name == "ogg":
        file.seek(max(0, size - 2 * 65_307))  # a page is at most 65,307 bytes
        tail = file.read()
        flags = tail[tail.rfind(b"OggS") + 5 :][:1]
        return not (flags and flags[0] & 4)  # 4: this page ends the stream
    if container.format.name == "mp3" and not _has_mp3_length(file):
        return False  # its duration is only a guess from the bit rate
    declared_seconds = (
        float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    )
    return declared_seconds - seconds > _END_TOLERANCE


def _has_mp3_length(file: BinaryIO) -> bool:
    """Whether an mp3's first frame is a Xing, Info or VBRI header, which counts the frames."""
    file.seek(0)
    tag = file.read(10)
    if tag[:3] == b"ID3":  # the tag's size has 7 bits in each byte
        file.seek(10 + sum(byte << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True)))
    else:
        file.seek(0)
    head = file.read(256)
    return any(name in head for name in (b"Xing", b"Info", b"VBRI"))
