"""Everything that is wrong with a spec, in one message."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sidestep.config.fields import FieldPath, nearest_field, spec_fields, spec_sections, variable
from sidestep.config.section import mark_of
from sidestep.runtime.credentials import hide_in_place

NOT_GIVEN = object()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: which field, where it was written, why, and the value if it may be shown."""

    field: str
    message: str
    origin: str
    value: Any = NOT_GIVEN

    def __str__(self) -> str:
        value = "" if self.value is NOT_GIVEN else f" = {shown(self.value)}"
        return f"{self.field}{value} ({self.origin}): {self.message}"


def shown(value: Any) -> str:
    """A value as the report prints it: short, and without credentials."""
    text = repr(hide_in_place(value)) if isinstance(value, str) else hide_in_place(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def report(problems: Sequence[Problem]) -> str:
    """All problems, one a line."""
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{count} in the job spec", *(f"  {problem}" for problem in problems)])


def unknown_key(path: FieldPath, origin: str) -> Problem:
    """A key that its source may not set. Its value is not shown: it may be a secret in the wrong place."""
    name = ".".join(path)
    if path == (origin,):  # a variable's name, as a whole
        return Problem(name, f"is not read: variables are written in capitals, as {name.upper()}", origin)
    if path in spec_fields():
        return Problem(name, "is a job's own: a preset says how to train, not what or where", origin)
    if path in spec_sections():
        keys = ", ".join(spec_sections()[path].model_fields)
        return Problem(name, f"is a section; its keys are {keys}", origin)
    is_variable = origin.upper() == variable(path)
    meant = nearest_field(path, sections=not is_variable)
    if meant is None:
        message = "is not known; `sidestep schema` lists all fields"
    elif is_variable:
        message = f"is not known; did you mean {variable(meant)}?"
    elif name == ".".join(meant):
        message = f"must be nested: {': {'.join(meant)}: …" + "}" * (len(meant) - 1)
    else:
        message = f"is not known; did you mean {'.'.join(meant)}?"
    return Problem(name, message, origin)


def invalid_values(error: ValidationError, origins: Mapping[FieldPath, str]) -> Iterator[Problem]:
    """pydantic's errors, of a model that has the spec as a field, in our words."""
    told: FieldPath = ()
    for detail in error.errors():
        where = tuple(map(str, detail["loc"][1:]))
        value = detail.get("input", NOT_GIVEN)
        if where in spec_sections():  # the section as a whole: told at what was given of it
            inside = [path for path in spec_fields() if path[: len(where)] == where]
            section, where = where, next((p for p in inside if origins.get(p) != "default"), inside[0])
            value = _value_at(value, where[len(section) :])
        path = next(where[:depth] for depth in range(len(where), 0, -1) if where[:depth] in spec_fields())
        field = spec_fields()[path]
        if not field.types & {"array", "object"}:  # what is behind the field is a kind of value that it takes
            where = path
            if told == path:  # of another such kind
                continue
        told = path
        if mark_of(field.info).is_secret:
            value = NOT_GIVEN
        if detail["type"] == "value_error":
            message = str(detail["ctx"]["error"])
        elif detail["type"] == "string_too_short":
            message = "must not be empty"
        elif detail["type"] == "string_pattern_mismatch":
            message = f"does not fit: {field.info.description}"
        elif len(where) > len(path):  # one of a list's or a mapping's
            message = "must be text" if where[-1] == "[key]" else f"must be {field.allowed_inside}"
        else:
            is_flag = origins[path].startswith("-")  # whose user has left it out where YAML says null
            message = f"must be {field.allowed_but_null if is_flag else field.allowed}"
        if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
            message += "; put it in quotes"
        yield Problem(".".join(where), message, origins[path], value)


def _value_at(values: Any, path: FieldPath) -> Any:
    """What of a section's values is at `path` inside it; NOT_GIVEN where nothing is."""
    for key in path:
        values = values.get(key, NOT_GIVEN) if isinstance(values, Mapping) else NOT_GIVEN
    return values
