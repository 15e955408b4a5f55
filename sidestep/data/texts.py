"""Finds the texts of each song among the files beside it, and makes one of what they say.

Of each field, the first of these forms that has it counts:

    song.json
    song.txt            in field form, or bare where preprocess.bare_text says so
    song.lyrics.txt     song_lyrics.txt; song.caption.txt, song_caption.txt, song_prompt.txt
    *.csv               a row with the song's name, in any file of the folder
"""

import logging
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sidestep.data.aliases import FIELDS, by_field, differing, known, same
from sidestep.data.listing import Listing
from sidestep.data.names import Names, closeness, folded
from sidestep.data.sidecar import BareText, read_object, read_sidecar, read_table, text_of
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.words import shown, some
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

_ENDINGS = {  # of a text's name behind the song's → the field that it holds
    ".lyrics": "lyrics",
    "_lyrics": "lyrics",
    ".caption": "caption",
    "_caption": "caption",
    "_prompt": "caption",
}


@dataclass
class Texts:
    """What the texts of a folder say: fields by the path of the song, and what is wrong with them."""

    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # of each song, the paths of its texts
    problems: list[str] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)  # names of fields that mean nothing here


@dataclass(frozen=True)
class _Said:
    """What one file says of one song."""

    source: str
    fields: dict[str, Any]


def read_texts(folder: Store, listing: Listing, bare: BareText | None) -> Texts:
    """Read all texts that belong to songs of the listing; those that do not are named in a warning."""
    texts = Texts()
    forms, tables, others = _sorted(listing, texts.problems)

    def read(path: str) -> bytes | BadDataError:
        try:
            return folder.read_small(path)
        except BadDataError as error:
            return error

    paths = [*tables, *forms]
    with ThreadPoolExecutor(folder.options.connections) as pool:
        contents = dict(zip(paths, pool.map(read, paths), strict=True))
    said: dict[str, list[_Said]] = defaultdict(list)
    for path, (form, songs) in sorted(forms.items(), key=lambda item: (_RANKS[item[1][0]], item[0])):
        fields = _fields(contents[path], path, form, bare, texts)
        if fields and not fields.keys() & FIELDS:
            others.append(path)
        for song in songs:
            said[song].append(_Said(shown(path), fields))
    names = Names(listing.songs)
    for path in tables:
        rows = list(_rows(contents[path], path, names, texts))
        if not rows:
            others.append(path)
        for song, row in rows:
            said[song].append(row)
    if others:
        log.warning("%s: texts that belong to no song here: %s", folder.place, some(sorted(others)))
    texts.fields = {song: _merged(song, files) for song, files in said.items()}
    texts.sources = {song: ", ".join(one.source for one in files) for song, files in said.items()}
    texts.unused = {name for files in said.values() for one in files for name in one.fields} - FIELDS
    return texts


_Forms = dict[str, tuple[str, list[str]]]
_RANKS = {"json": 0, "txt": 1, "lyrics": 2, "caption": 2}


def _sorted(listing: Listing, problems: list[str]) -> tuple[_Forms, list[str], list[str]]:
    """Texts by path with their form and songs; tables; and the texts that fit no song and no form."""
    stems: dict[str, list[str]] = defaultdict(list)
    for song in listing.songs:
        stems[folded(posixpath.splitext(song.path)[0])].append(song.path)
    forms: _Forms = {}
    tables, others = [], []
    first: dict[str, str] = {}  # by the folded path
    for path in listing.texts:
        stem, ending = posixpath.splitext(folded(path))
        if ending in (".csv", ".tsv"):
            tables.append(path)
        elif ending in (".json", ".txt") and stem in stems:
            forms[path] = ending[1:], stems[stem]
        elif ending == ".txt" and (found := _part_of(stem, stems)):
            forms[path] = found
        elif path != "dataset.json":  # which is warned of by itself
            others.append(path)
        if path in forms and (twin := first.setdefault(folded(path), path)) != path:
            problems.append(f"{shown(twin)} and {shown(path)} differ in letter case only: keep one")
    return forms, tables, others


def _part_of(stem: str, stems: dict[str, list[str]]) -> tuple[str, list[str]] | None:
    """The field that a text with this stem holds, and of which songs."""
    for ending, name in _ENDINGS.items():
        if stem.endswith(ending) and (songs := stems.get(stem.removesuffix(ending))):
            return name, songs
    return None


def _fields(
    content: bytes | BadDataError, path: str, form: str, bare: BareText | None, texts: Texts
) -> dict[str, Any]:
    place = shown(path)
    try:
        if isinstance(content, BadDataError):
            raise content
        if form == "json":
            return by_field(read_object(content, place).items(), place, texts.problems)
        if form == "txt":
            return by_field(read_sidecar(content, place, bare), place, texts.problems)
        return {form: text_of(content, place).strip()}
    except BadDataError as error:
        texts.problems.append(str(error))
        return {}


def _rows(
    content: bytes | BadDataError, path_of_table: str, names: Names, texts: Texts
) -> Iterator[tuple[str, _Said]]:
    """The songs of a table with what it says of them; those that are not there are named in a warning.

    A table may name more songs than there are: of its rows that end alike, the closest to a song's path is
    the song's, and the others are of songs that are not here.
    """
    place = shown(path_of_table)
    try:
        if isinstance(content, BadDataError):
            raise content
        rows = read_table(content, place)
    except BadDataError as error:
        texts.problems.append(str(error))
        return
    missing = []
    meant: dict[str, list[_Row]] = defaultdict(list)
    for written, pairs in rows:
        path, songs = _songs_called(written.replace("\\", "/"), posixpath.dirname(path_of_table), names)
        if len(songs) > 1:
            several = some([song.path for song in songs])
            texts.problems.append(f"{place}: {written!r} fits several songs: {several}")
        elif not songs:
            missing.append(written)
        else:
            fields = by_field(pairs, f"{place}, {written}", texts.problems)
            known_fields = {name: fields[name] for name in fields.keys() & FIELDS}
            meant[songs[0].path].append(_Row(closeness(songs[0].path, path), written, known_fields))
    for song, of_song in meant.items():
        closest = max(row.closeness for row in of_song)
        missing += [row.written for row in of_song if row.closeness < closest]
        first, *others = (row for row in of_song if row.closeness == closest)
        for row in others:
            if differing(first.fields, row.fields):
                texts.problems.append(
                    f"{place}: {first.written!r} and {row.written!r} both mean {shown(song)}, and differ"
                )
        yield from ((song, _Said(place, row.fields)) for row in (first, *others))
    if missing:
        log.warning("%s: songs that are not here: %s", place, some(missing))


@dataclass(frozen=True)
class _Row:
    """What a table says of a song under the name `written`, of which so much is the song's own."""

    closeness: tuple[bool, int]
    written: str
    fields: dict[str, Any]


def _songs_called(written: str, folder: str, names: Names) -> tuple[str, list[FileInfo]]:
    """The songs that a table in `folder` may mean, and the path that they were found by."""
    beside = posixpath.normpath(posixpath.join(folder, written))
    for path in (beside, posixpath.normpath(written)):
        if found := names.spelt(path):
            return path, found
    return beside, names.ending(beside) or names.without_suffix(beside)


def _merged(song: str, files: list[_Said]) -> dict[str, Any]:
    """The fields of a song, each from the first file that has it. Where another one differs, it is said."""
    fields: dict[str, Any] = {}
    source: dict[str, str] = {}
    for one in files:
        for name, value in one.fields.items():
            if name not in fields or known(fields[name]) is None:
                fields[name], source[name] = value, one.source
            elif known(value) is not None and not same(fields[name], value) and name in FIELDS:
                log.warning(
                    "%s: its %s is that of %s, not of %s", shown(song), name, source[name], one.source
                )
    return fields
