"""`sidestep export`: an adapter of any known format, written for one reader."""

import logging
from pathlib import Path, PurePosixPath

from sidestep.commands.adapters import add_model_flags, sides_of, with_own_facts, with_place, with_sides
from sidestep.commands.command import Call
from sidestep.commands.parser import Parser
from sidestep.config.adapter_files import APP_LORA_CONFIG
from sidestep.config.job import JobSpec
from sidestep.lifecycle.adapter_files import SUFFIX, find_adapter
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.workspace import open_workspace
from sidestep.storage.open import open_store

log = logging.getLogger(__name__)

FORMATS = ("app", "diffusers", "comfyui")


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} ADAPTER --format FORMAT [flags]"
    parser.add_argument(
        "adapter", metavar="ADAPTER", help="the adapter: its folder or file, or an output_dir"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="the program that will read it")
    parser.add_argument(
        "--output", metavar="PLACE", help="where to write the files (default: ADAPTER-FORMAT, beside it)"
    )
    add_model_flags(parser)


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    given = getattr(options, "given", [])
    spec, adapter = with_place(given, options.adapter, call.parser.prog)
    output = with_place(given, options.output, "--output")[1] if options.output is not None else None
    export(spec, adapter, options.format, output, offline=options.offline)


def export(spec: JobSpec, adapter_place: str, format_: str, output: str | None, *, offline: bool) -> None:
    """Write the adapter at `adapter_place` for the reader `format_`, to `output` or beside it.

    Of the model that `spec` names, only the configuration is read, for the shapes of its layers.

    Raises MissingInputError and BadDataError as reading the adapter does, UsageError where the reader has
    no such adapter.
    """
    adapter_place = adapter_place.rstrip("/")
    found = find_adapter(adapter_place, spec.storage)
    provide_folders(spec.runtime.workspace)
    import_diffusers()
    from sidestep import adapters
    from sidestep.acestep.loading import shapes_alone
    from sidestep.acestep.releases import config_of
    from sidestep.adapters.export import files_for
    from sidestep.commitlog.leftovers import clear_abandoned
    from sidestep.lifecycle.publish import warn_of_dots

    transformer = shapes_alone(config_of(spec, offline=offline))
    with open_workspace(spec.runtime.workspace).temporary() as folder:
        root = found.store.local_root
        weights = root / found.weights.path if root else found.download(Path(folder))
        adapter, sides = adapters.load(transformer, weights), sides_of(weights)
        files = with_sides(files_for(adapter, format_, _name(adapter_place)), sides)
        files = with_own_facts(files, weights)
    target = open_store(output or _beside(adapter_place, format_), spec.storage)
    if format_ == "app":
        warn_of_dots(PurePosixPath(target.place).name)
    if APP_LORA_CONFIG in files:
        target.delete(APP_LORA_CONFIG)  # no reader takes weights without it, nor those of two exports for one
    for name in sorted(files, key=lambda name: name == APP_LORA_CONFIG):
        target.write_bytes(name, files[name])
        log.info("Wrote %s/%s", target.place, name)
    clear_abandoned(target)


def _beside(adapter_place: str, format_: str) -> str:
    """The default place of the files: ADAPTER-FORMAT, its name without dots where the app is to read it."""
    from sidestep.lifecycle.publish import without_dots

    parent, slash, name = adapter_place.removesuffix(SUFFIX).rpartition("/")
    return f"{parent}{slash}{without_dots(name) if format_ == 'app' else name}-{format_}"


def _name(adapter_place: str) -> str:
    """What to call it among others: the run's name, where the folder is just called `adapter`."""
    path = PurePosixPath(adapter_place.removesuffix(SUFFIX))
    return path.parent.name or path.name if path.name == "adapter" else path.name
