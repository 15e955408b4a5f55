"""`sidestep demo`: the whole pipeline on a tiny random model and made songs."""

from pathlib import Path

from sidestep.commands.command import Call
from sidestep.commands.parser import Parser
from sidestep.runtime.logs import setup_logging


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="demo", help="folder for the results (default: demo)"
    )


def run(call: Call) -> None:
    options = call.options()
    setup_logging()

    from sidestep import tasks
    from sidestep.tasks.demo import demo

    demo(Path(options.folder), tasks.run)
