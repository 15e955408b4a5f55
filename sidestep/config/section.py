"""What every part of the schema is made of: the base of sections, places, and what a field says of itself."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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
    adapter_type: Literal["lora", "lokr"] | None = None  # the one that the field is for; None for both


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


LORA, LOKR = Mark(adapter_type="lora"), Mark(adapter_type="lokr")


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
    def _line_ends_are_no_part(cls, value: Any) -> Any:
        """A YAML block (`output_dir: |`) ends in one, and so does what a shell reads from a file."""
        return value.strip("\r\n") if isinstance(value, str) else value


def _is_number(annotation: Any) -> bool:
    """Whether it is one, or one or something else: `int`, `float | None`."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(
        (get_args(kind)[0] if get_origin(kind) is Annotated else kind) in (int, float) for kind in kinds
    )
