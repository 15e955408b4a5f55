"""What many parts say or name alike: a duration, the word that somebody meant, a value by its path."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NOT_IN_A_WORD = re.compile(r"""[\s,"]|^$""")  # of a list that is written as one text


def duration(seconds: float) -> str:
    """`0.2 s`, `8 s`, `3 min 20 s`, `2 h 05 min`, and `7.8 days` from two days on."""
    whole = round(seconds)
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{seconds / 86400:.1f} days"


def counted(number: float, plural: str) -> str:
    """`1 song`, `1,200 steps`: a whole number with what is counted, which is given as its plural."""
    return f"{number:,} {one_or_many(number, plural)}"


def out_of(part: int, whole: int, plural: str) -> str:
    """`2 of 3 songs`, `1 of 1 song`."""
    return f"{part:,} of {counted(whole, plural)}"


def one_or_many(number: float, plural: str) -> str:
    """`song` for one, else `songs`."""
    if number != 1:
        return plural
    return plural.removesuffix("es") if plural.endswith("ches") else plural.removesuffix("s")


def first_line(error: BaseException) -> str:
    """What an error says first, of what may be pages; its kind, where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def shown(name: str) -> str:
    """A file's name on one line, whatever is in it."""
    return name if name.isprintable() else repr(name)


def some(names: Sequence[str]) -> str:
    """Names on one line: the first ten, and how many there are beyond."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(shown, names[:10])) + more


def as_typed(value: object) -> str:
    """A setting as one would type it: `true`, `0.5`, `q_proj v_proj`, `v_proj=16`; nothing for None.

    Lists and mappings of names with spaces are in JSON: `["Night Drive"]`.
    """
    if isinstance(value, list | tuple | dict) and any(_NOT_IN_A_WORD.search(str(item)) for item in value):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={number}" for key, number in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "" if value is None else str(value)


def nearest_word(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of `known` that `word` is most like, in whatever case; None where none is like it.

    `likeness` is difflib's ratio, from 0 to 1, that it has at least.
    """
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=likeness)), None)


def did_you_mean(word: str, known: Iterable[str], spelt: str = "{}") -> str:
    """The hint behind an unknown word: `did you mean base?`, or else all that are known.

    `spelt` is how a command line or a file would have it, with {} for the word.
    """
    known = list(known)
    nearest = nearest_word(word, known)
    return f"did you mean {spelt.format(nearest)}?" if nearest else f"there are {', '.join(known)}"


def set_at(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set `value` in the nested `values`, making the dicts on the way there that are missing."""
    *above, name = path
    for key in above:
        values = values.setdefault(key, {})
    values[name] = value


def nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Values by their paths as dicts within dicts: {("train", "lr"): 1e-4} as {"train": {"lr": 1e-4}}."""
    made: dict[str, Any] = {}
    for path, value in values.items():
        set_at(made, path, value)
    return made
