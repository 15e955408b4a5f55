"""Paths that somebody wrote on another machine, and the files that they mean here.

macOS and its zips spell é in two code points, Windows does not tell upper from lower case, and paths in a
list of songs that was moved begin with folders that are not there.
"""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable

from sidestep.storage.store import FileInfo


def composed(path: str) -> str:
    """A path in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", path)


def folded(path: str) -> str:
    """A path as it compares where neither the form of its characters nor their case matters."""
    return composed(composed(path).casefold())


class Names:
    """The files of a folder, found by paths that may be spelt otherwise."""

    def __init__(self, files: Iterable[FileInfo]) -> None:
        files = list(files)
        self._levels: list[tuple[Callable[[str], str], dict[str, list[FileInfo]]]] = []
        for spelt in (str, composed, folded):
            by_path: dict[str, list[FileInfo]] = defaultdict(list)
            for file in files:
                by_path[spelt(file.path)].append(file)
            self._levels.append((spelt, by_path))
        self._by_name: dict[str, list[FileInfo]] = defaultdict(list)
        self._by_stem: dict[str, list[FileInfo]] = defaultdict(list)
        for file in files:
            name = folded(posixpath.basename(file.path))
            self._by_name[name].append(file)
            self._by_stem[_stem(name)].append(file)

    def spelt(self, path: str) -> list[FileInfo]:
        """The files of that path: as written, else in another form, else in another case. More are a tie."""
        for spelt, by_path in self._levels:
            if found := by_path.get(spelt(path)):
                return found
        return []

    def ending(self, path: str) -> list[FileInfo]:
        """The files that share the most with the path from its end on, the name at least. More are a tie."""
        return self._closest(self._by_name.get(folded(posixpath.basename(path)), []), path, str)

    def without_suffix(self, path: str) -> list[FileInfo]:
        """The same for a path whose name lacks its suffix."""
        return self._closest(self._by_stem.get(folded(posixpath.basename(path)), []), path, _stem)

    def _closest(self, found: list[FileInfo], path: str, part: Callable[[str], str]) -> list[FileInfo]:
        for spelt, _ in reversed(self._levels):  # of those alike, the ones that are spelt alike, too
            common = [_common_end(spelt(part(file.path)), spelt(path)) for file in found]
            found = [file for file, count in zip(found, common, strict=True) if count == max(common)]
        return found


def closeness(path: str, written: str) -> tuple[bool, int]:
    """How well a file's path is what somebody wrote, with or without its suffix; more is closer."""
    path, written = folded(path), folded(written)
    if posixpath.basename(path) != posixpath.basename(written):
        path = _stem(path)
    return path == written, _common_end(path, written)


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _common_end(path: str, other: str) -> int:
    """The number of components, from the last one on, that are the same."""
    pairs = zip(reversed(path.split("/")), reversed(other.split("/")), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(path.count("/"), other.count("/")) + 1)
