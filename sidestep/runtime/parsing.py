"""The one reader of JSON: what it takes is finite, and anything else is refused with the file's name.

JSON comes from songs' folders, other trainers, other machines, and disks that fail. Python's parser takes
NaN, 1e999, half characters and numbers of thousands of digits, and goes as deep as its stack; what is done
with such values later would fail, or never end. A key that is given twice counts as it was given last, as
everywhere.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from sidestep.runtime.errors import BadDataError, MissingInputError

JSON_AT_MOST = 64 * 2**20
"""Bytes of a JSON file, unless its reader knows that it may be larger."""

SONGS_JSON_AT_MOST = 2**30
"""The same of those that have an entry for each song of a dataset: 1.7 million of them."""

LEVELS_AT_MOST = 100  # of lists and objects within each other; no format of ours has more than ten
TOO_DEEP = f"nested too deeply: {LEVELS_AT_MOST} lists and objects within each other are read"
_WHOLE_AT_MOST = 2**63
_PROBLEMS = 5  # that a message shows
_OBJECT = dict.fromkeys(("model_type", "dataclass_type", "dict_type"), "should be an object, as in {...}")
"""What a message says in place of pydantic's words, which name a class."""

Count = Annotated[int, Field(ge=0, le=10**12, strict=True)]
"""How many: steps, attempts, bytes."""

Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False, strict=True)]
"""How much: seconds, a gradient's norm."""

Number = Annotated[float, Field(ge=-1e100, le=1e100, allow_inf_nan=False, strict=True)]
"""Any other quantity: a loss, a state's number."""

Exact = Annotated[int, Field(strict=True)] | Number
"""A number that is written again as it was: 10 stays 10, and 10.0 stays 10.0."""

T = TypeVar("T")


def parse_json(data: bytes, where: str, *, only_depth: bool = False, at_most: int = 0) -> Any:
    """The value in a JSON text, which messages call `where`.

    Numbers in it are finite and of 64 bits at most, text is whole characters; `only_depth` leaves that to the
    caller, who can name what it belongs to.

    Raises BadDataError where it is not JSON, larger than `at_most` (JSON_AT_MOST), or nested too deeply.
    """
    if len(data) > (most := at_most or JSON_AT_MOST):
        raise BadDataError(f"{where} has more than {most:,} bytes: it is not what its name says")
    try:
        value = json.loads(data)
        fault = _fault(value, only_depth)
    except RecursionError as error:
        raise BadDataError(f"{where} is not what its name says: it is {TOO_DEEP}") from error
    except ValueError as error:
        raise BadDataError(f"{where} is damaged, or not JSON: {error}") from error
    if fault:
        raise BadDataError(f"{where} is damaged, or not what its name says: {fault}")
    return value


def parse_as(kind: type[T], data: bytes, where: str, *, at_most: int = 0) -> T:
    """The same, checked against a pydantic model or a dataclass. Raises BadDataError naming wrong fields."""
    return as_kind(kind, parse_json(data, where, at_most=at_most), where)


def as_kind(kind: type[T], value: Any, where: str) -> T:
    """A value from `parse_json` as a `kind`. Raises BadDataError with each wrong field."""
    try:
        made: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type]  # a type is hashable
        return made
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, fault['loc'])) or 'it'}: {_OBJECT.get(fault['type'], fault['msg'])}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise BadDataError(
            "\n  ".join([f"{where} is damaged, or not what its name says:", *problems[:_PROBLEMS]])
        ) from error


def read_small(path: Path) -> bytes:
    """A local file's content, JSON_AT_MOST bytes at most.

    Raises MissingInputError where it is not there, BadDataError where it is larger, a folder, or unreadable.
    """
    try:
        with path.open("rb") as file:
            data = file.read(JSON_AT_MOST + 1)
    except FileNotFoundError as error:
        raise MissingInputError(f"{path} is not there") from error
    except OSError as error:
        raise BadDataError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > JSON_AT_MOST:
        raise BadDataError(f"{path} has more than {JSON_AT_MOST:,} bytes: it is not what its name says")
    return data


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _fault(value: Any, only_depth: bool, level: int = 0) -> str | None:
    """What no reader could work with, after the keys that lead to it; None where there is nothing."""
    if isinstance(value, dict | list):
        if level == LEVELS_AT_MOST:
            return f"it is {TOO_DEEP}"
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and not only_depth and not _is_text(key):
                return "a key contains half a surrogate pair, which is not a character"
            if fault := _fault(item, only_depth, level + 1):
                return fault if level > _PROBLEMS else f"{key}: {fault}"
        return None
    if only_depth:
        return None
    if isinstance(value, str) and not _is_text(value):
        return "contains half a surrogate pair, which is not a character"
    if isinstance(value, float) and not math.isfinite(value):
        return "should be a finite number"
    if isinstance(value, int) and abs(value) > _WHOLE_AT_MOST:
        return "is a number of too many digits"
    return None


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
