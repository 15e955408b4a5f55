"""A resolved spec as text: every value, and where it came from."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.runtime.canonical import json_bytes

_WIDEST = 60  # columns that origins are set off by; a longer value pushes its own further


def as_yaml(spec: JobSpec, origins: Mapping[str, str]) -> str:
    """The spec as a YAML file that `--config` takes, each value with its origin in a comment."""
    lines = list(_lines(spec.model_dump(mode="json"), origins, ""))
    width = max(len(text) for text, _ in lines if len(text) <= _WIDEST)
    return "".join(f"{text:{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def digest(spec: JobSpec) -> str:
    """What tells two specs in two logs apart: 16 hex digits."""
    return sha256(json_bytes(spec.model_dump(mode="json"))).hexdigest()[:16]


def as_json(spec: JobSpec, origins: Mapping[str, str]) -> str:
    """{"spec": nested as the schema is, "origins": by dotted names}, for scripts."""
    return json.dumps({"spec": spec.model_dump(mode="json"), "origins": origins}, indent=2) + "\n"


def _lines(values: Mapping[str, Any], origins: Mapping[str, str], above: str) -> Iterator[tuple[str, str]]:
    """Each line and its origin; that of a section has none."""
    indent = "  " * above.count(".")
    for key, value in values.items():
        name = f"{above}{key}"
        if name in origins:
            yield f"{indent}{key}: {_in_one_line(value)}", _comment(origins[name])
        else:
            yield f"{indent}{key}:", ""
            yield from _lines(value, origins, f"{name}.")


def _in_one_line(value: Any) -> str:
    """YAML has JSON in it, which is used for all but text that needs no quotes."""
    if isinstance(value, str):
        text = dump_yaml({"x": value}).decode().removeprefix("x: ").removesuffix("\n")
        if "\n" not in text:
            return text
    return json.dumps(value, ensure_ascii=False)


def _comment(origin: str) -> str:
    """A file's name may hold what would end a comment."""
    return origin if origin.isprintable() else ascii(origin)
