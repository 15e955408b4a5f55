"""What a disk can promise to the runs that write to it: whether it keeps two of them apart, and by what."""

import os
import re
import uuid
from pathlib import Path

from sidestep.runtime.creating import Means, create_file
from sidestep.runtime.diskerrors import local_errors
from sidestep.storage.store import PROBE

MOUNTS = Path("/proc/self/mounts")

CACHED = re.compile(
    r"fuse\.(rclone|goofys|geesefs|s3fs|blobfuse2?|mountpoint-s3|davfs2?|google-drive-ocamlfuse|onedriver)"
    r"|davfs2?"
)
"""Kinds of file systems that say yes to each machine, and ask their server later."""

CACHED_SOURCES = re.compile(r"drive|goofys.*|s3fs|rclone|google-drive-ocamlfuse|mountpoint-s3|https?://.*")
"""The same by their source, where their kind is a mere `fuse`; `drive` is Google Drive's in Colab."""


def means_in(folder: Path) -> Means | None:
    """What a file is created by in a folder that is there, tried with one that is deleted at once.

    None where a second one replaces the first. Raises as a store does.
    """
    probe = folder / f"{PROBE}{uuid.uuid4().hex}"
    with local_errors(folder):
        try:
            means = create_file(probe, b"")
            return means if create_file(probe, b"") is None else None
        finally:
            probe.unlink(missing_ok=True)


def cached_mount(path: Path, mounts: Path | None = None) -> str:
    """The kind of the file system that a path is on, or will be, if it cannot keep machines apart; else "".

    By its kind and source: the file system of one machine alone would pass any trial.
    """
    mounts, real = mounts or MOUNTS, os.path.realpath(path)
    kind = source = ""
    longest = 0
    for line in mounts.read_text(errors="surrogateescape").splitlines() if mounts.exists() else []:
        a_source, point, a_kind = (_unescaped(word) for word in line.split(" ")[:3])
        is_above = point == "/" or real == point or real.startswith(f"{point}/")
        if is_above and len(point) >= longest:  # a later mount at the same point hides the one before
            kind, source, longest = a_kind, a_source, len(point)
    if CACHED.fullmatch(kind) or (kind == "fuse" and CACHED_SOURCES.fullmatch(source)):
        return kind if kind != "fuse" else f"{kind}, {source}"
    return ""


def _unescaped(word: str) -> str:
    """A blank is \\040 there, a tab \\011, a line end \\012, a backslash \\134."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
