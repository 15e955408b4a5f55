"""Finds the files that a dataset JSON names, in the two places where they may be, and nowhere else."""

import posixpath
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from threading import Lock

from sidestep.data.listing import visible
from sidestep.data.names import Names, composed
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.runtime.words import some
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store


class SongFinder:
    """Looks paths up beside the JSON, and then in `audio_dir`.

    `audio_dir` is listed once. Beside the JSON the named files are asked for, and it is listed only where one
    is not there: a JSON often lies in a folder with much else below it. `own` are the job's own places, whose
    files are found by their whole path alone.
    """

    def __init__(self, json_folder: Store, audio_dir: Store | None, own: Collection[str] = ()) -> None:
        self._json_folder = json_folder
        self._audio_dir = audio_dir
        self._own = own
        self._in_audio_dir = {file.path: file for file in audio_dir.list_files()} if audio_dir else {}
        self._names: dict[str, Names] = {}  # by the store's place
        self._listing = Lock()

    def find(self, path: str) -> tuple[Store, FileInfo]:
        """The store that holds what a dataset calls `path`, and the file in it. May be called from threads.

        A relative path starts at the JSON's folder; an absolute one or a URI must lie in that folder or in
        audio_dir. Where there is no such file, audio_dir is searched for the same relative path. What is not
        found as it is written may be spelt otherwise, have backslashes for slashes or, as datasets move
        between machines, begin with other folders: then the file with the longest common end is taken.

        Raises BadDataError where the path leads out of both places, fits several files alike or is that of a
        folder, and MissingInputError where there is no file.
        """
        for written in _spellings(path):
            if found := self._as_written(written):
                return found
        if not any(self._may_be_here(written) for written in _spellings(path)):
            out_of = " and ".join(store.place for store in self._stores)
            hint = "" if self._audio_dir else "; if the songs are elsewhere, set audio_dir"
            raise BadDataError(f"leads out of {out_of}{hint}")
        as_written, *with_slashes = _spellings(path)
        for look, written in (
            *((Names.spelt, spelling) for spelling in (as_written, *with_slashes)),
            *((Names.ending, spelling) for spelling in (*with_slashes, as_written)),
        ):
            if found := self._alike(written, look):
                return found
        if not self._audio_dir and not any(self._inside(written) for written in _spellings(path)):
            raise BadDataError(
                f"leads out of {self._json_folder.place}; if the songs are elsewhere, set audio_dir"
            )
        for written in _spellings(path):
            for store, inside in self._inside(written):
                store.refuse_folder(inside)
        raise MissingInputError(
            f"there is no such file in {' and '.join(store.place for store in self._stores)}"
        )

    @property
    def _stores(self) -> list[Store]:
        return [self._json_folder, *([self._audio_dir] if self._audio_dir else [])]

    def _inside(self, path: str) -> list[tuple[Store, str]]:
        """Where the path leads, if it stays in one of the places: the store, and the path in it."""
        place = _absolute(self._json_folder, path)
        return [(store, inside) for store in self._stores if (inside := _inside(store, place))]

    def _may_be_here(self, path: str) -> bool:
        """Whether the path does not climb out by itself. An absolute one may be another machine's."""
        return _is_absolute(path) or bool(self._inside(path))

    def _as_written(self, path: str) -> tuple[Store, FileInfo] | None:
        for store, inside in self._inside(path):
            if store is self._json_folder:
                for form in dict.fromkeys((inside, composed(inside), unicodedata.normalize("NFD", inside))):
                    if file := store.stat(form):
                        return store, file
            elif file := self._named(store, inside):
                return self._seen(store, file)
        if self._audio_dir and (file := self._named(self._audio_dir, posixpath.normpath(path))):
            return self._seen(self._audio_dir, file)
        return None

    def _named(self, audio_dir: Store, path: str) -> FileInfo | None:
        """The file of this very path. It may be younger than the listing, so it is asked for, too."""
        listed = self._in_audio_dir.get(path)
        leads_out = _is_absolute(path) or path.startswith("..")
        return listed or (None if leads_out else audio_dir.stat(path))

    def _alike(
        self, path: str, look: Callable[[Names, str], list[FileInfo]]
    ) -> tuple[Store, FileInfo] | None:
        for store in reversed(self._stores):
            wanted = dict(self._inside(path)).get(store, posixpath.normpath(path))
            found = look(self._names_in(store), wanted)
            if len(found) > 1:
                raise BadDataError(
                    f"fits several files in {store.place}: {some([file.path for file in found])}"
                )
            if found:
                return self._seen(store, found[0])
        return None

    def _names_in(self, store: Store) -> Names:
        with self._listing:  # once for all threads
            if store.place not in self._names:
                files = list(self._in_audio_dir.values()) if store is self._audio_dir else store.list_files()
                self._names[store.place] = Names(visible(store, files, self._own))
            return self._names[store.place]

    def _seen(self, store: Store, file: FileInfo) -> tuple[Store, FileInfo]:
        if store.local_root:
            store.stat(file.path)  # refuses a link that leads out, which a listing shows as a file
        return store, file


def _spellings(path: str) -> Iterator[str]:
    """The path as written, and with slashes for backslashes: a name may hold some where it was made."""
    yield path
    if "\\" in path:
        yield path.replace("\\", "/")


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
