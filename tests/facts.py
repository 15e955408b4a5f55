"""What a message must tell: its facts, in whatever words and order."""

import re


def facts(*wanted: object) -> str:
    """A pattern that a text fits where each of `wanted` stands in it: a field, a value, a place, a number."""
    return "(?s)" + "".join(f"(?=.*{re.escape(str(fact))})" for fact in wanted)


def tells(text: str, *wanted: object) -> bool:
    """Whether each of `wanted` stands in `text`."""
    return re.search(facts(*wanted), text) is not None
