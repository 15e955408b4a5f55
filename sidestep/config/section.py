"""What every part of the schema is made of: the base of sections, places, and what a field says of itself."""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from sidestep.config.place import check_folder, check_place
from sidestep.runtime.credentials import check_no_credentials


@dataclass(frozen=True)
class Mark:
    """What a field says of itself that its JSON schema does not, as `Annotated` metadata of its type."""

    is_place: bool = False
    is_secret: bool = False  # its value is shown nowhere
    adapter_types: tuple[str, ...] = ()  # those that the field is for; () where it is for all, or none


def mark_of(field: FieldInfo) -> Mark:
    """What the field says of itself; an empty mark where it says nothing."""
    marks = list(field.metadata)
    for type_ in get_args(field.annotation):  # of `Place | None`
        marks += getattr(type_, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Mark)), Mark())


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    flag: str | None = None,
    aliases: Sequence[str] = (),
    **rules: Any,
) -> Any:
    """A field of the spec: pydantic's `Field` under `rules`, such as ge=1, and what the command line needs.

    Args:
        unit: what it counts.
        flag: where the flag is not simply the field's name.
        aliases: the guide's other spellings of the flag.
    """
    extra: dict[str, Any] = {"unit": unit, "flag": flag, "aliases": list(aliases)}
    said = {name: value for name, value in extra.items() if value}
    return Field(default, description=description, json_schema_extra=said or None, **rules)


def split_words(value: Any) -> Any:
    """Accept "q_proj v_proj", "q_proj,v_proj" and JSON too, as flags and variables give a list."""
    if _are_texts(value):
        return [word for item in value for word in split_words(item)]
    return split_names(value)


def split_names(value: Any) -> Any:
    """The same for names that may have spaces and commas: they stay in a list's item, and in JSON's."""
    if not isinstance(value, str):
        return value
    content = _as_json(value)
    return content if _are_texts(content) else value.replace(",", " ").split()


def split_blanks(value: Any) -> Any:
    """The same for what may have commas but no blanks, such as URLs."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return value.split()
    return split_names(value)


def split_texts(value: Any) -> Any:
    """The same for whole texts: what is no list, in JSON or otherwise, is one of them."""
    if not isinstance(value, str):
        return value
    parts = _as_json(value)
    return parts if _are_texts(parts) else (value,)


def split_pairs(value: Any, split: Callable[[Any], Any] = split_words) -> Any:
    """Accept "q_proj=8 v_proj=16" and JSON too, as flags and variables give a mapping."""
    text = value[0] if _are_texts(value) and len(value) == 1 else value
    if isinstance(text, str) and _OBJECT.match(text):
        return _json(text)
    words = split(value)
    if not _are_texts(words) or not all("=" in word for word in words):
        return value
    pairs = [word.rpartition("=") for word in words]
    return {key: number for key, _, number in pairs}


def split_named_pairs(value: Any) -> Any:
    """The same for pairs of a name, which may have spaces, commas and "=", and a number."""
    return split_pairs(value, split_names)


def split_lists(value: Any) -> Any:
    """Accept "train.lr=1e-4,3e-4 train.seed=1,2" and JSON too, as flags and variables give lists by name.

    A list with commas of its own in an item is written in JSON: `train.adapter.target_modules=[["q_proj"]]`.
    """
    words = value.split() if isinstance(value, str) else value
    text = " ".join(words) if _are_texts(words) else value
    if isinstance(text, str) and text.lstrip().startswith("{"):
        return _json(text)
    if not _are_texts(words) or not all("=" in word for word in words):
        return value
    found: dict[str, Any] = {}
    for word in words:
        name, _, said = word.partition("=")
        content = _json(said) if said.startswith(_BEYOND_NAMES) else _as_json(said)
        found[name] = content if isinstance(content, list) else [item for item in said.split(",") if item]
    return found


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


_OBJECT = re.compile(r'\s*\{\s*["}]')
_BEYOND_NAMES = ('["', "[[", "[{")
"""How JSON begins, and no name or pattern does."""


def _json(text: str) -> Any:
    """What a text is that can be nothing but JSON. Raises ValueError that says where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos : error.pos + 20]
        where = f"at character {error.pos + 1}, {rest!r}" if rest.strip() else "at its end"
        raise ValueError(f"is not JSON: {error.msg[0].lower()}{error.msg[1:]} {where}") from error
    except RecursionError as error:
        raise ValueError("is not JSON that can be read: it is nested too deeply") from error


def _as_json(text: str) -> Any:
    """What a text is in JSON; None where it is none, as [ab]* is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


LORA, LOKR = Mark(adapter_types=("lora",)), Mark(adapter_types=("lokr",))
DECOMPOSABLE = Mark(adapter_types=("lora", "lokr"))


def path_as_text(value: Any) -> Any:
    """A pathlib.Path as text, and any other value as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Place = Annotated[
    str,
    Mark(is_place=True),
    Field(min_length=1, examples=["s3://studio/songs", "./songs"]),
    BeforeValidator(path_as_text),
    AfterValidator(check_no_credentials),
    AfterValidator(check_place),
]
"""Where something is: a path, or a URI such as s3://bucket/prefix."""

Folder = Annotated[str, Field(min_length=1), BeforeValidator(path_as_text), AfterValidator(check_folder)]
"""A folder on this machine."""


class Section(BaseModel):
    """Base of all parts: unknown keys are refused, and a spec does not change once it is checked."""

    # Inputs stay out of pydantic's own messages: they may hold what must not reach a log.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes `epochs: true` for one epoch; nobody means that."""
        if isinstance(value, bool) and _is_number(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("must be a number, not true or false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _false_is_off(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML 1.1, in which Helm reads its values, makes false of an `off` without quotes."""
        words = get_args(cls.model_fields[info.field_name or ""].annotation)
        return "off" if value is False and "off" in words else value

    @field_validator("*", mode="before")
    @classmethod
    def _line_ends_are_no_part(cls, value: Any) -> Any:
        """A YAML block (`output_dir: |`) ends in one, and so does what a shell reads from a file."""
        return value.strip("\r\n") if isinstance(value, str) else value


def _is_number(annotation: Any) -> bool:
    """Whether it is one, or one or something else: `int`, `float | None`."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(
        (get_args(kind)[0] if get_origin(kind) is Annotated else kind) in (int, float) for kind in kinds
    )
