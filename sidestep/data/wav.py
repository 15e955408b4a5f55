"""The chunks of WAV files and their kin (RIFF, RF64, Wave64): how long the sound is, how samples lie."""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_UNKNOWN_SIZE = 0x7FFF_F000  # writers into a pipe put this or more, or 0, as they cannot know
_PCM, _EXTENSIBLE = 1, 0xFFFE
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")  # Wave64 names chunks by GUIDs: "riff" and more


class Chunk(NamedTuple):
    """A chunk's name, where its content starts in the file, and how many bytes it says it has."""

    name: bytes
    start: int
    size: int


def is_cut(file: BinaryIO) -> bool:
    """Whether the data chunk says that there is more than is there. The sizes of RIFF are often wrong."""
    end = file.seek(0, os.SEEK_END)
    return any(chunk.name == b"data" and chunk.start + chunk.size > end for chunk in _chunks(file))


def is_big_endian(file: BinaryIO) -> bool:
    """Whether it is RIFX: FFmpeg reads the samples as if they were little-endian, as noise."""
    return _read(file, 0, 4) == b"RIFX"


def bits_by_container(file: BinaryIO) -> dict[int, bytes]:
    """Offset → bytes that must stand there for FFmpeg to see samples as wide as they are stored; mostly {}.

    It chooses its decoder by the valid bits of WAVE_FORMAT_EXTENSIBLE, and reads 24 of 32 bits as silence.
    The samples' width in the file is what the block alignment leaves for each channel.
    """
    for chunk in _chunks(file):
        if chunk.name != b"fmt ":
            continue
        file.seek(chunk.start)
        layout = file.read(min(chunk.size, 40))
        if len(layout) < 16:
            return {}
        tag, channels, block, bits = (int.from_bytes(layout[at : at + 2], "little") for at in (0, 2, 12, 14))
        extensible = tag == _EXTENSIBLE and len(layout) >= 26
        if extensible:
            tag = int.from_bytes(layout[24:26], "little")
        if tag != _PCM or not channels or block % channels:
            return {}
        width = 8 * block // channels
        valid = int.from_bytes(layout[18:20], "little") if extensible else bits
        if 0 < min(bits, valid) < width <= 64:
            stored = width.to_bytes(2, "little")
            return {chunk.start + at: stored for at in ((14, 18) if extensible else (14,))}
        return {}
    return {}


def lying_texts(file: BinaryIO) -> dict[int, bytes]:
    """Offset → bytes that must stand there for FFmpeg to pass over texts that claim more than the file has.

    It sets their size aside before it reads them: two gigabytes for a file of 92 bytes.
    """
    end = file.seek(0, os.SEEK_END)
    found = {}
    for chunk in _chunks(file):
        if chunk.name == b"LIST" and _read(file, chunk.start, 4) == b"INFO":
            position, stop = chunk.start + 4, min(chunk.start + chunk.size, end)
            while position < stop and len(head := _read(file, position, 8)) == 8:
                size = int.from_bytes(head[4:], "little")
                position += 8 + size + size % 2
            if position > stop + 1:  # a pad byte may be missing
                found[chunk.start - 8] = b"JUNK"
    return found


def _chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks up to the sound's own. A size that the writer could not know is 0."""
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64", b"BW64"):
        yield from _riff_chunks(file)
    elif head == _W64_RIFF[:12]:
        yield from _w64_chunks(file)


def _riff_chunks(file: BinaryIO) -> Iterator[Chunk]:
    position, data_size = 12, 0  # RF64 gives the data's size in a chunk before it
    while len(head := _read(file, position, 8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"ds64":
            data_size = int.from_bytes(_read(file, position + 16, 8), "little")
        if name == b"data":
            yield Chunk(name, position + 8, data_size or (size if size < _UNKNOWN_SIZE else 0))
            return
        yield Chunk(name, position + 8, size)
        position += 8 + size + size % 2


def _w64_chunks(file: BinaryIO) -> Iterator[Chunk]:
    position = 40
    while len(head := _read(file, position, 24)) == 24:
        size = int.from_bytes(head[16:], "little")  # with this head
        known = 24 <= size < 2**63 - 1
        yield Chunk(head[:4], position + 24, size - 24 if known else 0)
        if head[:4] == b"data" or not known:
            return
        position += (size + 7) // 8 * 8


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
