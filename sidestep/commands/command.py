"""What a command is: a row of the table, and a call of it with what was typed."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from sidestep.commands.parser import Parser


class Command(NamedTuple):
    """One row of the table.

    `module` is imported when the command is used. It has `add_arguments(parser: Parser) -> None`, and
    `run(call: Call) -> None`, which raises a SideStepError where the command fails.
    """

    name: str
    group: str  # the heading of the help that it stands under
    help: str  # one line, without a capital and a full stop
    module: str

    @property
    def is_announced(self) -> bool:
        """Whether its name and version are shown first: not where its answer comes at once."""
        return self.name not in ("wizard", "render", "status", "presets", "schema", "completion")

    @property
    def goes_on(self) -> bool:
        """Whether the same command goes on where it was interrupted, from what it has saved."""
        tasks = ("run", "preprocess", "estimate", "train", "fixed", "vanilla")
        return self.name in (*tasks, "launch", "demo")

    @property
    def description(self) -> str:
        """The help line as a sentence."""
        return f"{self.help[0].upper()}{self.help[1:]}."

    def parser(self) -> Parser:
        """The command's parser, with everything that it takes."""
        parser = Parser(prog=f"sidestep {self.name}", description=self.description)
        self.add_arguments(parser)
        return parser

    def add_arguments(self, parser: Parser) -> None:
        """Give `parser`, whose prog is `sidestep <name>`, everything that the command takes."""
        self._imported().add_arguments(parser)

    def run(self, call: "Call") -> None:
        self._imported().run(call)

    def _imported(self) -> Any:
        return import_module(self.module)


class Call(NamedTuple):
    """A command's parser and the words after its name, and what some commands need of the tool itself."""

    parser: Parser
    words: list[str]
    commands: Mapping[str, Command]  # the whole table
    main: Callable[[Sequence[str]], int]  # runs another command, and returns its exit code
    is_process: bool = True  # whether the process ends with it: not where the wizard has called it

    def options(self) -> argparse.Namespace:
        """The words, parsed. Raises UsageError for those that the command does not take."""
        return self.parser.parse_args(self.words)
