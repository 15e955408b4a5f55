"""`sidestep push`: an adapter onto the Hugging Face Hub."""

import logging
from pathlib import Path

from sidestep.commands.adapters import with_place
from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser
from sidestep.config.fields import spec_fields
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.workspace import open_workspace

log = logging.getLogger(__name__)

WORKSPACE = ("runtime", "workspace")
"""What the command reads of the spec, besides how s3:// is reached."""


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} OUTPUT|ADAPTER hf://OWNER/NAME [--dry-run] [flags]"
    parser.add_argument(
        "place", metavar="OUTPUT", help="a job's output_dir, or an adapter's folder or its one file"
    )
    parser.add_argument(
        "repository",
        metavar="hf://OWNER/NAME",
        help="a model repository on the Hub; it is created where it does not exist",
    )
    parser.add_argument(
        "--public", action="store_true", help="let anyone see the repository (default: it is private)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what is there though Side-Step has not put it there, or it was changed since",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    add_flags(
        parser, leave_out=[path for path in spec_fields() if path[0] != "storage" and path != WORKSPACE]
    )


def run(call: Call) -> None:
    """Push, or say what would be. Raises as `lifecycle.bundle.bundle_of` and `lifecycle.push.push`."""
    options = call.options()
    setup_logging()
    spec, place = with_place(getattr(options, "given", []), options.place, call.parser.prog)

    from sidestep.lifecycle.bundle import bundle_of
    from sidestep.lifecycle.push import Cargo, planned, push
    from sidestep.storage.hub_push import ModelRepository

    repository = ModelRepository(options.repository)
    if not options.dry_run:
        repository.check_token()
    provide_folders(spec.runtime.workspace)
    with open_workspace(spec.runtime.workspace).temporary() as folder:
        cargo = Cargo.of(bundle_of(place, spec.storage, Path(folder)))
        how = {"is_public": options.public, "overwrite": options.overwrite}
        if not options.dry_run:
            done = push(cargo, repository, **how)
            log.info("Pushed to %s" if done else "All of it is there already: %s", repository.page)
            return
        head = None
        if repository.has_token:
            repository.check_card(cargo.readme)
            head = repository.head()
        else:
            log.warning("HF_TOKEN is not set: what %s holds is not known", repository.place)
        for change in planned(cargo, repository, head, **how):
            log.info("%s", change)
        log.info("Nothing was sent: --dry-run")
