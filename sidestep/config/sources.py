"""Where a spec's values come from, one function per source, and how they become one spec.

    flags and arguments > SIDESTEP_ variables > the YAML file > a preset > defaults

pydantic-settings merges the sources; each of ours also keeps the origin of every value, so that a
problem can say where it was written, and `resolve` where each value came from.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from sidestep.config.fields import (
    ENVIRONMENT_PREFIX,
    Path,
    SpecField,
    nearest,
    spec_fields,
    spec_sections,
    variable,
)
from sidestep.config.presets import Preset, find_preset, preset_fields
from sidestep.config.problems import NOT_GIVEN, Problem, report
from sidestep.config.schema import JobSpec, missing_places
from sidestep.config.yaml12 import read_yaml
from sidestep.runtime.errors import BadSpecError, MissingInputError, UsageError

CONFIG_VARIABLE = "SIDESTEP_CONFIG"
IMAGE_VARIABLE = "SIDESTEP_IMAGE"  # for `sidestep render`: what runs a job is no part of its spec
DEFAULT_CONFIG = FilePath("/etc/sidestep/job.yaml")

# Kubernetes gives every pod variables for each service of its namespace. A service called `sidestep` or
# `sidestep-tensorboard` must not stop the job.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


@dataclass(frozen=True)
class Given:
    """One value as a source gives it, and where: a flag, a variable's name, a file and line."""

    path: Path
    value: Any
    origin: str


class Source(PydanticBaseSettingsSource):
    """The values of one source, nested as the spec is, with their origins; unknown keys are problems.

    `fields` are those that the source may set, by default all.
    """

    def __init__(self, given: Iterable[Given], fields: Collection[Path] | None = None) -> None:
        super().__init__(BaseSettings)
        self.origins: dict[Path, str] = {}
        self.problems: list[Problem] = []
        self._values: dict[str, Any] = {}
        for item in given:
            if item.path in (spec_fields() if fields is None else fields):
                self.origins[item.path] = item.origin
                *sections, name = item.path
                place = self._values
                for section in sections:
                    place = place.setdefault(section, {})
                place[name] = item.value
            else:
                self.problems.append(_unknown(item))

    def __call__(self) -> dict[str, Any]:
        return self._values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False


def resolve(
    flags: Iterable[Given] = (),
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
    preset: str | Preset | None = None,
    usage: Sequence[Problem] = (),
) -> tuple[JobSpec, dict[str, str]]:
    """The spec that all sources make together, and the origin of each value by its dotted name.

    `flags` come from the command line, `arguments` (nested) from Python; `environ` is os.environ unless
    given; `config` is the YAML file, else it is found through SIDESTEP_CONFIG or at
    /etc/sidestep/job.yaml; `preset` is one or its name. A value that nobody gave has the origin "default".
    `usage` are problems of the command line itself, to be reported with all others.

    Raises BadSpecError with every problem of every source, or UsageError with them where `usage` has some;
    MissingInputError when the file is not there; UsageError for a preset that is not known.
    """
    environ = os.environ if environ is None else environ
    sources = [
        Source(flags),
        Source(_flatten(arguments or {}, lambda path: "argument")),
        Source(_from_environment(environ)),
        Source(_from_yaml(config, environ)),
        Source(_from_preset(preset), preset_fields()),
    ]
    values = _merge(sources)
    origins = {
        field.name: next((source.origins[path] for source in sources if path in source.origins), "default")
        for path, field in spec_fields().items()
    }
    problems = [*usage, *(problem for source in sources for problem in source.problems)]
    try:
        spec = JobSpec.model_validate(values)
    except ValidationError as error:
        problems += [_invalid(detail, origins) for detail in error.errors() if detail["loc"]]
        problems += [Problem(name, message, "not given") for name, message in missing_places(values).items()]
    if problems:
        raise (UsageError if usage else BadSpecError)(report(problems))
    return spec, origins


def problem_with(given: Iterable[Given], path: Path) -> str | None:
    """What is wrong with the field at `path` beside the others that are given; None where it is fine."""
    try:
        JobSpec.model_validate(Source(given)())
    except ValidationError as error:
        nowhere = {field.name: "" for field in spec_fields().values()}
        wrong = (detail for detail in error.errors() if detail["loc"][: len(path)] == path)
        return next((_invalid(detail, nowhere).message for detail in wrong), None)
    return None


def from_text(field: SpecField, text: str) -> str | None:
    """What a flag or a variable says; `null` unsets a field that may be unset, as in YAML."""
    return None if text == "null" and "null" in field.types else text


def _from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    """SIDESTEP_TRAIN__LR=1e-4 is train.lr. An empty variable counts as one that is not set."""
    for name, text in sorted(environ.items()):
        ours = name.startswith(ENVIRONMENT_PREFIX) and name not in (CONFIG_VARIABLE, IMAGE_VARIABLE)
        if ours and text and not _SERVICE_LINK.search(name):
            path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            field = spec_fields().get(path)
            yield Given(path, from_text(field, text) if field else text, name)


def _from_yaml(config: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Iterator[Given]:
    origin = ""
    if config is None and environ.get(CONFIG_VARIABLE):
        config, origin = environ[CONFIG_VARIABLE], f" ({CONFIG_VARIABLE})"
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    if config is None:
        return
    try:
        values, lines = read_yaml(config)
    except MissingInputError as error:
        raise MissingInputError(f"{error}{origin}") from None
    yield from _flatten(values, lambda path: f"{os.fspath(config)}:{lines[path]}")


def _from_preset(preset: str | Preset | None) -> Iterator[Given]:
    if preset is None:
        return
    if isinstance(preset, str):
        preset = find_preset(preset)
    yield from _flatten(preset.read(), lambda path: f"preset {preset.name}")


def _flatten(values: Mapping[str, Any], origin: Callable[[Path], str], above: Path = ()) -> Iterator[Given]:
    """Nested values as a list; a section without anything in it (`train:`) gives nothing."""
    for key, value in values.items():
        path = (*above, str(key))
        if path in spec_sections() and (value is None or isinstance(value, Mapping)):
            yield from _flatten(value or {}, origin, path)
        else:
            yield Given(path, value, origin(path))


def _merge(sources: Sequence[Source]) -> dict[str, Any]:
    """The sources' values on top of each other, the first source on top, as pydantic-settings merges."""

    class Merged(BaseSettings, extra="allow"):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *builtin: Any, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(sources)

    return Merged().model_extra or {}


def _unknown(item: Given) -> Problem:
    """A key that the source may not set. Its value is not shown: it may be a secret in the wrong place."""
    name = ".".join(item.path)
    if item.path in spec_fields():
        return Problem(name, "is a job's own: a preset says how to train, not what or where", item.origin)
    if item.path in spec_sections():
        keys = ", ".join(spec_sections()[item.path].model_fields)
        return Problem(name, f"is a section; its keys are {keys}", item.origin)
    is_variable = item.origin.startswith(ENVIRONMENT_PREFIX)
    meant = nearest(item.path, sections=not is_variable)
    if meant is None:
        message = "is not known; `sidestep schema` lists all fields"
    elif is_variable:
        message = f"is not known; did you mean {variable(meant)}?"
    elif name == ".".join(meant):
        message = f"must be nested: {': {'.join(meant)}: …" + "}" * (len(meant) - 1)
    else:
        message = f"is not known; did you mean {'.'.join(meant)}?"
    return Problem(name, message, item.origin)


def _invalid(error: ErrorDetails, origins: Mapping[str, str]) -> Problem:
    """One of pydantic's errors in our words."""
    where = tuple(map(str, error["loc"]))
    path = next(where[:depth] for depth in range(len(where), 0, -1) if where[:depth] in spec_fields())
    field = spec_fields()[path]
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
    elif error["type"] == "string_too_short":
        message = "must not be empty"
    elif error["type"] == "string_pattern_mismatch":
        message = f"does not fit: {field.info.description}"
    elif len(where) > len(path):  # one of a list's or a mapping's
        message = "must be text" if where[-1] == "[key]" else f"must be {field.allowed_inside}"
    else:
        message = f"must be {field.allowed}"
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        message += "; put it in quotes"
    return Problem(".".join(where), message, origins[field.name], error.get("input", NOT_GIVEN))
