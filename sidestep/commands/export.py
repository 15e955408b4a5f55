"""`sidestep export`: an adapter of any known format, written for one reader."""

import logging
from pathlib import Path, PurePosixPath

from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec, resolve
from sidestep.config.sources import Given
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.workspace import open_workspace
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

WEIGHTS = ("adapter_model.safetensors", "lora_weights.safetensors", "lokr_weights.safetensors")
FORMATS = ("app", "diffusers", "comfyui")
READ = {"checkpoint_dir", "model_variant", "base_model", "storage"}
"""The parts of the spec that the command reads: which model it is, and how s3:// is reached."""
WORKSPACE = ("runtime", "workspace")  # where an adapter is downloaded to


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} ADAPTER --format FORMAT [flags]"
    parser.add_argument("adapter", metavar="ADAPTER", help="the adapter: <output_dir>/adapter")
    parser.add_argument("--format", required=True, choices=FORMATS, help="the program that will read it")
    parser.add_argument(
        "--output", metavar="PLACE", help="where to write the files (default: ADAPTER-FORMAT, beside it)"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="read no checkpoint: use the released models' built-in configurations",
    )
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] not in READ and path != WORKSPACE])


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    given = getattr(options, "given", [])
    spec, adapter = _with_place(given, options.adapter, call.parser.prog)
    output = _with_place(given, options.output, "--output")[1] if options.output is not None else None
    export(spec, adapter, options.format, output, offline=options.offline)


def _with_place(given: list[Given], place: str, origin: str) -> tuple[JobSpec, str]:
    """The spec, and `place` as it is once it is checked like a place of the spec."""
    spec, _ = resolve(flags=[*given, Given(("output_dir",), place, origin)], needs_places=False)
    return spec, spec.output_place


def export(spec: JobSpec, adapter_place: str, format_: str, output: str | None, *, offline: bool) -> None:
    """Write the adapter at `adapter_place` for the reader `format_`, to `output` or beside it.

    Of the model that `spec` names, only the configuration is read, for the shapes of its layers.

    Raises MissingInputError and BadDataError as reading the adapter does, UsageError where the reader has
    no such adapter.
    """
    adapter_place = adapter_place.rstrip("/")
    source = open_store(adapter_place, spec.storage)
    found = _files_of_adapter(source)
    provide_folders(spec.runtime.workspace)
    import_diffusers()
    from sidestep import adapters
    from sidestep.acestep.releases import config_of
    from sidestep.adapters.export import files_for, shapes_alone
    from sidestep.adapters.lora import CONFIG_FILE
    from sidestep.commitlog.leftovers import clear_abandoned
    from sidestep.lifecycle.publish import warn_of_dots

    transformer = shapes_alone(config_of(spec, offline=offline))
    if source.local_root:
        adapter = adapters.load(transformer, source.local_root)
    else:
        with open_workspace(spec.runtime.workspace).temporary() as folder:
            for name in found:
                source.download(name, Path(folder, name))
            adapter = adapters.load(transformer, folder)
    target = open_store(output or _beside(adapter_place, format_), spec.storage)
    if format_ == "app":
        warn_of_dots(PurePosixPath(target.place).name)
    files = files_for(adapter, format_, _name(adapter_place))
    if CONFIG_FILE in files:
        target.delete(CONFIG_FILE)  # no reader takes weights without it, nor those of two exports for one
    for name in sorted(files, key=lambda name: name == CONFIG_FILE):
        target.write_bytes(name, files[name])
        log.info("Wrote %s/%s", target.place, name)
    clear_abandoned(target)


def _files_of_adapter(source: Store) -> list[str]:
    """The names of the files in an adapter's folder. Raises MissingInputError, with the adapters below it."""
    files = [file.path for file in source.list_files()]
    found = [path for path in files if "/" not in path]
    if any(path.endswith((".safetensors", ".bin", ".pt")) for path in found):
        return found
    below = sorted({path.rpartition("/")[0] for path in files if path.endswith(WEIGHTS)})
    where = ", ".join(f"{source.place}/{folder}" for folder in below)
    hint = f"there is one in {where}" if below else "it is a job's <output_dir>/adapter"
    raise MissingInputError(f"there is no adapter at {source.place}: {hint}")


def _beside(adapter_place: str, format_: str) -> str:
    """The default place of the files: ADAPTER-FORMAT, its name without dots where the app is to read it."""
    from sidestep.lifecycle.publish import without_dots

    parent, slash, name = adapter_place.rpartition("/")
    return f"{parent}{slash}{without_dots(name) if format_ == 'app' else name}-{format_}"


def _name(adapter_place: str) -> str:
    """What to call it among others: the run's name, where the folder is just called `adapter`."""
    path = PurePosixPath(adapter_place)
    return path.parent.name or path.name if path.name == "adapter" else path.name
