"""`sidestep publish`: adapter/ of an output, from one of its checkpoints."""

import logging

from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser
from sidestep.config.fields import spec_fields
from sidestep.config.job import resolve
from sidestep.config.sources import Given
from sidestep.runtime.logs import setup_logging

log = logging.getLogger(__name__)

READ = {("runtime", "workspace"), ("runtime", "lease_seconds")}
"""What the command reads of the spec, besides how s3:// is reached."""


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} OUTPUT [--checkpoint NAME] [flags]"
    parser.add_argument("place", metavar="OUTPUT", help="the job's output_dir")
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="the checkpoint to take it from, such as checkpoint-epoch-50, or best: the one with the lowest "
        "held-out loss (default: the newest)",
    )
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] != "storage" and path not in READ])


def run(call: Call) -> None:
    """Make adapter/ from a checkpoint, and say what it is. Raises as `publish_checkpoint`."""
    options = call.options()
    setup_logging()
    place = Given(("output_dir",), options.place, call.parser.prog)
    spec, _ = resolve(flags=[*getattr(options, "given", []), place], needs_places=False)

    from sidestep.commitlog.log import CommitLog
    from sidestep.lifecycle.publish import FOLDER, lease_of, publish_checkpoint
    from sidestep.lifecycle.sweep import refuse_sweep
    from sidestep.runtime.workspace import open_workspace
    from sidestep.storage.open import open_store

    store, workspace = open_store(spec.output_place, spec.storage), open_workspace(spec.runtime.workspace)
    refuse_sweep(store, "publish")
    lease = lease_of(store, spec.runtime.lease_seconds)
    commit = publish_checkpoint(CommitLog(store), workspace, lease, options.checkpoint)
    log.info("%s/%s is that of %s, after step %d", store.place, FOLDER, commit.folder, commit.step)
