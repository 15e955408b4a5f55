"""`sidestep tiny-checkpoint`: a set of checkpoints with random weights, small enough for trials and tests."""

import logging
from pathlib import Path

from sidestep.commands.command import Call
from sidestep.commands.parser import Parser
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.logs import setup_logging

log = logging.getLogger(__name__)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder to write the checkpoint set into")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=["base", "turbo", "xl-base"],
        help="which model variants to write (default: base turbo xl-base)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    provide_folders(workspace=None)

    from sidestep.acestep.tiny import write_tiny_checkpoint

    write_tiny_checkpoint(Path(options.folder), options.variants, options.seed)
    log.info("Wrote %s to %s", ", ".join(options.variants), options.folder)
