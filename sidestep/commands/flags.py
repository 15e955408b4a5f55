"""The command line's flags, made from the schema: one flag per field, in the groups of `groups.py`."""

import argparse
from collections.abc import Collection, Sequence
from typing import Any

from sidestep.config.fields import CLOSE_ENOUGH, FieldPath, SpecField, nearest_field, spec_fields
from sidestep.config.groups import GROUPS, TASKS
from sidestep.config.problems import Problem
from sidestep.config.sources import Given, from_text
from sidestep.runtime.words import nearest_word

MODEL: tuple[FieldPath, ...] = (("checkpoint_dir",), ("model_variant",), ("base_model",), ("dataset_dir",))
"""What a command on an output takes from that output's own job.yaml, where nothing else says it."""
RUNS_IT = {"workspace", "device", "precision", "attention", "deterministic"}


def add_flags(
    parser: argparse.ArgumentParser, leave_out: Collection[FieldPath] = (), about: Collection[str] = TASKS
) -> None:
    """Give the parser a flag for every field of the spec but those in `leave_out`.

    What is written is collected in the namespace's `given`, a list of `Given`. Nothing is converted or
    checked here: the schema does that for all sources alike. Basic are the flags of the tasks `about`.
    """
    for group in GROUPS:
        shown = parser.add_argument_group(group.title)
        for path in group.paths:
            if path in leave_out:
                continue
            field = spec_fields()[path]
            action = shown.add_argument(
                *flags_of(field),
                action=Give,
                field=field,
                nargs=0 if _is_switch(field) else "+" if field.types & {"array", "object"} else None,
                metavar=metavar(field),
                help=_help(field).replace("%", "%%"),
            )
            assert isinstance(action, Give)
            action.is_advanced = field.name not in group.basic or not {*group.tasks} & {*about}


def add_flags_of_model(parser: argparse.ArgumentParser) -> None:
    """Give the parser those of a command that runs a model and trains nothing."""
    add_flags(
        parser,
        leave_out=[
            path
            for path in spec_fields()
            if path not in MODEL
            and path[0] != "storage"
            and not (path[0] == "runtime" and len(path) > 1 and path[1] in RUNS_IT)
        ],
    )


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
        self.is_advanced = False  # left out of the short help

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


def flags_of(field: SpecField) -> list[str]:
    """All spellings, with `--no-…` of a switch."""
    off = [flag.replace("--", "--no-", 1) for flag in field.flags] if _is_switch(field) else []
    return [*field.flags, *off]


def _did_you_mean(flag: str, known: Sequence[str]) -> str:
    elsewhere = [field for field in spec_fields().values() if flag in flags_of(field)]
    if elsewhere:
        return f"cannot be set here: this command decides {elsewhere[0].name} (`sidestep run` takes the flag)"
    close = nearest_word(flag.replace("_", "-"), known, CLOSE_ENOUGH)
    if not close and (meant := nearest_field(tuple(flag.lstrip("-").replace("-", "_").split(".")))):
        close = spec_fields()[meant].flags[0]
    return f"is not known; did you mean {close}?" if close else "is not known; --help lists all flags"


def metavar(field: SpecField) -> str:
    """What stands behind the flag in help: the choices, the unit, or else the kind of value."""
    if (choices := field.choices) and len(words := "{" + ",".join(choices) + "}") <= _NARROW:
        return words
    if field.unit:
        return field.unit.upper()
    for kind, name in (("integer", "N"), ("number", "X"), ("array", "NAME"), ("object", "NAME=N")):
        if kind in field.types:
            return name
    return "PLACE" if field.is_place else "NAME" if choices else field.path[-1].rpartition("_")[2].upper()


_NARROW = 30  # columns: longer lists of choices stand in the text


def _help(field: SpecField) -> str:
    """Description, then range and default: "(more than 0, at most 600; default 240)"."""
    description = str(field.info.description)
    choices = [] if all(word in description + metavar(field) for word in field.choices) else field.choices
    default = f"default {field.default}" if field.default else ""
    notes = "; ".join(filter(None, [", ".join(choices), field.limits, default]))
    return f"{description} ({notes})" if notes else description
