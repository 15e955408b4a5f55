"""The command `sidestep completion`: a script that completes commands, flags and values in a shell.

shtab writes it from the parsers, so that the shell answers by itself: pressing Tab starts no Python.
"""

import argparse
from typing import Any

import shtab

from sidestep.commands import COMMANDS, fill
from sidestep.commands.flags import Give
from sidestep.commands.parser import Parser
from sidestep.config.fields import SpecField
from sidestep.config.presets import all_presets
from sidestep.platforms.render import PLACES

_FILES = {"config", "file", "output"}  # by argparse's names; all other places are folders
_FOLDERS = {"folder", "place", "adapter"}


def completion(shell: str) -> str:
    """The script for `shell`, bash or zsh. Presets are those that there are now."""
    return shtab.complete(_root(), shell)


def _root() -> Parser:
    """All commands as one parser. It is never asked to parse: its choices are hints."""
    root = Parser(prog="sidestep", description="Trains LoRA and LoKR adapters for ACE-Step 1.5.")
    root.add_argument("--version", action="store_true", help="show the version")
    commands = root.add_subparsers(metavar="COMMAND")
    for name, says in COMMANDS.items():
        parser = commands.add_parser(name, help=says)
        fill(parser, name)
        _add_hints(parser)
    return root


def _add_hints(parser: argparse.ArgumentParser) -> None:
    actions: list[Any] = parser._actions  # with what shtab reads of them beside argparse's own
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _add_hints(inner)
        elif isinstance(action, Give):
            _hint_at_values(action, action.field)
        elif action.dest == "preset" or (action.dest == "name" and "presets" in parser.prog):
            action.choices = list(all_presets())
        elif action.dest == "place" and "render" in parser.prog:
            action.choices = list(PLACES)
        elif action.dest in _FILES:
            action.complete = shtab.FILE
        elif action.dest in _FOLDERS:
            action.complete = shtab.DIRECTORY


def _hint_at_values(action: Any, field: SpecField) -> None:
    action.choices = field.choices or None
    if field.is_place:
        action.complete = shtab.FILE if field.path[-1] == "dataset_json" else shtab.DIRECTORY
