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


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} [--processes N] [--nodes N] train [flags]"
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
        "command", metavar="train", choices=LAUNCHED, help="train, fixed, vanilla, or run with task train"
    )


def run(call: Call) -> None:
    """Start the processes, and end as they do: see `platforms.launcher`."""
    at = next((n for n, word in enumerate(call.words) if word in LAUNCHED), len(call.words))
    options = call.parser.parse_args(call.words[: at + 1])
    setup_logging()
    node = node_in(os.environ, options.nodes)
    count = options.processes or _gpus()
    if not count:
        raise UsageError("no GPU is seen here, of which each would get a process: --processes says how many")

    from sidestep.platforms.launcher import launch

    raise SystemExit(launch([sys.executable, "-m", "sidestep", *call.words[at:]], node, count))


def _gpus() -> int:
    from sidestep.runtime.gpus import count_gpus

    return count_gpus(os.environ)
