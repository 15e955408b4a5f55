"""What can be seen of a job whose spec is wrong: enough to tell somebody that it has ended, and to give a
rented machine back."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from os.path import isfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sidestep.config.fields import FieldPath, spec_fields, variable
from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import read_yaml
from sidestep.runtime.environment import CONFIG_VARIABLE, DEFAULT_CONFIG
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import nested

WEBHOOK: FieldPath = ("runtime", "webhook")
ON_EXIT: FieldPath = ("runtime", "on_exit")
SEEN: tuple[FieldPath, ...] = (
    *(WEBHOOK, ON_EXIT, ("name",), ("task",), ("output_dir",), ("runtime", "price_per_hour")),
)

_URLS_OF_A_LINE = re.compile(r"""^[^#\n]*\bwebhook["']?\s*:([^#\n]*)""", re.MULTILINE)
_ON_EXIT_OF_A_LINE = re.compile(r"""^[^#\n]*\bon_exit["']?\s*:\s*["']?(\w+)""", re.MULTILINE)
_URL = re.compile(r"""[a-z][a-z0-9+.-]*://[^\s"',\]}]+""", re.IGNORECASE)
_LARGEST = 1_000_000  # characters


def glimpse(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> JobSpec:
    """A spec with as much of `SEEN` as is sound by itself, from flags, variables and the file, in that order.

    `words` are what stands behind the command. Nothing is raised of what is wrong with them or the spec.
    """
    values: dict[FieldPath, Any] = {}
    file = _of_file(words, environ)
    for path in SEEN:
        for value in (*_of_flags(words, path), environ.get(variable(path), "").strip(), file.get(path)):
            if value and _is_sound(path, value):
                values[path] = value
                break
    return JobSpec.model_validate(nested(values))


def _is_sound(path: FieldPath, value: Any) -> bool:
    try:
        JobSpec.model_validate(nested({path: value}))
    except ValidationError:
        return False
    return True


def _of_flags(words: Sequence[str], path: FieldPath) -> Iterator[str]:
    """What stands behind the field's flag, as one text; the last one counts."""
    for at in range(len(words) - 1, -1, -1):
        flag, equals, value = words[at].partition("=")
        if flag in spec_fields()[path].flags:
            behind = [value] if equals else []
            for word in words[at + 1 :]:
                if word.startswith("-"):
                    break
                behind.append(word)
            yield " ".join(behind)


def _of_file(words: Sequence[str], environ: Mapping[str, str]) -> dict[FieldPath, Any]:
    """What the spec's file says of `SEEN`; where it is no YAML, what two lines of it say."""
    named = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--config"]
    named += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    bare = [word for word in words[:1] if not word.startswith("-")]
    file = Path((named or bare or [environ.get(CONFIG_VARIABLE, "")])[-1] or DEFAULT_CONFIG)
    if not isfile(file):  # noqa: PTH113 - Path's raises. A pipe can be read once, and would be waited for
        return {}
    try:
        values, _ = read_yaml(file)
    except SideStepError:
        try:
            with file.open(encoding="utf-8", errors="replace") as opened:
                text = opened.read(_LARGEST)
        except (OSError, ValueError):
            return {}
        urls, on_exit = _URLS_OF_A_LINE.search(text), _ON_EXIT_OF_A_LINE.search(text)
        return {WEBHOOK: urls and _URL.findall(urls[1]), ON_EXIT: on_exit and on_exit[1]}
    found = {}
    for path in SEEN:
        try:
            found[path] = reduce(getitem, path, values)
        except (KeyError, TypeError):
            continue
    return found
