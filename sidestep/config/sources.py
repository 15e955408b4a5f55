"""Where a spec's values come from: a function for each source, which gives every value with its origin.

`config.job` says which source lies on top of which.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from sidestep.config.fields import ENVIRONMENT_PREFIX, FieldPath, SpecField, spec_fields, spec_sections
from sidestep.config.presets import Preset, find_preset
from sidestep.config.problems import Problem, unknown_key
from sidestep.config.yaml12 import read_yaml
from sidestep.runtime.environment import CONFIG_VARIABLE, DEFAULT_CONFIG, tidy_environment
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.words import nested

IMAGE_VARIABLE = "SIDESTEP_IMAGE"  # for `sidestep render`: what runs a job is no part of its spec

# Kubernetes gives every pod variables for each service of its namespace. A service called `sidestep` or
# `sidestep-tensorboard` must not stop the job. A setting may end as they do: runtime.metrics_port.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


class FileLine(str):
    """The origin of what the spec's own file says, `job.yaml:3`; `file` is its name."""

    file: str

    def __new__(cls, file: str, line: int) -> Self:
        origin = super().__new__(cls, f"{file}:{line}")
        origin.file = file
        return origin


@dataclass(frozen=True)
class Given:
    """One value as a source gives it, and where: a flag, a variable's name, a file and line."""

    path: FieldPath
    value: Any
    origin: str


class Source(PydanticBaseSettingsSource):
    """One source for pydantic-settings: its values by path, and a problem for each key that it may not set.

    `fields` are those that it may set, by default all. Called, it gives {"spec": its values, nested}.
    """

    def __init__(self, given: Iterable[Given], fields: Collection[FieldPath] | None = None) -> None:
        super().__init__(BaseSettings)
        known = spec_fields() if fields is None else fields
        self.given: dict[FieldPath, Given] = {}
        self.problems: list[Problem] = []
        for item in given:
            if item.path in known:
                self.given[item.path] = item
            else:
                self.problems.append(unknown_key(item.path, item.origin))

    def __call__(self) -> dict[str, Any]:
        return {"spec": nested({path: item.value for path, item in self.given.items()})}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("`__call__` gives all fields at once")


def from_text(field: SpecField, text: str) -> str | None:
    """What a flag or a variable says; `null` unsets a field that may be unset, as in YAML."""
    return None if text == "null" and "null" in field.types else text


def from_arguments(values: Mapping[str, Any]) -> Iterator[Given]:
    """What a caller in Python says, nested as the spec is; the origin is "argument"."""
    return _flatten(values, lambda path: "argument")


def tidied(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    """`environ` without blanks and line ends around values; os.environ itself, where None is given."""
    variables: MutableMapping[str, str] = os.environ if environ is None else dict(environ)
    tidy_environment(variables)
    return variables


def from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    """SIDESTEP_TRAIN__LR=1e-4 is train.lr. Empty variables are gone already: they count as not set.

    `sidestep_train__lr` is refused under its whole name: on Linux it is another variable.
    """
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(ENVIRONMENT_PREFIX) or name in (CONFIG_VARIABLE, IMAGE_VARIABLE):
            continue
        path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        field = spec_fields().get(path)
        if field is None and _SERVICE_LINK.search(name):
            continue
        if not name.startswith(ENVIRONMENT_PREFIX):
            yield Given((name,), text, name)
        else:
            yield Given(path, from_text(field, text) if field else text, name)


def from_yaml(config: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Iterator[Given]:
    """What the spec's file says, with its lines: `config`, else SIDESTEP_CONFIG, else /etc/sidestep/job.yaml.

    Raises MissingInputError where the file that is named is not there, and what `read_yaml` raises.
    """
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
    yield from _flatten(values, lambda path: FileLine(os.fspath(config), lines[path]))


def from_preset(preset: str | Preset | None) -> Iterator[Given]:
    """What a preset says, given itself or by its name. Raises UsageError where there is none of that name."""
    if preset is None:
        return
    if isinstance(preset, str):
        preset = find_preset(preset)
    yield from _flatten(preset.read(), lambda path: f"preset {preset.name}")


def _flatten(
    values: Mapping[str, Any], origin: Callable[[FieldPath], str], above: FieldPath = ()
) -> Iterator[Given]:
    """Nested values as a list; a section without anything in it (`train:`) gives nothing."""
    for key, value in values.items():
        path = (*above, str(key))
        if path in spec_sections() and (value is None or isinstance(value, Mapping)):
            yield from _flatten(value or {}, origin, path)
        else:
            yield Given(path, value, origin(path))
