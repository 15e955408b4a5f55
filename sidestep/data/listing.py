"""What in a folder is a song or its text, and what lies beside them: hidden files, results, other kinds."""

import logging
import os
import posixpath
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidestep.data.kinds import AUDIO_SUFFIXES, TEXT_SUFFIXES, UNREAD_SUFFIXES
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.words import some
from sidestep.storage.paths import odd
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

_SYSTEM_FOLDERS = {
    *("$recycle.bin", "system volume information", "__macosx", "@eadir", "lost+found"),
    *("#recycle", "@recycle", "#snapshot", "@recently-snapshot"),  # deleted files and older ones on a NAS
}
PREVIEW = "preview"  # beside tensors, see preview.py
PREVIEWS = (f"{PREVIEW}/clip.wav", f"{PREVIEW}/reconstruction.wav")


@dataclass(frozen=True)
class Listing:
    """The songs of a folder, sorted, and the texts beside them by their paths."""

    songs: list[FileInfo]
    texts: dict[str, FileInfo]


def list_songs(folder: Store, own: Collection[str] = ()) -> Listing:
    """The songs and texts below a folder. Songs of kinds that are not read are named in a warning.

    Raises MissingInputError where there is no song.
    """
    files = visible(folder, folder.list_files(), own)
    songs = [file for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]
    unread = [file.path for file in files if file.path.lower().endswith(UNREAD_SUFFIXES)]
    texts = {file.path: file for file in files if file.path.lower().endswith(TEXT_SUFFIXES)}
    if no_paths := [path for path in texts if odd(path)]:
        log.warning("%s: texts whose keys are no paths are left out: %s", folder.place, some(no_paths))
    if dangling := _dangling(folder):
        log.warning("%s: links that lead nowhere are left out: %s", folder.place, some(dangling))
    if not songs:
        others = f"\n  not read are {some(unread)}" if unread else ""
        raise MissingInputError(
            f"there are no songs in {folder.place} and its folders{others}\n"
            f"  looked for: *{' *'.join(AUDIO_SUFFIXES)}"
        )
    if unread:
        log.warning("%s: files of kinds that are not read are left out: %s", folder.place, some(unread))
    return Listing(songs, {path: file for path, file in texts.items() if path not in no_paths})


def visible(folder: Store, files: Sequence[FileInfo], own: Collection[str] = ()) -> list[FileInfo]:
    """The files of a folder but hidden ones, those of the system, and results: `own` are a job's places.

    macOS puts `._song.mp3` beside each song, and Kubernetes the files of a mounted volume into `..data`,
    where links in the folder lead. A job's places that the folder itself lies in are no matter.
    """
    files = [file for file in files if not _is_hidden(file.path)]
    results = _results(folder, files, own)
    if results:
        log.info("%s: results in %s are left out", folder.place, some(sorted(set(results.values()))))
    return [file for file in files if file.path not in results]


def _dangling(folder: Store) -> list[str]:
    """Songs that are links to what is not here: a disk is not mounted, or git-annex has not fetched it."""
    if (root := folder.local_root) is None:
        return []
    found = (Path(above, name) for above, _, names in os.walk(root) for name in names)
    songs = (path for path in found if path.name.lower().endswith(AUDIO_SUFFIXES))
    lost = (str(path.relative_to(root)) for path in songs if not path.exists())
    return sorted(path for path in lost if not _is_hidden(path))


def _is_hidden(path: str) -> bool:
    parts = [part for part in path.split("/") if part not in (".", "..")]  # which a bucket's key may have
    return any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in parts)


def _results(folder: Store, files: Sequence[FileInfo], own: Collection[str]) -> dict[str, str]:
    """Path of a file → the folder of results that it is in."""
    root = _resolved(folder, "")
    below = [place for place in map(_real, own) if place.startswith(f"{root}/")]
    places = {
        folder_of: _resolved(folder, folder_of) for folder_of in {posixpath.dirname(f.path) for f in files}
    }
    found: dict[str, str] = {}
    tensors = {
        posixpath.dirname(file.path)
        for file in files
        if file.path.endswith(".pt") or posixpath.basename(file.path) == "index.json"
    }
    for file in files:
        place = places[posixpath.dirname(file.path)]
        for result in below:
            if f"{place}/".startswith(f"{result}/"):
                found[file.path] = result.removeprefix(f"{root}/")
        for name in PREVIEWS:
            above = file.path.removesuffix(name)
            if above != file.path and above.rstrip("/") in tensors:
                found[file.path] = posixpath.dirname(file.path)
    return found


def _resolved(folder: Store, path: str) -> str:
    return _real(posixpath.join(folder.place, path) if path else folder.place)


def _real(place: str) -> str:
    return place if "://" in place else os.path.realpath(place)
