"""Frames of mp3 and of AAC in ADTS: their headers say how long each is, and so where a file is cut."""

import logging
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

log = logging.getLogger(__name__)

_ID3V1_BYTES = 128
_SYNC_BYTES = 2**16  # a join or a damaged stretch may have this much between two frames

# Kilobits per second by their index, for layers 1 to 3 of MPEG 1, and for layer 1 and the others of MPEG 2.
_KILOBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {0b11: (44_100, 48_000, 32_000), 0b10: (22_050, 24_000, 16_000), 0b00: (11_025, 12_000, 8_000)}

_FrameSize = Callable[[bytes, int], int]


class Counts(NamedTuple):
    """What a Xing, Info or VBRI header counts, from its own frame on; 0 where it does not say."""

    position: int
    frames: int
    bytes: int


def mp3_is_cut(file: BinaryIO) -> bool:
    """Whether a header counts more bytes than there are, or more frames, the last one being cut.

    Each part of a joined file may have a header of its own. One that counts less than there is says nothing,
    and neither does an end within a frame alone: streams are recorded like that.
    """
    data, end = _sound_of(file)
    position, frames = 0, 0  # frames since the last header
    counts = Counts(0, 0, 0)
    while (position := _next(data, position, end, _mp3_frame)) < end:
        size = _mp3_frame(data, position)
        if position + size <= end and (found := _counts(data, position)):
            counts, frames = found, -1  # its own frame holds no sound
            if counts.position + counts.bytes > end + _ID3V1_BYTES:  # which some writers count, too
                return True
        frames += 1
        position += size
    if position > end and frames - 1 >= counts.frames:
        log.warning("%s ends within a frame, and nothing in it counts more: it is taken as whole", file.name)
    return position > end and frames - 1 < counts.frames


def adts_is_cut(file: BinaryIO) -> bool:
    """Whether the last frame is longer than what is left of the file."""
    data, end = _sound_of(file)
    position = 0
    while (position := _next(data, position, end, _adts_frame)) < end:
        position += _adts_frame(data, position)
    return position > end


def _sound_of(file: BinaryIO) -> tuple[bytes, int]:
    """A file from behind its ID3v2 tag on, and where in that its sound ends: before an ID3v1 or APE tag."""
    file.seek(0)
    data = file.read()
    data = data[_id3v2_size(data, 0) :]
    end = len(data)
    if data[-128:-125] == b"TAG":
        end -= _ID3V1_BYTES
    if data[end - 32 : end - 24] == b"APETAGEX":
        end -= int.from_bytes(data[end - 20 : end - 16], "little")
    return data, max(end, 0)


def _id3v2_size(data: bytes, at: int) -> int:
    """The size of the tag that begins there, with its head; 0 for none."""
    if data[at : at + 3] != b"ID3" or len(data) < at + 10:
        return 0
    size = sum(byte << shift for byte, shift in zip(data[at + 6 : at + 10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if data[at + 5] & 0x10 else 0)


def _next(data: bytes, position: int, end: int, frame: _FrameSize) -> int:
    """Where the next frame begins; `end` where there is none, and a position behind it as it is.

    Between two frames may lie a tag or junk, where a header counts only if another frame follows.
    """
    if position >= end or frame(data, position):
        return position
    position += _id3v2_size(data, position)
    for at in range(position, min(position + _SYNC_BYTES, end)):
        size = frame(data, at)
        if size and at + size < end and frame(data, at + size):
            return at
    return end


def _mp3_frame(data: bytes, at: int) -> int:
    """The bytes of the frame whose header is there; 0 for no header. Of one that is cut itself, all four."""
    head = data[at : at + 4]
    if len(head) < 2 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    if len(head) < 4:
        return 4
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kilobits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 0b01 or layer == 4 or rate == 3 or kilobits in (0, 15):
        return 0
    bits = 1000 * _KILOBITS[1 if version == 0b11 else 2, layer][kilobits - 1]
    if layer == 1:
        return (12 * bits // _RATES[version][rate] + padding) * 4
    return (72 if layer == 3 and version != 0b11 else 144) * bits // _RATES[version][rate] + padding


def _counts(data: bytes, at: int) -> Counts | None:
    """What the frame says of the file, if it is a header and no sound."""
    if data[at + 36 : at + 40] == b"VBRI":
        size, frames = (int.from_bytes(data[at + n : at + n + 4], "big") for n in (46, 50))
        return Counts(at, frames, size)
    version, mono = data[at + 1] >> 3 & 3, data[at + 3] >> 6 == 3
    start = at + 4 + ((17 if mono else 32) if version == 0b11 else (9 if mono else 17))
    if data[start : start + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(data[start + 4 : start + 8], "big")
    fields = [int.from_bytes(data[start + n : start + n + 4], "big") for n in (8, 12)]
    frames = fields[0] if flags & 1 else 0
    size = fields[flags & 1] if flags & 2 else 0
    return Counts(at, frames, size)


def _adts_frame(data: bytes, at: int) -> int:
    """The bytes of the ADTS frame whose header is there; 0 for no header."""
    head = data[at : at + 6]
    if len(head) < 2 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    if len(head) < 6:
        return 7
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 and head[2] >> 2 & 15 < 13 else 0
