"""Songs from files: any codec, rate and channel count → 48 kHz stereo, as the VAE takes it."""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import torch
from av.audio import AudioFrame, AudioStream
from av.container import InputContainer
from torch import Tensor

from sidestep.data import containers, wav
from sidestep.data.containers import Reading
from sidestep.data.kinds import AUDIO_SUFFIXES
from sidestep.runtime.errors import BadDataError

log = logging.getLogger(__name__)

SAMPLE_RATE = 48_000

# FFmpeg looks at the content, not at the name. Without this list a playlist named song.mp3 would be
# opened as a playlist, and could name any file or address.
_OPTIONS = {"format_whitelist": "wav,w64,mp3,flac,ogg,mov,m4a,mp4,aiff,aac,asf,matroska,webm"}


_FARTHEST_PEAK = 10.0  # +20 dBFS: the hottest masters stay far below, and integers in disguise far above
_NEAR_THE_END = 0.1  # s: rounding in headers and codec delay
_RATES = (1000, 1_536_000)  # Hz: below telephones', and above all converters'
_SCALES = (32768, 8388608, 2147483648)  # full scale of integers of 16, 24 and 32 bits


def read_audio(path: Path, max_duration: float, float_scale: int = 1) -> Tensor:
    """Decode the first `max_duration` seconds of a file: float32 [2, N] at 48 kHz, full scale ±1.

    Mono is duplicated at its own level. More than two channels are mixed down by FFmpeg's own matrix,
    scaled so that nothing can clip. Nothing after `max_duration` is decoded, so a song that is longer
    gives exactly round(max_duration · 48000) samples. `float_scale` is full scale in floating-point files.

    Raises BadDataError, naming the file, where it is not audio, is empty, breaks off, or holds values that
    are no numbers or far above full scale.
    """
    limit = round(max_duration * SAMPLE_RATE)
    chunks: list[Tensor] = []
    length, reading = 0, Reading()
    try:
        with path.open("rb") as file, _opened(file) as container:
            if not container.streams.audio:
                raise BadDataError(f"{path} has no audio in it")
            stream, *others = container.streams.audio
            if stream.codec_context is None:
                raise BadDataError(f"{path} has sound of a kind that is not known")
            is_float = stream.codec_context.name.startswith("pcm_f")
            if others:
                log.info("%s has %d audio streams: the first is used", path, 1 + len(others))
            for frame in _at_48_khz(_at_known_rates(_decode(container, stream, reading), path)):
                chunks.append(torch.from_numpy(frame.to_ndarray()).expand(2, -1))
                length += frame.samples
                if length >= limit:
                    break
            else:
                if length and containers.is_cut(file, container, stream, reading):
                    raise BadDataError(
                        f"{path} is truncated or damaged: it breaks off after {length / SAMPLE_RATE:.2f} s\n"
                        "  copy or convert this song again, or take it out of the dataset"
                    )
    except av.FFmpegError as error:
        raise BadDataError(
            f"{path} is not a sound file that can be read: {error.strerror}\n"
            f"  wanted is one of {', '.join(AUDIO_SUFFIXES)}, whole"
        ) from error
    if reading.damaged:
        log.warning("%s: %d damaged packets were skipped", path, reading.damaged)
    if not length:
        raise BadDataError(f"{path} is empty or not a sound file: nothing in it decodes to sound")
    waveform = torch.cat(chunks, dim=1)[:, :limit]
    if not waveform.isfinite().all():
        raise BadDataError(f"{path} holds samples that are not numbers (NaN or infinite)")
    return _at_full_scale(waveform, path, float_scale) if is_float else waveform


def _at_full_scale(waveform: Tensor, path: Path, scale: int) -> Tensor:
    """A waveform of floating-point samples, full scale at ±1. Raises BadDataError where it is elsewhere."""
    waveform = waveform / scale
    peak = float(waveform.abs().max())
    if peak > _FARTHEST_PEAK:
        likely = next((one for one in _SCALES if peak <= one), _SCALES[-1])
        raise BadDataError(
            f"{path} has a peak of {20 * math.log10(peak):+.1f} dBFS ({peak:.6g} where full scale is 1): "
            f"if they are integers written as floats, set preprocess.float_scale (--float-scale {likely})"
        )
    if peak > 1:
        log.info("%s has a peak of %+.1f dBFS", path, 20 * math.log10(peak))
    return waveform


def _opened(file: BinaryIO) -> InputContainer:
    """A sound file. Titles and names in it may be in any encoding of the last forty years: none is used.

    Raises BadDataError where it is empty: FFmpeg, which believes the ending, would seek to before its start.
    """
    if not os.fstat(file.fileno()).st_size:
        raise BadDataError(f"{file.name} is empty: copy it again, or take it out")
    return av.open(_as_stored(file), "r", options=_OPTIONS, metadata_errors="replace")


def seconds_by_header(path: Path) -> float | None:
    """A sound file's length in seconds by its header. None if that has none, or the file is no sound."""
    try:
        with path.open("rb") as file, _opened(file) as container:
            return container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, BadDataError, OSError):
        return None


def seems_whole(path: Path, max_duration: float) -> bool:
    """Whether a sound file's packets go on for as long as its header says, or for `max_duration` seconds.

    Only the first ones are decoded: that all of them do is not said, nor that there is sound in them.
    """
    try:
        with path.open("rb") as file, _opened(file) as container:
            stream = container.streams.audio[0] if container.streams.audio else None
            if stream is None or stream.codec_context is None or stream.time_base is None:
                return False
            end, has_sound = 0.0, False
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    return False
                has_sound = has_sound or any(frame.samples for frame in packet.decode())
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * stream.time_base)
                if end >= max_duration:
                    break
            declared = (container.duration or 0) / av.time_base
            return has_sound and end >= min(declared, max_duration) - _NEAR_THE_END
    except (av.FFmpegError, BadDataError, OSError):
        return False


class _Replaced:
    """A file in which other bytes stand at some offsets, for readers that take any object with `read`."""

    def __init__(self, file: BinaryIO, bytes_at: dict[int, bytes]) -> None:
        self._file, self._bytes_at = file, bytes_at
        self.name, self.seek, self.tell = file.name, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data = bytearray(self._file.read(size))
        for offset, replacement in self._bytes_at.items():
            for at, byte in enumerate(replacement, start=offset - start):
                if 0 <= at < len(data):
                    data[at] = byte
        return bytes(data)


def _as_stored(file: BinaryIO) -> BinaryIO | _Replaced:
    """The file as FFmpeg has to see it to decode all its bits."""
    if wav.is_big_endian(file):
        raise BadDataError(
            f"{file.name} is a big-endian WAV (RIFX), which is not read: convert it to WAV or FLAC"
        )
    bytes_at = wav.bits_by_container(file) | wav.lying_texts(file)
    file.seek(0)
    return _Replaced(file, bytes_at) if bytes_at else file


def _decode(container: InputContainer, stream: AudioStream, reading: Reading) -> Iterator[AudioFrame]:
    """All frames of a stream. Packets that do not decode are skipped, as players do: tags and junk at
    a file's end look like that too. Whether the song is whole is checked later, by what `reading` has noted.
    """
    for packet in container.demux(stream):
        reading.packets += packet.size > 0
        reading.incomplete |= packet.is_corrupt
        try:
            for frame in packet.decode():
                reading.note(frame)
                yield frame
        except av.FFmpegError:
            reading.damaged += 1


def _at_known_rates(frames: Iterator[AudioFrame], path: Path) -> Iterator[AudioFrame]:
    """The same frames. Raises BadDataError at a rate that no sound has: resampling takes gigabytes."""
    for frame in frames:
        if not _RATES[0] <= frame.sample_rate <= _RATES[1]:
            raise BadDataError(
                f"{path} claims a sample rate of {frame.sample_rate:,} Hz (allowed: {_RATES[0]:,} to "
                f"{_RATES[1]:,}): it is damaged"
            )
        yield frame


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
