"""Whether a file's sound is all there: each container says in its own way where it ends.

FFmpeg decodes what it finds and is content. What a header counts is often wrong, so what decides is what the
data shows: a frame, page or chunk that goes on behind the end of the file. A file that was cut exactly
between two of them, and has no count, cannot be told from a whole one.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import av
from av.audio import AudioFrame, AudioStream
from av.container import InputContainer

from sidestep.data import matroska, mpeg, wav
from sidestep.runtime.words import counted

log = logging.getLogger(__name__)

_END_TOLERANCE = 0.1  # s: rounding in headers and codec delay move a song's end by some 50 ms

_HOLE = 0.001  # s
_UNKNOWN_AIFF_SIZE = 0x7F00_0000  # writers into a pipe put this or more


@dataclass
class Reading:
    """What was met on the way through a stream: samples at the file's own rates, and packets."""

    seconds: float = 0.0
    samples: int = 0
    end: float | None = None  # s: of the last frame
    packets: int = 0
    damaged: int = 0  # packets that did not decode
    incomplete: bool = False  # FFmpeg found less of a packet than there should be
    holes: int = 0  # frames that begin later than the one before ends

    def note(self, frame: AudioFrame) -> None:
        """Count a frame."""
        if frame.time is not None:
            self.holes += self.end is not None and frame.time - self.end > _HOLE
            self.end = frame.time + frame.samples / frame.sample_rate
        self.samples += frame.samples
        self.seconds += frame.samples / frame.sample_rate


def is_cut(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    """Whether a file that was read to its end, as `reading` says, ends before its song does."""
    rule = _RULES.get(container.format.name.split(",")[0])
    return rule is not None and rule(file, container, stream, reading)


def _wav(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    return wav.is_cut(file)


def _mp3(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    return mpeg.mp3_is_cut(file)


def _adts(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    return mpeg.adts_is_cut(file)


def _ogg(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    """The last page, or the last packet in it, is not whole. Not every writer marks the end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2 * 65_307))  # a page has 65,307 bytes at most
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = 27 + len(segments) + sum(segments)
    if len(page) < 27 or len(segments) < page[26] or len(page) < whole:
        return True
    if not page[5] & 4:  # what follows the last page shows whether another one was begun
        log.info("%s has no mark of its end, and is taken as whole", container.name)
    rest = page[whole : whole + 4]
    return segments[-1:] == b"\xff" or (bool(rest) and b"OggS".startswith(rest))


def _flac(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    """A packet does not decode, or some between two are lost: flac's frames know their place. A header that
    counts more than there is is wrong by itself, and a tag behind the last frame does not decode, either.
    """
    declared = _declared_samples(stream)
    if declared and reading.samples >= declared:
        return False
    if reading.damaged or reading.holes:
        return True
    if declared:
        log.warning(
            "%s has %s, its header says %d", container.name, counted(reading.samples, "samples"), declared
        )
    return False


def _aiff(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    end, position = file.seek(0, os.SEEK_END), 12
    frames = 0
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return reading.samples < frames
        size = int.from_bytes(head[4:], "big")
        if head[:4] == b"COMM":
            frames = int.from_bytes(file.read(6)[2:], "big")
        if head[:4] == b"SSND" and size >= _UNKNOWN_AIFF_SIZE:
            return False
        if head[:4] == b"SSND" and position + 8 + size > end:
            return True
        position += 8 + size + size % 2


def _mp4(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    """A box with sound ends behind the file, or not all packets of its index are there."""
    end, position = file.seek(0, os.SEEK_END), 0
    while True:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # a box of more than 4 GB
            size = int.from_bytes(head[8:], "big")
        if len(head) < 8 or size < 8:  # 0: up to the end of the file
            break
        if head[4:8] in (b"mdat", b"moof", b"moov") and position + size > end:
            return True
        position += size
    return reading.incomplete or (reading.packets < stream.frames and _indexed(file) < stream.frames)


def _indexed(file: BinaryIO) -> int:
    """What of an MP4's index is there, also of those parts of it that its edit list does not play.

    It counts packets, and of sound that is not packed, as QuickTime's, samples.
    """
    file.seek(0)
    options = {"format_whitelist": "mov", "ignore_editlist": "1"}
    with av.open(file, "r", options=options, metadata_errors="replace") as container:
        stream = container.streams.audio[0]
        if stream.codec_context.name.startswith("pcm_"):
            return sum(frame.samples for frame in container.decode(stream))
        return sum(packet.size > 0 for packet in container.demux(stream))


def _asf(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    return (
        _asf_packets_missing(file) or _declared_seconds(container, stream) - reading.seconds > _END_TOLERANCE
    )


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf_packets_missing(file: BinaryIO) -> bool:
    """Whether the data packets, which are all of one size, do not fill what the file's properties say."""
    end = file.seek(0, os.SEEK_END)
    file.seek(16)
    header_size = int.from_bytes(file.read(8), "little")
    file.seek(0)
    header = file.read(min(header_size, end))
    at = header.find(_ASF_PROPERTIES)
    if at < 0 or len(header) < at + 104:
        return False
    properties = header[at : at + 104]
    packets, flags, size = (
        int.from_bytes(properties[a:b], "little") for a, b in ((56, 64), (88, 92), (92, 96))
    )
    if flags & 1:  # a broadcast, whose counts mean nothing
        return False
    file.seek(header_size)
    return file.read(16) == _ASF_DATA and header_size + 50 + packets * size > end


def _matroska(file: BinaryIO, container: InputContainer, stream: AudioStream, reading: Reading) -> bool:
    if matroska.is_cut(file):
        return True
    if len(container.streams) > 1:  # the duration is that of the longest stream
        return False
    return _declared_seconds(container, stream) - reading.seconds > _END_TOLERANCE


def _declared_samples(stream: AudioStream) -> int:
    if not stream.duration or not stream.time_base or not stream.sample_rate:
        return 0
    return round(stream.duration * stream.time_base * stream.sample_rate)


def _declared_seconds(container: InputContainer, stream: AudioStream) -> float:
    """From the stream's first sample to the end of the file, by its header; 0 where that says nothing."""
    if not container.duration:
        return 0.0
    late = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
    return container.duration / 1e6 - max(late, 0.0)


_Rule = Callable[[BinaryIO, InputContainer, AudioStream, Reading], bool]
_RULES: dict[str, _Rule] = {  # by the first of FFmpeg's names for a format
    "wav": _wav,
    "w64": _wav,
    "mp3": _mp3,
    "aac": _adts,
    "ogg": _ogg,
    "flac": _flac,
    "aiff": _aiff,
    "mov": _mp4,
    "asf": _asf,
    "matroska": _matroska,
}
