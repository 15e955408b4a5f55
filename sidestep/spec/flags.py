"""The command line's flags, made from the schema: one flag per field, grouped by section."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from typing import Any

from sidestep.spec.fields import CLOSE_ENOUGH, Path, SpecField, nearest, spec_fields, spec_sections
from sidestep.spec.report import Problem
from sidestep.spec.sources import Given, from_text


def add_flags(parser: argparse.ArgumentParser, leave_out: Collection[Path] = ()) -> list[str]:
    """Give the parser a flag for every field of the spec but those in `leave_out`; returns the flags.

    What is written is collected in the namespace's `given`, a list of `Given`. Nothing is converted or
    checked here: the schema does that for all sources alike.
    """
    taken: list[str] = []
    groups: dict[Path, Any] = {}
    for path, field in spec_fields().items():
        if path in leave_out:
            continue
        options = _options(field)
        assert not set(options) & set(taken), f"{field.name}: {options} are not all its own"
        taken += options
        section = path[:-1]
        if section not in groups:
            title = ".".join(section) or "job"
            groups[section] = parser.add_argument_group(title, spec_sections()[section].__doc__)
        groups[section].add_argument(
            *options,
            action=Give,
            field=field,
            nargs=0 if _is_switch(field) else "+" if field.types & {"array", "object"} else None,
            metavar=_metavar(field),
            help=_help(field).replace("%", "%%"),
        )
    return taken


def misspelt_flags(rest: Sequence[str], known: Sequence[str]) -> list[Problem]:
    """A problem for each unknown flag in what argparse left over, with the known one that is nearest.

    The words after an unknown flag are its values, and like them not shown: they may be secrets.
    """
    problems = []
    behind_flag = False
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            problems.append(Problem(flag, _did_you_mean(flag, known), "command line"))
            behind_flag = True
        elif not behind_flag:
            hint = f"; a spec file is given as --config {word}" if word.endswith((".yaml", ".yml")) else ""
            problems.append(Problem(repr(word), f"belongs to no flag{hint}", "command line"))
    return problems


class Give(argparse.Action):
    """Collects a value, with the flag as it was written for its origin. The last one counts."""

    def __init__(self, field: SpecField, **options: Any) -> None:
        super().__init__(**{**options, "dest": "given", "default": argparse.SUPPRESS})
        self.field = field

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert option_string is not None
        value: Any = values
        if self.nargs == 0:
            value = option_string in self.field.flags
        elif isinstance(values, str):
            value = from_text(self.field, values)
        given: list[Given] = getattr(namespace, "given", [])
        for other in given:
            if other.path == self.field.path and other.origin != option_string and other.value != value:
                raise argparse.ArgumentError(self, f"says something else than {other.origin}, the same field")
        namespace.given = [*given, Given(self.field.path, value, option_string)]


def _is_switch(field: SpecField) -> bool:
    return "boolean" in field.types


def _options(field: SpecField) -> list[str]:
    off = [flag.replace("--", "--no-", 1) for flag in field.flags] if _is_switch(field) else []
    return [*field.flags, *off]


def _did_you_mean(flag: str, known: Sequence[str]) -> str:
    elsewhere = [field for field in spec_fields().values() if flag in _options(field)]
    if elsewhere:
        return f"cannot be set here: this command decides {elsewhere[0].name} (`sidestep run` takes the flag)"
    close = difflib.get_close_matches(flag.replace("_", "-").lower(), known, n=1, cutoff=CLOSE_ENOUGH)
    if not close and (meant := nearest(tuple(flag.lstrip("-").replace("-", "_").split(".")))):
        close = spec_fields()[meant].flags
    return f"is not known; did you mean {close[0]}?" if close else "is not known; --help lists all flags"


def _metavar(field: SpecField) -> str:
    if choices := field.choices:
        return "{" + ",".join(choices) + "}"
    for kind, metavar in (("integer", "N"), ("number", "X"), ("array", "NAME"), ("object", "NAME=N")):
        if kind in field.types:
            return metavar
    return "PLACE" if field.is_place else field.path[-1].upper()


def _help(field: SpecField) -> str:
    """Description, then range and default: "(a number, more than 0, at most 10; default 0.0001)"."""
    default = field.info.get_default(call_default_factory=True)
    notes = [field.allowed] if field.types & {"integer", "number"} else []
    if isinstance(default, tuple):
        notes.append(f"default {' '.join(default)}")
    elif isinstance(default, bool):
        notes.append(f"default {'on' if default else 'off'}")
    elif default not in (None, {}):
        notes.append(f"default {default}")
    return f"{field.info.description}" + (f" ({'; '.join(notes)})" if notes else "")
