"""`sidestep launch`: one training by several processes, one for each GPU of this machine."""

import os
import sys

from sidestep.commands.command import Call
from sidestep.commands.parser import Parser, whole
from sidestep.runtime.errors import UsageError
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.ranks import node_in

LAUNCHED = ("train", "fixed", "vanilla", "run")
MOST = 1024  # processes of a machine, and machines
ANSWERED = ("-h", "--help", "--help-all", "--dry-run")  # by one process


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} [--processes N] [--nodes N] COMMAND [flags]"
    parser.add_argument(
        "--processes",
        type=whole(1, MOST),
        metavar="N",
        help="how many on this machine (default: one for each GPU)",
    )
    parser.add_argument(
        "--nodes",
        type=whole(1, MOST),
        metavar="N",
        help="how many machines run this command (default: as many as SkyPilot, dstack or torchrun's "
        "variables say, else one); which one this is, the platform's variables say",
    )
    parser.add_argument(
        "command",
        metavar="COMMAND",
        choices=LAUNCHED,
        nargs="?",
        help="train, fixed, vanilla, or run with task train; all that stands behind it are its own flags",
    )


def run(call: Call) -> None:
    """Start the processes, and end as they do: see `platforms.launcher`."""
    at = next((n for n, word in enumerate(call.words) if word in LAUNCHED), len(call.words))
    options = call.parser.parse_args(call.words[: at + 1])
    command, flags = call.words[at : at + 1], call.words[at + 1 :]
    _check(call.parser, command, flags)
    if any(word in ANSWERED for word in flags):
        raise SystemExit(call.main([*command, *flags]))
    setup_logging()
    node = node_in(os.environ, options.nodes)
    count = options.processes or _gpus()
    if not count:
        raise UsageError("no GPU is seen here, of which each would get a process: --processes says how many")

    from sidestep.platforms.launcher import launch

    raise SystemExit(launch([sys.executable, "-m", "sidestep", *command, *flags], node, count))


def _check(parser: Parser, command: list[str], flags: list[str]) -> None:
    """Raise UsageError for what no process can do anything with: it is told once, and none is started."""
    if not command:
        *others, last = LAUNCHED
        parser.error(f"a command is missing that the processes do: {', '.join(others)} or {last}")
    if "--preprocess" in flags:
        parser.error(
            f"--preprocess: processes that are launched train one adapter together, and make no tensors; "
            f"`sidestep {command[0]} --preprocess` makes them in one process, preprocess.shards in many jobs"
        )
    for flag in parser.flags:
        if any(word.partition("=")[0] == flag for word in flags) and flag not in ANSWERED:
            parser.error(f"{flag} stands before {command[0]}: `sidestep launch {flag} N {command[0]} ...`")


def _gpus() -> int:
    from sidestep.runtime.gpus import count_gpus

    return count_gpus(os.environ)
