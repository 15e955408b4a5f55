"""What the commands that read a job's spec share: their flags, and the spec that all sources make."""

import argparse
import logging
from collections.abc import Collection, Mapping
from typing import Any

from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags, misspelt_flags
from sidestep.commands.parser import Parser
from sidestep.commands.upstream import add_upstream_flags, upstream_flags
from sidestep.config.fields import FieldPath
from sidestep.config.groups import TASKS
from sidestep.config.job import JobSpec, resolve
from sidestep.config.presets import all_presets
from sidestep.config.resolved import digest
from sidestep.config.sources import Given
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.logs import setup_logging

log = logging.getLogger(__name__)


def add_job_flags(
    parser: Parser, usage: str, says: Collection[FieldPath] = (), about: Collection[str] = TASKS
) -> None:
    """Give the parser the job's file, a preset, and a flag for each field but those in `says`.

    Args:
        usage: what stands behind the command in the help's first line.
        says: the fields that the command itself decides.
        about: the tasks whose basic flags the short help shows.
    """
    parser.usage = f"{parser.prog} {usage}"
    parser.add_help_all()
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the job spec, a YAML file (default: SIDESTEP_CONFIG, or /etc/sidestep/job.yaml)",
    )
    preset = parser.add_argument(
        "--preset", metavar="NAME", help="named settings, which all others override (`sidestep presets list`)"
    )
    parser.offers[preset] = all_presets
    parser.add_argument("--verbose", action="store_true", help="show all that goes into the log file")
    add_flags(parser, leave_out=says, about=about)
    add_upstream_flags(parser)


def _is_alone(rest: list[str]) -> bool:
    """Whether the first of the words that belong to no flag is one, and the only one: those are misspelt."""
    return not rest[0].startswith("-") and all(word.startswith("-") for word in rest[1:])


def read_job(
    call: Call, says: Mapping[FieldPath, Any] | None = None, *, needs_places: bool = True
) -> tuple[argparse.Namespace, JobSpec, dict[str, str]]:
    """The command's options, the job's spec from all sources, and the origin of each value by its name.

    `says` is what the command itself says of the spec, by path. A single word without a flag is the spec's
    file. `needs_places` is off where no task is run and none is looked at.
    """
    options, rest = call.parser.parse_known_args(call.words)
    setup_logging(options.verbose)
    if options.config is None and rest and _is_alone(rest):
        options.config = rest.pop(0)
    given: list[Given] = getattr(options, "given", [])
    more, problems = upstream_flags(options, given)
    spec, origins = resolve(
        flags=[
            *given,
            *more,
            *(Given(path, value, call.parser.prog) for path, value in (says or {}).items()),
        ],
        config=options.config,
        preset=options.preset,
        usage=misspelt_flags(rest, call.parser.flags),
        refused=problems,
        needs_places=needs_places,
    )
    for name, origin in origins.items():
        if origin != "default":
            log.debug("%s is from %s", name, origin)
    log.debug("The resolved spec's digest is %s", digest(spec))
    return options, spec, origins


def refuse_many(call: Call, spec: JobSpec) -> None:
    """Raise BadSpecError where a command that trains one adapter is given the spec of many."""
    if spec.is_sweep:
        raise BadSpecError(
            f"sweep: `{call.parser.prog}` trains one adapter, and the spec stands for many\n"
            "  `sidestep run` trains them all, or, with task train, on tensors that are there; --sweep '{}' "
            "takes the spec without its sweep: give one value of each swept setting with it"
        )
