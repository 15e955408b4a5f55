"""Text of others' making, as it may be shown: names of songs and files, captions, what a status file says.

A terminal obeys some characters, and others reorder or hide the text around them. They are shown as Python
writes them, `\\x1b`, and so nothing that is printed or logged does more than stand there. It is done where
text leaves, in `runtime.console` and `runtime.logs`, not where it comes in: no caller has to think of it.
"""

import unicodedata

from sidestep.runtime.words import counted

LINE_AT_MOST = 10_000
"""Characters of a line that are shown: more than any line of ours has."""


def shown(text: str) -> str:
    """`text` with nothing but visible characters, spaces, tabs and line breaks, and no endless line."""
    if text.isprintable() and len(text) <= LINE_AT_MOST:
        return text
    return "\n".join(map(_shown_line, text.split("\n")))


def indented(text: str) -> str:
    """The same, all lines but the first begun with spaces: none can pass for an entry of a log."""
    first, *others = shown(text).split("\n")
    return "\n".join([first, *(f"  {line.removeprefix('  ')}" if line else line for line in others)])


def on_one_line(text: str) -> str:
    """The same, with line breaks made visible."""
    return shown(text).replace("\n", "\\n")


def _shown_line(line: str) -> str:
    if len(line) > LINE_AT_MOST:
        line = f"{line[:LINE_AT_MOST]}… ({counted(len(line) - LINE_AT_MOST, 'characters')} more)"
    return line if line.isprintable() else "".join(map(_shown_character, line))


def _shown_character(character: str) -> str:
    if character == "\t" or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()
