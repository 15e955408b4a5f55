"""One question on the terminal: typed, or picked from a list by fuzzy search, through prompt_toolkit.

Not through questionary, which is made of it: its filter finds substrings only, it knows no way back, and its
validators do not speak while one types.
"""

import os
import textwrap
from collections.abc import Callable, Mapping

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import Completer, FuzzyCompleter, WordCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.validation import ValidationError, Validator

from sidestep.runtime.console import write
from sidestep.runtime.errors import UsageError

GO_BACK = "b"
HINT = "Enter: use the answer in brackets · Esc or b: back · Ctrl-C: stop"
COLUMNS, LINES = 66, 16  # the hints; a description, a question, some of its choices, and the hints
PATHS = 6  # lines for a path's completions


class Back(Exception):
    """Esc, or `b` and Enter."""


def check_terminal() -> None:
    """Raises UsageError where the questions cannot be shown."""
    if os.environ.get("TERM", "") in ("", "dumb"):
        raise UsageError(
            f"the wizard moves the cursor, and TERM={os.environ.get('TERM', '')} says that this terminal "
            "cannot; `sidestep --help` lists the commands"
        )
    size = os.get_terminal_size()
    if size.columns < COLUMNS or size.lines < LINES:
        raise UsageError(
            f"the wizard needs a terminal of {COLUMNS} columns and {LINES} lines, and this one has "
            f"{size.columns} and {size.lines}; make it larger, or see `sidestep --help` for the commands"
        )


def ask(
    question: str,
    default: str = "",
    *,
    problem: Callable[[str], str | None] = lambda text: None,
    choices: Mapping[str, str] | None = None,
    completer: Completer | None = None,
    hint: str | Callable[[str], str] = "",
) -> str:
    """Ask until the answer is good; nothing typed means `default`.

    Args:
        problem: what is wrong with an answer, looked at while it is typed.
        choices: what can be picked, with a word on each; typing narrows them down, in any spelling that has
            the letters in their order.
        completer: of what is no choice, such as a path.
        hint: what is allowed, shown below; or what it is by what is typed so far.

    Raises Back, and KeyboardInterrupt on Ctrl-C or Ctrl-D; the terminal is as before then.
    """
    picker = (
        FuzzyCompleter(WordCompleter(list(choices), meta_dict=dict(choices), WORD=True), WORD=True)
        if choices
        else None
    )

    def meant(text: str) -> str:
        text = text.strip() or default
        if picker is None or choices is None or text in choices:
            return text
        found = next(iter(picker.get_completions(Document(text), None)), None)  # type: ignore[arg-type]
        return found.text if found else text

    def what_is_wrong(text: str) -> str | None:
        if text.strip() == GO_BACK:
            return None
        answer = meant(text)
        if choices is not None and answer not in choices:
            return f"none of them is like {answer}" if answer else "choose one"
        return problem(answer)

    def toolbar() -> str:
        says = hint(meant(get_app().current_buffer.text)) if callable(hint) else hint
        return "\n".join(textwrap.shorten(line, width, placeholder=" …") for line in (says, HINT) if line)

    width = os.get_terminal_size().columns - 1
    lines = [textwrap.fill(line, width) for line in question.split("\n")]
    session: PromptSession[str] = PromptSession(
        "\n".join(lines) + (f" [{default}] " if default else " "),
        completer=picker or completer,
        complete_while_typing=True,
        validator=_Says(what_is_wrong),
        validate_while_typing=True,
        bottom_toolbar=toolbar,
        key_bindings=_keys(meant),
        reserve_space_for_menu=min(14, len(choices) + 1) if choices else PATHS if completer else 0,
    )
    try:
        text = session.prompt(pre_run=_open_menu if picker else None)
    except EOFError:  # Ctrl-D
        raise KeyboardInterrupt from None
    if text.strip() == GO_BACK:
        raise Back
    return meant(text)


def say(text: str) -> None:
    """Something about what was answered."""
    write(f"  {text}\n")


def yes(question: str, default: bool = True) -> bool:
    return ask(question, "yes" if default else "no", choices={"yes": "", "no": ""}) == "yes"


class _Says(Validator):
    """Shows what a function says is wrong."""

    def __init__(self, what_is_wrong: Callable[[str], str | None]) -> None:
        self._what_is_wrong = what_is_wrong

    def validate(self, document: Document) -> None:
        if message := self._what_is_wrong(document.text):
            raise ValidationError(len(document.text), message)


def _open_menu() -> None:
    get_app().current_buffer.start_completion(select_first=False)


def _keys(meant: Callable[[str], str]) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", eager=True)
    def go_back(event: KeyPressEvent) -> None:
        event.app.exit(exception=Back())

    @keys.add("enter")
    def accept(event: KeyPressEvent) -> None:
        """What is meant stands on the screen then, not the letters that found it."""
        buffer = event.current_buffer
        if buffer.text.strip() != GO_BACK:
            buffer.text = meant(buffer.text)
            buffer.cursor_position = len(buffer.text)
        buffer.validate_and_handle()

    return keys
