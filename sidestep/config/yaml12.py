"""YAML 1.2 for job specs: values by its core schema, and the line of every key.

PyYAML speaks YAML 1.1, where `1e-4` is text and `no` is false. ruamel.yaml parses the text here; the
values are built from its events, so that a spec stays plain data: no tags, no aliases, no merge keys,
one document, each key once.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from sidestep.runtime.errors import AccessError, BadDataError, BadSpecError, MissingInputError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

# YAML 1.2.2, 10.3.2: how the core schema resolves plain scalars.
_CORE_SCHEMA: list[tuple[re.Pattern[str], Callable[[str], Any]]] = [
    (re.compile(r"null|Null|NULL|~|"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
]


def read_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The mapping in a YAML file, and the line (from 1) of each key by its path from the top.

    An empty file is an empty mapping. Raises BadSpecError, with file and line, for anything that is not
    one plain YAML 1.2 mapping in UTF-8; MissingInputError, BadDataError or AccessError where it is not read.
    """
    name = os.fspath(path)
    if not name:
        raise MissingInputError("the job spec's name is empty; a job spec is a YAML file")
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"there is no job spec at {name}") from None
    except IsADirectoryError:
        raise BadDataError(f"{name} is a folder; a job spec is a YAML file") from None
    except OSError as error:
        raise AccessError(f"the job spec {name} cannot be read: {error.strerror}") from None
    return parse_yaml(data, name)


def parse_yaml(
    data: bytes, name: str, what: str = "a job spec"
) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The same for a file's content: messages call it `name`, and say that it is `what`.

    Raises BadSpecError.
    """
    if len(data) > MAX_BYTES:
        raise BadSpecError(f"{name} has more than {MAX_BYTES:,} bytes; that is not {what}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadSpecError(f"{name}:{line}: not UTF-8 text (byte {data[error.start]:#04x})") from None
    return _Builder(name, text, what).build()


def dump_yaml(values: Mapping[str, Any]) -> bytes:
    """YAML 1.2 of plain values, in their order; `read_yaml` gives back the same values."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.width = 1000
    stream = io.BytesIO()
    yaml.dump(dict(values), stream)
    return stream.getvalue()


class _Builder:
    """Plain Python values from the events of one YAML document."""

    def __init__(self, name: str, text: str, what: str) -> None:
        self._name, self._text, self._what = name, text, what
        self._lines: dict[tuple[str, ...], int] = {}

    def build(self) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
        try:
            return self._document(), self._lines
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self._name}:{mark.line + 1}" if mark else self._name
            message = " ".join(part for part in (error.problem, error.context) if part)
            raise BadSpecError(f"{where}: broken YAML: {message}") from None
        except YAMLError as error:
            message = str(error).splitlines()[0]
            raise BadSpecError(f"{self._name}: broken YAML: {message}") from None

    def _document(self) -> dict[str, Any]:
        self._events: Iterator[Any] = YAML(typ="safe", pure=True).parse(self._text)
        values: Any = None
        documents = 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, f"a second document; {self._what} is one")
                if event.version and tuple(event.version) != (1, 2):
                    self._refuse(event, f"a %YAML directive; {self._what} is YAML 1.2")
                first = next(self._events)
                values = self._value(first, ())
                if values is not None and not isinstance(values, dict):
                    self._refuse(first, f"{self._what} is a mapping (key: value)")
        return values or {}

    def _value(self, event: Any, path: tuple[str, ...]) -> Any:
        if isinstance(event, AliasEvent) or event.anchor is not None:
            self._refuse(event, f"anchors and aliases (& and *) are not used in {self._what}")
        if event.tag is not None:
            self._refuse(event, f"tags are not used in {self._what} ({event.tag})")
        if len(path) > MAX_DEPTH:
            self._refuse(event, f"nested too deeply for {self._what}")
        if isinstance(event, MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, SequenceStartEvent):
            return [self._value(item, (*path, "[]")) for item in self._until(SequenceEndEvent)]
        return self._scalar(event)

    def _mapping(self, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for event in self._until(MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                self._refuse(event, "a key must be plain text")
            self._value(event, path)
            key = event.value  # as written: keys are names, `1` and `null` too
            if key in values:
                self._refuse(event, f"{key!r} is given twice, first on line {self._lines[*path, key]}")
            self._lines[*path, key] = event.start_mark.line + 1
            values[key] = self._value(next(self._events), (*path, key))
        return values

    def _scalar(self, event: ScalarEvent) -> Any:
        if event.style is not None:  # quoted or a block
            return event.value
        for pattern, convert in _CORE_SCHEMA:
            if pattern.fullmatch(event.value):
                try:
                    return convert(event.value)
                except ValueError:  # Python refuses to read thousands of digits
                    self._refuse(event, "a number with far too many digits")
        return event.value

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _refuse(self, event: Any, message: str) -> NoReturn:
        raise BadSpecError(f"{self._name}:{event.start_mark.line + 1}: {message}")
