"""Writes what is made from the code: docs/cli-reference.md, and the tables of credentials in docs/places.md.

make docs
"""

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sidestep.commands import COMMANDS
from sidestep.commands.command import Command
from sidestep.commands.flags import Give, metavar
from sidestep.config.fields import SpecField, spec_fields, variable
from sidestep.config.groups import GROUPS
from sidestep.platforms.access import is_reached
from sidestep.platforms.render import PLATFORMS
from sidestep.report.readers import LOADS
from sidestep.runtime.errors import OTHERS, ExitCode, Rerun
from sidestep.storage.access import ACCESS, Access, Way

PAGE = Path(__file__).parent / "cli-reference.md"
PLACES = Path(__file__).parent / "places.md"
MADE = re.compile(r"(<!-- credentials, by make docs -->\n).*?(<!-- to here -->)", re.DOTALL)
WIDTH = 118
COMMON = ("--config", "--preset", "--verbose", "--help-all", "--help")  # told once

INTRODUCTION = """\
# CLI reference

This page is made from the code, by `make docs`. On the command line, `sidestep COMMAND --help` shows the
most important flags of a command, and `--help-all` shows them all.

## Commands

Commands that read a job take every [setting](#settings) below as a flag, and also `--config FILE` (the
job's YAML file), `--preset NAME` (see [Presets](presets.md)) and `--verbose`. `export` takes only the
settings of the model and of S3, `status`, `compare` and `publish` only those of S3, and `presets save`
those that a preset may hold.
"""

EXIT_CODES = """\
## Exit codes

The codes follow sysexits.h. A job never ends with 137 or 143 by itself; these mean that a signal killed it.
Each code is in one of three classes, and what is not in the table is counted. [`sidestep render`](places.md)
and the [chart](kubernetes.md) tell schedulers by these classes when to run a job again, as far as the
schedulers can be told; [Places](places.md#after-each-class-of-exit-codes) says what each of them does.

| code | meaning | class, and what the same command does when run again |
|---|---|---|
"""

KINDS = """\
## Kinds of adapters

Which programs compute with an adapter of each kind what was trained. How they load it is in its README.md.

| kind | ACE-Step app | ComfyUI | diffusers |
|---|---|---|---|
"""

SETTINGS = """\
## Settings

Every setting is a key in the YAML file, a flag and an environment variable. If it is given more than once,
the leftmost of these wins:

```
 flags > SIDESTEP_* variables > job.yaml > preset > defaults
```

A switch `--[no-]x` is `--x` or `--no-x` as a flag, and `true` or `false` in a file or variable. Write a list
or mapping as several words after a flag, or as one text with spaces or commas in a variable. A song's name
may have spaces and commas itself: quote it after a flag (`--validation-songs "Night Drive" live-01`), and
write JSON in a variable (`["Night Drive", "live-01"]`, `{"Night Drive": 2}`). In a pair, the last `=` counts.
A place is a path, or a URI such as `s3://bucket/prefix`. Anything that looks like a URI or a template but is
neither (`s3:/x`, `${X}/songs`, `'songs'`) is refused; if a folder really has such a name, write `./NAME` or
`file:///…`. Names of variables are in capitals. Blanks and line ends around their values are ignored.

Flags of the original Side-Step that have no setting here are accepted as well. `--target-mlp` adds gate_proj,
up_proj and down_proj to the target modules. `--num-workers`, `--yes` and the like change nothing, and a
message says so. `--shift` and `--num-inference-steps` are kept in receipt.json, under `inference`, for
whoever generates with the adapter. `--log-dir` is refused with a message that names what to use instead.
"""


def reference() -> str:
    """The whole page."""
    commands = map(_command, COMMANDS.values())
    rows = "".join(f"| {code} | {code.meaning} | {code.rerun.value} |\n" for code in ExitCode)
    kinds = "".join(
        f"| {kind} | {loads.app or 'no'} | {loads.comfyui or 'no'} | {loads.diffusers or 'no'} |\n"
        for kind, loads in LOADS.items()
    )
    others = ", ".join(f"{code} ({meaning})" for code, meaning in OTHERS.items())
    rows += f"| any other | Not Side-Step's own: {others}, … | {Rerun.COUNTED.value} |\n"
    settings = (
        "\n".join([f"### {group.title[0].upper()}{group.title[1:]}\n", *(map(_setting, group.paths))])
        for group in GROUPS
    )
    return "\n".join([INTRODUCTION, *commands, EXIT_CODES + rows, KINDS + kinds, SETTINGS, *settings])


def _command(command: Command) -> str:
    lines = [f"### sidestep {command.name}\n", _wrapped(command.description), *_own_flags(command.parser())]
    return "\n".join(lines) + "\n"


def _own_flags(parser: argparse.ArgumentParser, indent: str = "") -> Iterator[str]:
    """What a command takes besides the settings, and the actions that it has."""
    actions = [
        action
        for action in parser._actions
        if not isinstance(action, Give)
        and action.help != argparse.SUPPRESS
        and not {*action.option_strings} & {*COMMON}
    ]
    if actions and not indent:
        yield ""
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            for chosen in action._choices_actions:
                yield _item(f"`{chosen.dest}`", str(chosen.help), indent)
                yield from _own_flags(action.choices[chosen.dest], indent + "  ")
        else:
            yield _item(f"`{_spelt(action)}`", str(action.help), indent)


def _spelt(action: argparse.Action) -> str:
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    if not action.option_strings:
        return f"[{value}]" if action.nargs == "?" else str(value)
    return f"{', '.join(action.option_strings)} {value}".rstrip()


def _setting(path: tuple[str, ...]) -> str:
    field = spec_fields()[path]
    value = "" if "boolean" in field.types else f" {metavar(field)}"
    switch = "[no-]" if "boolean" in field.types else ""
    flags = ", ".join(f"`{flag.replace('--', f'--{switch}', 1)}{value}`" for flag in field.flags)
    facts = [flags, f"`{variable(path)}`", _allowed(field)]
    words = {"on": "true", "off": "false"} if "boolean" in field.types else {}
    if default := words.get(field.default, field.default):
        facts.append(f"default `{default}`")
    return (
        f"{_item(f'**`{field.name}`**', str(field.info.description))}\n{_wrapped(' · '.join(facts), '  ')}\n"
    )


def _allowed(field: SpecField) -> str:
    """The kind of value with its range and unit, without the null of those that may be left open."""
    said = "a place" if field.is_place else field.allowed_but_null
    return f"{said} ({field.unit})" if field.unit else said


def _item(term: str, meaning: str, indent: str = "") -> str:
    return _wrapped(f"- {term}: {meaning.replace('<', chr(92) + '<')}", indent, indent + "  ")


def _wrapped(text: str, indent: str = "", further: str | None = None) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_long_words=False,
        break_on_hyphens=False,
    )


def places() -> str:
    """docs/places.md with its tables of credentials as they are now."""
    text, count = MADE.subn(lambda found: found[1] + _credentials() + found[2], PLACES.read_text())
    assert count == 1, "the page has one place for them"
    return text


def _credentials() -> str:
    """What each kind of place is reached with, and how that comes to a job on each platform."""
    rows = [
        "| place | reached with | also passed on from a shell that has them | where |",
        "|---|---|---|---|",
    ]
    for scheme, access in ACCESS.items():
        there = [name for name, platform in PLATFORMS.items() if is_reached(scheme, platform)]
        where = (
            "everywhere"
            if len(there) == len(PLATFORMS)
            else ", ".join(there) or "nowhere: it is gone with its process"
        )
        named = "a path, `file://`" if scheme == "file" else f"`{scheme}://`"
        beside = ", ".join(f"`{name}`" for name in (*access.instead, *access.beside))
        rows.append(f"| {named} | {_reached_with(access)} | {beside} | {where} |")
    rows += ["", f"| platform | {' | '.join(Way)} |", "|---|---|---|---|"]
    for name, platform in PLATFORMS.items():
        rows.append(f"| {name} | {' | '.join(platform.brings.get(way, 'no') for way in Way)} |")
    return "\n" + "\n".join(rows) + "\n\n"


def _reached_with(access: Access) -> str:
    ways = [
        " and ".join(f"`{name}`" for name in access.variables),
        access.file and f"a key's file, by `{access.file}`",
        access.cloud and f"the machine's own identity on {access.cloud}",
    ]
    said = ", or ".join(filter(None, ways)) or "nothing"
    return said if access.is_needed else f"{said}; nothing where all is public"


if __name__ == "__main__":
    PAGE.write_text(reference())
    PLACES.write_text(places())
