"""The elements of a Matroska or WebM file, as far as they say where the file is cut."""

import os
from typing import BinaryIO

_SEGMENT = 0x18538067
_KNOWN = {  # what lies at the top, in a segment and in a cluster; anything else is junk behind the end
    *(0x1A45DFA3, _SEGMENT, 0x1F43B675, 0x1C53BB6B, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1254C367),
    *(0x1043A770, 0x1941A469, 0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0xEC, 0xBF),
}


def is_cut(file: BinaryIO) -> bool:
    """Whether an element ends behind the file. Those of unknown size, as in streams, are looked into."""
    end, position = file.seek(0, os.SEEK_END), 0
    while position < end:
        file.seek(position)
        head = file.read(12)
        name_bytes = _length(head, 0)
        name = int.from_bytes(head[:name_bytes], "big")
        size_bytes = _length(head, name_bytes)
        content = position + name_bytes + size_bytes
        if name not in _KNOWN:
            return False
        if not size_bytes or content > end:
            return True
        size = int.from_bytes(head[name_bytes : name_bytes + size_bytes], "big") & (1 << 7 * size_bytes) - 1
        unknown = size == (1 << 7 * size_bytes) - 1
        if not unknown and content + size > end:
            return True
        position = content if unknown or name == _SEGMENT else content + size
    return False


def _length(head: bytes, at: int) -> int:
    """The bytes of the number that begins there, by its leading zeros; 0 for none."""
    if at >= len(head) or head[at] == 0:
        return 0
    return 9 - head[at].bit_length()
