"""Disks that lack what others have: the calls answer as such a disk answers, the rest is real."""

import ctypes
import errno
import os
from typing import Any

import pytest

from sidestep.runtime import creating

LACKS: dict[str, dict[str, int]] = {
    "link": {},
    "rename": {"link": errno.EPERM},
    "exclusive": {"link": errno.EOPNOTSUPP, "rename": errno.EINVAL},
}
"""By what a file is created, and the calls that the disk has not, with its answer."""

MEANS = {
    "link": creating.Means.LINK,
    "rename": creating.Means.RENAME,
    "exclusive": creating.Means.EXCLUSIVE,
}


class Library:
    """The C library of a disk on which renameat2 ends with `code`."""

    def __init__(self, code: int) -> None:
        self.code = code

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self.code)
        return -1


def answer(patch: pytest.MonkeyPatch, **codes: int) -> None:
    """Let `link` and `rename` end with these codes."""

    def no_link(source: Any, target: Any, **_: object) -> None:
        raise OSError(codes["link"], os.strerror(codes["link"]), str(source), None, str(target))

    if "link" in codes:
        patch.setattr(os, "link", no_link)
    if "rename" in codes:
        patch.setattr(ctypes, "CDLL", lambda *_, **__: Library(codes["rename"]))
