"""A model's folder with adapters merged into its weights, as a new folder."""

import hashlib
import logging
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sidestep.acestep.layout import SILENCE_FILE, find_variant, open_checkpoints, weight_names
from sidestep.adapters.combine import Part, check_linear, merge_weights
from sidestep.config.job import JobSpec
from sidestep.runtime.atomic import TEMPORARY, sync, sync_entries
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import UsageError
from sidestep.runtime.words import counted, some
from sidestep.runtime.workspace import open_workspace
from sidestep.storage.store import FileInfo
from sidestep.storage.transfer import copy_of, pull

log = logging.getLogger(__name__)

NOTE = "merged.json"
"""What the folder was made of."""

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf")


def merge_into(spec: JobSpec, parts: Sequence[Part], output: Path) -> None:
    """Write a copy of the folder of `spec`'s model to `output`, with the parts in the decoder's weights.

    Names, shards and kinds of the weights stay. Copies of them in another precision or format are left out,
    as they would lack the adapters. The folder appears as a whole; one that was made before is left alone.

    Raises UsageError where `output` holds anything else, or the sum is not defined, BadDataError for weights
    that are damaged or of another model, MachineError where the disk is full.
    """
    check_linear(parts)
    store = open_checkpoints(spec.checkpoint_dir, spec.storage)
    model = find_variant(store, spec.model_variant)
    weights = [f"{model.folder}/{name}" for name in weight_names(store, model)]
    kept = list(_kept(store.list_files(model.folder), {*weights, *(file.path for file in model.files)}))
    root = pull(store, kept, open_workspace(spec.runtime.workspace), "Pulling the model")
    local = {posixpath.relpath(file.path, model.folder): copy_of(store, root, file.path) for file in kept}
    own = [posixpath.basename(path) for path in weights]
    note = json_bytes(
        {
            "adapters": [{"sha256": part.digest, "weight": part.weight} for part in parts],
            "model": {name: _sha256(local[name]) for name in own},
        }
    )
    if _is_made(output, note):
        log.info("%s is there already, made of the same: there is nothing to do", output)
        return
    with _folder(output) as folder:
        for name, source in local.items():
            if name not in own:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / name)
        changed = merge_weights(((local[name], folder / name) for name in own), parts)
        (folder / NOTE).write_bytes(note)
    log.info(
        "Merged %s into %s of %s: %s",
        *(counted(len(parts), "adapters"), counted(changed, "weights"), model.folder, output),
    )


def _kept(files: Iterable[FileInfo], used: set[str]) -> Iterator[FileInfo]:
    """The files of a model's folder that its copy has."""
    left_out = []
    for file in files:
        is_weights = file.path.endswith(_WEIGHTS) and posixpath.basename(file.path) != SILENCE_FILE
        if file.path in used or not is_weights:
            yield file
        else:
            left_out.append(posixpath.basename(file.path))
    if left_out:
        log.warning("Left out are %s: other copies of the weights, without the adapters", some(left_out))


def _is_made(output: Path, note: bytes) -> bool:
    """Whether the folder is there, made of the same. Raises UsageError where it is anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if output.is_dir() and (output / NOTE).is_file() and (output / NOTE).read_bytes() == note:
        return True
    raise UsageError(f"{output} is there already, and is nothing that this makes: name another --output")


@contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output`, which becomes it at the end of the block; after a failure, nothing stays.

    One of a process that was killed is deleted.
    """
    temporary = output.with_name(TEMPORARY + output.name)
    with local_errors(output):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
            temporary.rename(output)
            sync_entries(output.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
