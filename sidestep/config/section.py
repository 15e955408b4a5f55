"""What every part of the schema is made of: the base of sections, and places."""

import os
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

# user:password@ in a URI; host:port is something else, and so is Azure's container@account.
CREDENTIALS = re.compile(r"(?<=://)[^/@:]+:(?!\d+(?:/|$))[^@]+@")


def path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def no_credentials(place: str) -> str:
    if CREDENTIALS.search(place):
        raise ValueError("has a password in it: credentials come from the environment, never from the spec")
    return place


Place = Annotated[
    str,
    Field(min_length=1, examples=["s3://studio/songs", "./songs"]),
    BeforeValidator(path_as_text),
    AfterValidator(no_credentials),
]
"""Where something is: a path, or a URI such as s3://bucket/prefix."""


class Section(BaseModel):
    """Base of all parts: unknown keys are refused, and a spec does not change once it is checked."""

    # Inputs stay out of pydantic's own messages: they may hold what must not reach a log.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes `epochs: true` for one epoch; nobody means that."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in _NUMBERS:
            raise ValueError("must be a number, not true or false")
        return value


_NUMBERS = (int, float, int | None, float | None)
