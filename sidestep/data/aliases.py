"""The names under which other trainers, apps and people write the fields of a song."""

import json
from collections.abc import Iterable
from typing import Any

_NAMES = {
    **dict.fromkeys(("caption", "prompt", "tags"), "caption"),
    **dict.fromkeys(("bpm", "tempo"), "bpm"),
    **dict.fromkeys(("keyscale", "key", "scale"), "keyscale"),
    **dict.fromkeys(("timesignature", "signature", "sig"), "timesignature"),
    **dict.fromkeys(("language", "lang", "vocallanguage"), "language"),
    **dict.fromkeys(("customtag", "trigger"), "custom_tag"),
    **dict.fromkeys(("repeats", "numrepeats"), "repeats"),
    **dict.fromkeys(("weight", "lossweight"), "weight"),
    "lyrics": "lyrics",
    "genre": "genre",
    "isinstrumental": "is_instrumental",
    "promptoverride": "prompt_override",
    "audiopath": "audio_path",
}
"""A name in lower case, without blanks, dashes and underscores → the field."""

FIELDS = frozenset(_NAMES.values())

OF_TEXTS = FIELDS - {"repeats", "weight"}
"""Those by which a text shows that it has fields: a line of lyrics may begin with one of the others."""

_UNKNOWN = ("", "n/a", "none", "null")


def known(value: Any) -> Any:
    """The ways in which datasets say that something is not known → None."""
    unknown = value is None or (isinstance(value, str) and value.strip().lower() in _UNKNOWN)
    return None if unknown else value


def field_of(name: str) -> str:
    """The field that is called `name`, such as `Time Signature`; a name that means nothing here as it is."""
    lower = name.strip().lower()
    return _NAMES.get(lower.translate(_SEPARATORS), lower)


_SEPARATORS = str.maketrans("", "", " -_")


def by_field(pairs: Iterable[tuple[str, Any]], where: str, problems: list[str]) -> dict[str, Any]:
    """Names with values → fields with values. Two names of a field with different values are a problem."""
    said: dict[str, tuple[str, Any]] = {}
    for name, value in pairs:
        field = field_of(name)
        if field == "caption" and isinstance(value, list) and all(isinstance(v, str) for v in value):
            value = ", ".join(value)  # tags
        first = said.get(field)
        if first is None or known(first[1]) is None:
            said[field] = (name, value)
        elif known(value) is not None and not same(first[1], value):
            both = f"{short(first[1])} as {first[0].strip()} and {short(value)} as {name.strip()}"
            problems.append(f"{where}, {field}: is {both}")
    return {field: value for field, (_, value) in said.items()}


def same(value: Any, other: Any) -> bool:
    """Whether two values say the same, such as 120 and "120.0"."""
    try:
        return float(value) == float(other)
    except (TypeError, ValueError, OverflowError):
        return str(value).split() == str(other).split()


def differing(fields: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """The fields of which both say something, and not the same."""
    return [
        name
        for name in fields.keys() & others.keys()
        if None not in (known(fields[name]), known(others[name])) and not same(fields[name], others[name])
    ]


def short(value: Any) -> str:
    """A value as JSON has it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
