"""Writes the page that is made from the code: docs/cli-reference.md.

make docs
"""

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sidestep.commands import COMMANDS
from sidestep.commands.command import Command
from sidestep.commands.flags import Give, metavar
from sidestep.config.fields import SpecField, spec_fields, variable
from sidestep.config.groups import GROUPS
from sidestep.runtime.errors import ExitCode

PAGE = Path(__file__).parent / "cli-reference.md"
WIDTH = 118
COMMON = ("--config", "--preset", "--verbose", "--help-all", "--help")  # told once

INTRODUCTION = """\
# CLI reference

Made from the job spec's schema and the commands' parsers by `make docs`. `sidestep COMMAND --help` shows
the basic flags of a command, `--help-all` all of them.

## Commands

Commands that read a job take every setting below as a flag, and with them `--config FILE` (the job's YAML
file), `--preset NAME` ([Presets](presets.md)) and `--verbose`. Of the settings, `export` takes those of the
model and of S3, `status` and `publish` those of S3, and `presets save` those that a preset may hold.
"""

EXIT_CODES = """\
## Exit codes

They follow sysexits.h; 137 and 143 (killed by a signal) are never a job's own. [render](places.md) and the
[chart](kubernetes.md) tell schedulers after which of them to run a job again.

| code | why | the same command again |
|---|---|---|
"""

SETTINGS = """\
## Settings

Each is a key of the YAML file, a flag and an environment variable. What is said twice counts in this order:

```
 flags > SIDESTEP_* variables > job.yaml > preset > defaults
```

A switch `--[no-]x` is `--x` or `--no-x`, and `true` or `false` in a file or variable. A list or mapping is
several words after a flag, and one text with spaces in a variable. A place is a path, or a URI such as
`s3://bucket/prefix`. What looks like a URI or a template and is none (`s3:/x`, `${X}/songs`, `'songs'`) is
refused; a folder that is really called so is written `./NAME` or `file:///…`. Blanks and line ends around a
variable's value are left out; its name is written in capitals.

Flags of the original Side-Step that are no settings here are taken, too: `--target-mlp` adds gate_proj,
up_proj and down_proj to the target modules; `--num-workers`, `--yes` and the like change nothing, which is
said; `--shift` and `--num-inference-steps` are kept in receipt.json, under `inference`, for who generates;
`--log-dir`, and a `--batch-size` above 1, are refused with what stands for them.
"""


def reference() -> str:
    """The whole page."""
    commands = map(_command, COMMANDS.values())
    rows = "".join(f"| {code} | {code.meaning} | {code.rerun.value} |\n" for code in ExitCode)
    settings = (
        "\n".join([f"### {group.title[0].upper()}{group.title[1:]}\n", *(map(_setting, group.paths))])
        for group in GROUPS
    )
    return "\n".join([INTRODUCTION, *commands, EXIT_CODES + rows, SETTINGS, *settings])


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
    if default := {"on": "true", "off": "false"}.get(field.default, field.default):
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


if __name__ == "__main__":
    PAGE.write_text(reference())
