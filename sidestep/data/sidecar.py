"""Reads the files that say something of a song: what each kind holds, as fields and values.

    caption: A slow blues with a dry guitar
    genre: blues
    bpm: 72
    key: E minor
    signature: 3/4
    # lines like this one are comments
    lyrics:
    [Verse]
    …

is `song.txt` in field form: one field a line, and the lyrics last, over as many lines as they have.
"""

import csv
import io
from typing import Any, Literal

from sidestep.data.aliases import FIELDS, OF_TEXTS, field_of
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_json

BareText = Literal["lyrics", "caption"]

_SONG_COLUMNS = ("file", "filename", "name")


def read_sidecar(content: bytes, place: str, bare: BareText | None = None) -> list[tuple[str, str]]:
    """The fields of a text file and their values, also those that mean nothing here.

    A text without one line of a known field is `bare`, the lyrics or the caption. Raises BadDataError where
    it is neither: a text under no name could be either, and is not guessed.
    """
    text = text_of(content, place)
    lines = text.splitlines()
    fields: list[tuple[str, str]] = []
    odd = 0  # the first line that is no field
    for number, line in enumerate(lines, start=1):
        name, colon, value = line.partition(":")
        if field_of(name) == "lyrics" and colon:
            fields.append((name, "\n".join([value, *lines[number:]]).strip()))
            break
        if colon and not line.lstrip().startswith("#"):
            fields.append((name, value.strip()))
        elif line.strip() and not line.lstrip().startswith("#"):
            odd = odd or number
    names = {field_of(name) for name, _ in fields}
    has_fields = bool(names & OF_TEXTS or (names and names <= FIELDS and not odd))
    if bare and not has_fields:
        return [(bare, text.strip())]
    if odd or (fields and not has_fields):
        raise BadDataError(
            f"{place}: line {odd or 1} should be `field: value`, such as `caption: A slow blues`; "
            "lyrics come last, under a line `lyrics:`; if all of it is lyrics, or the caption, "
            "set preprocess.bare_text (--bare-text lyrics)"
        )
    return fields


def read_object(content: bytes, place: str) -> dict[str, Any]:
    """The fields of a JSON file with one object. Raises BadDataError where it is something else."""
    said = parse_json(content, place)
    if not isinstance(said, dict):
        raise BadDataError(f'{place} should be an object such as {{"caption": "A slow blues"}}')
    return said


def read_table(content: bytes, place: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The songs that a CSV names, and what it says of each; [] where no column names songs.

    Commas, semicolons or tabs part its columns. Raises BadDataError where it is damaged, or a row has more
    values than there are columns: a caption with a comma would be cut at it.
    """
    header = next(iter(content.decode("utf-8-sig", errors="replace").splitlines()), "")
    delimiter = max(",;\t", key=header.count)
    try:
        names = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # a column's name of 128 kB
        return []
    columns = {name.strip().lower(): number for number, name in reversed(list(enumerate(names)))}
    song = next((columns[name] for name in _SONG_COLUMNS if name in columns), None)
    if song is None:
        return []
    text = io.StringIO(text_of(content, place), newline="")
    try:
        _, *rows = csv.reader(text, delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise BadDataError(f"{place} is not a table of songs: {error}") from error
    found = []
    for row in rows:
        if len(row) > song and (path := row[song].strip()):
            if any(value.strip() for value in row[len(names) :]):
                raise BadDataError(
                    f"{place}, {path}: has {len(row)} values under {len(names)} columns; "
                    f'put a value that holds "{delimiter}" in quotes'
                )
            others = [
                (name, value) for n, (name, value) in enumerate(zip(names, row, strict=False)) if n != song
            ]
            found.append((path, others))
    return found


def text_of(content: bytes, place: str) -> str:
    """A text file's content, its lines as they end here. Raises BadDataError where it is not UTF-8."""
    try:
        return "\n".join(content.decode("utf-8-sig").splitlines()).rstrip()
    except UnicodeDecodeError as error:
        raise BadDataError(f"{place} is not UTF-8 text: {error.reason} at byte {error.start}") from error
