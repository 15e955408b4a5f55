"""A file of a bucket on its way to this disk, and its sha256, with no second pass over a small one."""

import hashlib
import os

from sidestep.storage.s3_read import BLOCK


class Copy:
    """Takes the blocks of a file, those of its first `in_order` bytes in order.

    These are added to the digest as they pass. The others come from several threads at a time, and are read
    again, from memory as a rule, once all before them are there: while the rest is on its way.
    """

    def __init__(self, descriptor: int, in_order: int) -> None:
        self._descriptor, self._in_order = descriptor, in_order
        self._digest, self._known = hashlib.sha256(), 0

    def write(self, offset: int, block: bytes) -> None:
        """A `s3_read.Write`."""
        if offset < self._in_order:
            if offset == 0:  # for the first time, or again after the connection broke off
                self._digest, self._known = hashlib.sha256(), 0
            self._add(block)
        left = memoryview(block)
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            offset, left = offset + written, left[written:]

    def came(self, end: int) -> None:
        """A `s3_read.Came`."""
        while left := os.pread(self._descriptor, min(BLOCK, end - self._known), self._known):
            self._add(left)

    def sha256(self) -> str:
        """Of all that came."""
        return self._digest.hexdigest()

    def _add(self, block: bytes) -> None:
        self._digest.update(block)
        self._known += len(block)
