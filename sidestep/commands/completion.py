"""`sidestep completion`: a script that completes commands, flags and values in a shell.

shtab writes it from the parsers, so that the shell answers by itself: pressing Tab starts no Python.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import shtab

from sidestep.commands.command import Call, Command
from sidestep.commands.flags import Give
from sidestep.commands.parser import Parser
from sidestep.config.fields import SpecField
from sidestep.runtime.console import write

_FILES = {"config", "file", "output"}  # by argparse's names; all other places are folders
_FOLDERS = {"folder", "place", "adapter"}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell to complete in")


def run(call: Call) -> None:
    """Print the script. The presets in it are those that there are now."""
    options = call.options()
    write(shtab.complete(_root(call.commands), options.shell), exactly=True)


def _root(commands: Mapping[str, Command]) -> Parser:
    """All commands as one parser. It is never asked to parse: its choices are hints."""
    root = Parser(prog="sidestep", description="Trains LoRA and LoKR adapters for ACE-Step 1.5.")
    root.add_argument("--version", action="store_true", help="show the version")
    parsers = root.add_subparsers(metavar="COMMAND")
    for command in commands.values():
        parser = parsers.add_parser(command.name, help=command.help)
        command.add_arguments(parser)
        _add_hints(parser)
    return root


def _add_hints(parser: Parser) -> None:
    actions: list[Any] = parser._actions  # with what shtab reads of them beside argparse's own
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _add_hints(inner)
        elif isinstance(action, Give):
            _hint_at_values(action, action.field)
        elif action in parser.offers:
            action.choices = list(parser.offers[action]())
        elif action.dest in _FILES:
            action.complete = shtab.FILE
        elif action.dest in _FOLDERS:
            action.complete = shtab.DIRECTORY


def _hint_at_values(action: Any, field: SpecField) -> None:
    action.choices = field.choices or None
    if field.is_place:
        action.complete = shtab.FILE if field.path[-1] == "dataset_json" else shtab.DIRECTORY
