"""Keys of a bucket as paths on a disk: a bucket knows no folders, and takes names that no disk has."""

import hashlib
import os
import posixpath
from collections.abc import Iterable

NAME_AT_MOST = 200  # bytes, of 255 that disks take: encrypted ones less
_ODD = {"": "an empty part ('//')", ".": "a part '.'", "..": "a part '..'"}


def unfit(keys: Iterable[str]) -> dict[str, str]:
    """The keys that can be no files on a disk, together or at all, with the reason."""
    keys = list(keys)
    folders = {folder for key in keys for folder in _folders(key)}
    return {key: reason for key in keys if (reason := odd(key) or _is_folder(key, folders))}


def odd(key: str) -> str:
    """Why a key is no path; "" where it is one."""
    part = next((part for part in key.split("/") if part in _ODD), None)
    return "" if part is None else f"has {_ODD[part]} in its key, which is no path: copy it to another one"


def local_name(key: str) -> str:
    """The path of its copy on this machine: the key, with a digest in place of each name that is too long."""
    return "/".join(map(_short, key.split("/")))


def _is_folder(key: str, folders: set[str]) -> str:
    return "has the key of a folder that holds other files: copy it to another one" if key in folders else ""


def _folders(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _short(name: str) -> str:
    if len(os.fsencode(name)) <= NAME_AT_MOST:
        return name
    suffix = posixpath.splitext(name)[1]
    kept = suffix if len(os.fsencode(suffix)) <= 16 else ""
    return hashlib.sha256(os.fsencode(name)).hexdigest() + kept
