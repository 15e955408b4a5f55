"""Finds the files that a dataset JSON names, in the two places where they may be, and nowhere else."""

import posixpath
import re
from collections import defaultdict

from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store


class SongFinder:
    """Looks paths up beside the JSON, and then in `audio_dir`.

    `audio_dir` is listed once. Beside the JSON only the named files are asked for: a JSON often lies in a
    folder with much else below it.
    """

    def __init__(self, json_folder: Store, audio_dir: Store | None) -> None:
        self._json_folder = json_folder
        self._audio_dir = audio_dir
        listed = audio_dir.list_files() if audio_dir else []
        self._in_audio_dir = {file.path: file for file in listed}
        self._by_name: dict[str, list[FileInfo]] = defaultdict(list)
        for file in listed:
            self._by_name[posixpath.basename(file.path)].append(file)

    def find(self, path: str) -> tuple[Store, FileInfo]:
        """The store that holds what a dataset calls `path`, and the file in it. May be called from threads.

        A relative path starts at the JSON's folder; an absolute one or a URI must lie in that folder or in
        audio_dir. Where there is no such file, audio_dir is searched for the same relative path and, as
        datasets move between machines, for a single file of that name.

        Raises BadDataError where the path leads out of both places or its name fits several files, and
        MissingInputError where there is no file.
        """
        place = _absolute(self._json_folder, path)
        beside_json = _inside(self._json_folder, place)
        if beside_json and (file := self._json_folder.stat(beside_json)):
            return self._json_folder, file
        if not self._audio_dir:
            if beside_json:
                raise MissingInputError(f"there is no such file in {self._json_folder.place}")
            raise BadDataError(
                f"leads out of {self._json_folder.place}; if the songs are elsewhere, set audio_dir"
            )

        in_audio_dir = _inside(self._audio_dir, place)
        for candidate in (in_audio_dir, posixpath.normpath(path)):
            if candidate in self._in_audio_dir:
                return self._from_audio_dir(self._in_audio_dir[candidate])
        both = f"{self._json_folder.place} and {self._audio_dir.place}"
        if not (beside_json or in_audio_dir or _is_absolute(path)):
            raise BadDataError(f"leads out of {both}")
        namesakes = self._by_name.get(re.split(r"[/\\]", path)[-1], [])
        if len(namesakes) > 1:
            found = ", ".join(file.path for file in namesakes)
            raise BadDataError(f"fits several files in {self._audio_dir.place}: {found}")
        if not namesakes:
            raise MissingInputError(f"there is no such file in {both}")
        return self._from_audio_dir(namesakes[0])

    def _from_audio_dir(self, file: FileInfo) -> tuple[Store, FileInfo]:
        assert self._audio_dir
        if self._audio_dir.local_root:
            self._audio_dir.stat(file.path)  # refuses a link that leads out, which a listing shows as a file
        return self._audio_dir, file


def _is_absolute(path: str) -> bool:
    """A path from the root of a disk (also of a Windows machine, where an app wrote the JSON), or a URI."""
    return path.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]*://", path))


def _absolute(folder: Store, path: str) -> str:
    """The normalised place of a path that is written in `folder`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        try:
            parent = open_store(posixpath.dirname(path), folder.options)
        except BadSpecError as error:
            raise BadDataError(str(error)) from error
        return f"{parent.place}/{posixpath.basename(path)}"
    scheme, separator, rest = posixpath.join(folder.place, path).rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(rest)}"


def _inside(store: Store, place: str) -> str | None:
    """`place` relative to the store; None where it is not in it."""
    prefix = f"{store.place.rstrip('/')}/"
    return place.removeprefix(prefix) if place.startswith(prefix) else None
