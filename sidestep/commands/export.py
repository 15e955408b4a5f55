"""The command `sidestep export`: an adapter of any known format, written for one reader."""

import argparse
import logging
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from sidestep.config.job import JobSpec
from sidestep.runtime.errors import MissingInputError
from sidestep.storage.open import open_store

log = logging.getLogger(__name__)
FORMATS = ("app", "diffusers", "comfyui")


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes beside the model and the storage."""
    parser.add_argument("adapter", metavar="ADAPTER", help="place of the adapter: <output_dir>/adapter")
    parser.add_argument("--format", required=True, choices=FORMATS, help="who is to read it")
    parser.add_argument(
        "--output", metavar="PLACE", help="place for the files (default: ADAPTER-FORMAT, beside it)"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="look at no checkpoint: the released models' configurations are built in",
    )


def export(spec: JobSpec, adapter_place: str, format_: str, output: str | None, *, offline: bool) -> None:
    """Write the adapter at `adapter_place` for the reader `format_`, to `output` or beside it.

    Of the model, `spec` names the configuration alone is read, for the shapes of its layers.

    Raises MissingInputError and BadDataError as reading the adapter does, UsageError where the reader has
    no such adapter.
    """
    from sidestep import adapters
    from sidestep.acestep.releases import config_of
    from sidestep.adapters.export import files_for, shapes_alone

    adapter_place = adapter_place.rstrip("/")
    source = open_store(adapter_place, spec.storage)
    found = [file.path for file in source.list_files() if "/" not in file.path]
    if not found:
        raise MissingInputError(f"there is no adapter at {source.place}: it is a job's <output_dir>/adapter")
    transformer = shapes_alone(config_of(spec, offline=offline))
    with TemporaryDirectory() as folder:
        for name in found if source.local_root is None else ():
            source.download(name, Path(folder, name))
        adapter = adapters.load(transformer, source.local_root or folder)
    target = open_store(output or f"{adapter_place}-{format_}", spec.storage)
    for name, data in files_for(adapter, format_, _name(adapter_place)).items():
        target.write_bytes(name, data)
        log.info("Wrote %s/%s", target.place, name)


def _name(adapter_place: str) -> str:
    """What to call it among others: the run's name, where the folder is just called `adapter`."""
    path = PurePosixPath(adapter_place)
    return path.parent.name or path.name if path.name == "adapter" else path.name
