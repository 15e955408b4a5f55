"""`sidestep wizard`: questions in place of flags."""

from sidestep.commands.command import Call
from sidestep.commands.parser import Parser
from sidestep.runtime.console import is_interactive
from sidestep.runtime.errors import UsageError


def add_arguments(parser: Parser) -> None:
    """It takes nothing."""


def run(call: Call) -> None:
    """Raises UsageError where nobody can answer."""
    call.options()
    if not is_interactive():
        raise UsageError("the wizard asks its questions on a terminal, and this is none")

    from sidestep.wizard.menu import wizard

    wizard(call.main)
