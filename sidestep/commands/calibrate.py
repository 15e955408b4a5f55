"""`sidestep calibrate`: at which strength an adapter's held-out loss is lowest."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidestep.commands.command import Call
from sidestep.commands.flags import MODEL, add_flags_of_model
from sidestep.commands.parser import Parser, numbers
from sidestep.config.job import JobSpec, resolve
from sidestep.config.sources import Given
from sidestep.config.yaml12 import dump_yaml, parse_yaml
from sidestep.lifecycle.output import SPEC
from sidestep.lifecycle.sweep import refuse_sweep
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.words import as_typed
from sidestep.runtime.workspace import open_workspace
from sidestep.storage.open import open_store

log = logging.getLogger(__name__)

LAW = (
    *("mode", "seed", "timestep_mu", "timestep_sigma", "cfg_dropout", "caption_dropout", "genre_share"),
    *("chunk_duration", "chunks", "validation"),
)
"""What of `train` losses depend on: the output's job.yaml says it, too."""
MOST_STRENGTH = 10.0


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} OUTPUT [--strength S,…] [--card] [flags]"
    parser.add_argument("place", metavar="OUTPUT", help="a job's output_dir, whose adapter is published")
    parser.add_argument(
        "--strength",
        type=numbers(0, MOST_STRENGTH),
        metavar="S,…",
        help="the strengths to try; 0 is the base model (default: 0 to 1.5 in steps of 0.25)",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="let the adapter's card suggest the best (default: leave the card)",
    )
    add_flags_of_model(parser)


def run(call: Call) -> None:
    """Take the losses, and say which strength is best. Raises as `tasks.calibrate.calibrate`."""
    options = call.options()
    setup_logging()
    place = Given(("output_dir",), options.place, call.parser.prog)
    flags = [*getattr(options, "given", []), place]
    spec, _ = resolve(flags=flags, needs_places=False)
    provide_folders(spec.runtime.workspace)
    with open_workspace(spec.runtime.workspace).temporary() as folder:
        spec = _with_own(spec, flags, Path(folder) / SPEC)
    import_diffusers()
    from sidestep.lifecycle.job import Job
    from sidestep.tasks.calibrate import GRID, calibrate
    from sidestep.tasks.limits import limits_explained

    with limits_explained(spec, "train"):
        found = calibrate(Job(spec), options.strength or GRID, in_card=options.card)
    if found.best is None:
        log.warning("No strength has a finite held-out loss")
        return
    if found.best == 0:
        log.warning(
            "The held-out loss is lowest at strength 0, the base model: no strength that was tried is better "
            "than no adapter, and the card suggests none of them"
        )
        return
    log.info(
        "The held-out loss is lowest at strength %s%s%s",
        as_typed(found.best),
        ", the highest that was tried" if found.best == found.losses[-1].strength else "",
        ", as the adapter's card now says" if options.card else "",
    )


def _with_own(spec: JobSpec, flags: list[Given], file: Path) -> JobSpec:
    """The spec with what the output's job.yaml says of model, songs, and how its losses were taken."""
    store = open_store(spec.output_place, spec.storage)
    refuse_sweep(store, "calibrate")
    where = f"{store.place}/{SPEC}"
    values: Mapping[str, Any] = parse_yaml(store.read_small(SPEC), where)[0]
    own = {path[0]: values[path[0]] for path in MODEL if values.get(path[0]) is not None}
    train = values.get("train")
    law = {name: train[name] for name in LAW if name in train} if isinstance(train, dict) else {}
    file.write_bytes(dump_yaml({"task": "train", **own, "train": law}))
    return resolve(flags=flags, config=file, needs_places=False)[0]
