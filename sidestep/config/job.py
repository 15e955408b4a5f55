"""A job's spec, and how it is put together from its sources.

    flags and arguments > SIDESTEP_ variables > the YAML file > a preset > defaults

The fields are in `config.schema`, which flags, presets and sources read; everything else imports JobSpec.
"""

import os
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, ValidationError
from pydantic_settings import BaseSettings

from sidestep.config.fields import FieldPath, spec_fields
from sidestep.config.needs import missing_places
from sidestep.config.presets import Preset, preset_fields
from sidestep.config.problems import Problem, invalid_values, report
from sidestep.config.schema import JobFields
from sidestep.config.shards import shard_problems
from sidestep.config.sources import (
    Given,
    Source,
    from_arguments,
    from_environment,
    from_preset,
    from_yaml,
    tidied,
)
from sidestep.config.sweep import expanded
from sidestep.runtime.errors import BadSpecError, UsageError
from sidestep.runtime.words import set_at


class JobSpec(JobFields):
    """One job: what to do, with which model, from where to where."""

    model_config = ConfigDict(title="Side-Step job spec")

    @staticmethod
    def load(
        path: str | os.PathLike[str] | None = None, *, preset: str | None = None, **overrides: Any
    ) -> "JobSpec":
        """The spec in the file `path`, under SIDESTEP_ variables, under `overrides`; over a preset.

        Without a path the file is found as the command finds it: SIDESTEP_CONFIG, else
        /etc/sidestep/job.yaml where there is one. `overrides` are nested as the spec is:

            JobSpec.load("job.yaml", train={"epochs": 2})

        Raises BadSpecError with all problems at once, MissingInputError when there is no such file.
        """
        spec, _ = resolve(config=path, arguments=overrides, preset=preset)
        return spec

    def changed(self, values: Mapping[str, Any]) -> "JobSpec":
        """The same job with other `values`, by dotted names. Raises a ValidationError where one is wrong."""
        plain = self.model_dump()
        for name, value in values.items():
            set_at(plain, name.split("."), value)
        return JobSpec.model_validate(plain)


def resolve(
    flags: Iterable[Given] = (),
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
    preset: str | Preset | None = None,
    usage: Sequence[Problem] = (),
    refused: Sequence[Problem] = (),
    *,
    needs_places: bool = True,
) -> tuple[JobSpec, dict[str, str]]:
    """The spec that all sources make together, and the origin of each value by its dotted name.

    `flags` come from the command line, `arguments` (nested) from Python; `environ` is os.environ unless
    given; `config` is the YAML file, else it is found through SIDESTEP_CONFIG or at /etc/sidestep/job.yaml;
    `preset` is one or its name. A value that nobody gave has the origin "default".
    `usage` are problems of the command line itself, `refused` those of what it asks for, to be reported with
    all others. With `needs_places` off,
    the spec may lack places that its task needs: where the task is not run.

    Raises BadSpecError with every problem of every source, or UsageError with them where `usage` has some;
    MissingInputError when the file is not there; UsageError for a preset that is not known.
    """
    environ = tidied(environ)
    sources = (
        Source(flags),
        Source(from_arguments(arguments or {})),
        Source(from_environment(environ)),
        Source(from_yaml(config, environ)),
        Source(from_preset(preset), preset_fields()),
    )
    given = ChainMap(*(source.given for source in sources))  # the first source that has it says it
    origins = {path: given[path].origin if path in given else "default" for path in spec_fields()}
    problems = [*usage, *refused, *(problem for source in sources for problem in source.problems)]
    try:
        spec = _Settings(_build_sources=(sources, {})).spec
        problems += expanded(spec, origins["sweep",])[1]
        if needs_places:
            problems += shard_problems(spec, {".".join(path): origin for path, origin in origins.items()})
    except ValidationError as error:
        problems += invalid_values(error, origins)
    if needs_places:
        problems += missing_places({path[0]: item.value for path, item in given.items() if len(path) == 1})
    if problems:
        raise (UsageError if usage else BadSpecError)(report(problems))
    return spec, {".".join(path): origin for path, origin in origins.items()}


def problem_with(given: Iterable[Given], path: FieldPath) -> str | None:
    """What is wrong with the field at `path` beside the others that are given; None where it is fine."""
    try:
        _Settings(_build_sources=((Source(given),), {}))
    except ValidationError as error:
        problems = invalid_values(error, dict.fromkeys(spec_fields(), ""))
        name = ".".join(path) + "."
        return next((problem.message for problem in problems if f"{problem.field}.".startswith(name)), None)
    return None


class _Settings(BaseSettings, hide_input_in_errors=True):
    """Where pydantic-settings lays the sources over each other and checks what comes out.

    The sources are ours, handed in and read already. Its own ones could not say all that is wrong, and where
    it was written: they skip a variable whose name they do not know, read YAML 1.1 without line numbers, and
    keep no origin of a value.
    """

    spec: JobSpec
