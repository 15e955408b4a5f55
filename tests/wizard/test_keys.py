"""The keys that lead back, out, or to the menu; and what a terminal must be able to show."""

import re
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from sidestep.runtime.errors import ExitCode

from .answers import MENU, to_rank
from .terminal import CONTROL_C, ESCAPE, Terminal


@pytest.mark.parametrize("keys", [ESCAPE, "b\r"])
def test_back_keeps_what_was_answered(terminal: Terminal, keys: str) -> None:
    to_rank(terminal)
    terminal.answer("Rank:", "8")
    terminal.wait(lambda: "Epochs:" in terminal.line, "epochs")
    terminal.process.send(keys)
    terminal.wait(lambda: "Rank: [8]" in terminal.line, "rank again")
    terminal.process.send(keys)
    terminal.wait(lambda: "Questions: [basic]" in terminal.line, "a picker")
    terminal.process.send(keys)
    terminal.wait(lambda: "Preset: [none]" in terminal.line, "the picker before")


def test_back_from_the_first_question_is_the_menu_and_from_there_the_end(terminal: Terminal) -> None:
    terminal.answer(MENU, "train")
    terminal.answer("Adapter:", "b")
    terminal.answer(MENU, "b")
    assert terminal.end() == 0


def test_what_is_not_allowed_is_said_while_it_is_typed(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.wait(lambda: "Rank:" in terminal.line, "rank")
    terminal.process.send("0")
    terminal.see("must be a whole number, at least 1, at most 4096")
    terminal.process.send("\x7f4\r")
    terminal.answer("Epochs:")


def test_a_picker_takes_nothing_that_is_not_there(terminal: Terminal) -> None:
    terminal.wait(lambda: MENU in terminal.line, "the menu")
    terminal.process.send("zzz")
    terminal.see("none of them is like zzz")


def test_control_c_leads_to_the_menu_then_out_and_the_terminal_is_as_before(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.wait(lambda: "Rank:" in terminal.line, "rank")
    terminal.process.send(CONTROL_C)
    terminal.wait(lambda: MENU in terminal.line, "the menu")
    terminal.process.send(CONTROL_C)
    assert terminal.end() == 0
    assert not Path("out").exists()
    assert terminal.raw.rfind("\x1b[?2004l") > terminal.raw.rfind(
        "\x1b[?2004h"
    )  # bracketed paste is off again


@pytest.mark.parametrize("question", ["the menu", "a flow"])
def test_notice_ends_it_and_the_terminal_is_as_before(terminal: Terminal, question: str) -> None:
    if question == "a flow":
        terminal.answer(MENU, "train")
        terminal.wait(lambda: "Adapter:" in terminal.line, "the type")
    terminal.wait(lambda: "]" in terminal.line, "a question")
    terminal.wait(lambda: not modes(terminal) & termios.ICANON, "a terminal that sends each key")
    terminal.process.kill(signal.SIGTERM)
    assert terminal.end() == 75
    assert modes(terminal) & termios.ICANON
    assert modes(terminal) & termios.ECHO
    assert terminal.raw.rfind("\x1b[?2004l") > terminal.raw.rfind("\x1b[?2004h")
    assert "Traceback" not in terminal.raw


def modes(terminal: Terminal) -> int:
    """What the terminal does with keys."""
    return int(termios.tcgetattr(terminal.process.child_fd)[3])


def test_no_color(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.wait(lambda: "Rank:" in terminal.line, "rank")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7]|[34]8;)[0-9;]*m", terminal.raw)


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40)])
def test_nothing_is_cut_off(columns: int, lines: int) -> None:
    terminal = Terminal("wizard", columns=columns, lines=lines)
    terminal.answer(MENU, "train")
    terminal.answer("Adapter:")
    terminal.wait(lambda: "Mode:" in terminal.line, "mode")
    terminal.see("as older trainers do; to reproduce old results")
    terminal.see("Ctrl-C: stop")
    terminal.process.close(force=True)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"kind": "dumb"}, "TERM=dumb says"),
        ({"columns": 50}, "66 columns and 16 lines"),
        ({"lines": 9}, "and 9"),
    ],
)
def test_a_terminal_that_cannot_show_it_is_told(how: dict[str, Any], says: str) -> None:
    terminal = Terminal("wizard", **how)
    assert terminal.end() == ExitCode.USAGE
    assert says in " ".join(terminal.raw.split())


def test_the_wizard_loads_no_torch() -> None:
    says = "import sys, sidestep.wizard.menu; print({'torch', 'transformers', 's3fs'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", says], text=True) == "set()\n"
