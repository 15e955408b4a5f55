"""Reads sidecars, text files with a song's metadata: `song.txt` for `song.mp3`.

    caption: A slow blues with a dry guitar
    genre: blues
    bpm: 72
    key: E minor
    signature: 4/4
    lyrics:
    [Verse]
    …

One field a line, and the lyrics last, over as many lines as they have. The names are those of a dataset
JSON's samples, or `key` and `signature` as in the files that Side-Step's first version wrote.
"""

import posixpath

from sidestep.runtime.errors import BadDataError

_OTHER_NAMES = {"key": "keyscale", "signature": "timesignature"}


def sidecar_of(path: str) -> str:
    """The sidecar's path of a song's path, whether there is one or not."""
    return f"{posixpath.splitext(path)[0]}.txt"


def read_sidecar(content: bytes, place: str) -> dict[str, str]:
    """The fields of a sidecar file, also those that mean nothing here.

    Raises BadDataError where it is no such file. A text under no name could be a caption as well as lyrics,
    and is not guessed.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadDataError(f"{place} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    fields: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if name == "lyrics" and colon:
            fields[name] = "\n".join([value, *lines[number:]]).strip()
            break
        if colon:
            fields[_OTHER_NAMES.get(name, name)] = value.strip()
        elif line.strip():
            raise BadDataError(
                f"{place}: line {number} should be `field: value`, such as `caption: A slow blues`; "
                "lyrics come last, under a line `lyrics:`"
            )
    return fields
