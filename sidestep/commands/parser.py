"""argparse as this command uses it: our exit code for a wrong line, and help in two lengths."""

import argparse
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from sidestep.runtime.console import write
from sidestep.runtime.errors import UsageError

WIDTH = 80, 100  # columns of help: on a narrow terminal or none, and at most
HELP_ALL = "--help-all"


class Formatter(argparse.HelpFormatter):
    """Spellings as `--rank, --lokr-linear-dim N` and `--[no-]extend`, to lines that a terminal holds."""

    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size((WIDTH[0], 24)).columns
        super().__init__(prog, max_help_position=26, width=min(max(columns, WIDTH[0]), WIDTH[1]) - 2)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spelt = ", ".join(_spellings(action.option_strings))
        return spelt if action.nargs == 0 else f"{spelt} {self._format_args(action, action.dest.upper())}"


class Parser(argparse.ArgumentParser):
    """No guessing at shortened flags; and with `add_help_all`, `--help` shows the basic flags alone.

    An action whose attribute `is_advanced` is true is left out of the short help.

    Attributes:
        offers: words that completion in a shell offers for an action. Unlike its choices they are no rule,
            and nobody looks for them before they are asked for.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **{"formatter_class": Formatter, **options, "allow_abbrev": False, "add_help": False}
        )
        self.offers: dict[argparse.Action, Callable[[], Iterable[str]]] = {}
        self.add_argument("-h", "--help", action="help", help="show this help")

    def add_help_all(self) -> None:
        self.add_argument(HELP_ALL, action=_HelpAll, nargs=0, help="show every flag")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n  `{self.prog} --help` lists the flags")

    def print_help(self, file: Any = None) -> None:
        write(self.format_help())

    def format_help(self) -> str:
        return self._format(everything=HELP_ALL not in self.flags)

    def format_help_all(self) -> str:
        """The help with the advanced flags."""
        return self._format(everything=True)

    @property
    def command(self) -> str:
        """The command's name: the second word of `prog`."""
        return self.prog.split()[1]

    @property
    def flags(self) -> list[str]:
        """All that it takes, in every spelling."""
        return list(self._option_string_actions)

    def _format(self, everything: bool) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        left_out = 0
        for group in self._action_groups:
            actions = [a for a in group._group_actions if everything or not getattr(a, "is_advanced", False)]
            left_out += len(group._group_actions) - len(actions)
            if actions:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(actions)
                formatter.end_section()
        if left_out:
            formatter.add_text(f"{left_out} more settings, with good defaults: `{self.prog} {HELP_ALL}`.")
        return formatter.format_help()


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        write(parser.format_help_all())
        parser.exit()


def _spellings(flags: Sequence[str]) -> list[str]:
    """`--x` and `--no-x` as one, `--[no-]x`."""
    off = {flag.replace("--", "--no-", 1): flag for flag in flags if flag.startswith("--")}
    both = {off[flag] for flag in flags if flag in off}
    return [
        flag.replace("--", "--[no-]", 1) if flag in both else flag
        for flag in flags
        if off.get(flag) not in both
    ]


def text(given: str) -> str:
    """For `type=`: what is read as text. Bytes that are not UTF-8 come as half surrogate pairs."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{given!r} is no text in UTF-8") from None
    return given


def whole(least: int, most: int) -> Callable[[str], int]:
    """For `type=`: a whole number of these two or between them."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """For `type=`: a number of these two or between them."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return read


def numbers(least: float, most: float) -> Callable[[str], list[float]]:
    """For `type=`: one such number or more, with commas between them."""

    def read(text: str) -> list[float]:
        try:
            found = [float(word) for word in text.split(",")]
        except ValueError:
            found = []
        if not found or not all(least <= each <= most for each in found):
            raise argparse.ArgumentTypeError(
                f"{text!r}: numbers from {least:g} to {most:g} are allowed, as in 0,0.5,1"
            )
        return found

    return read
