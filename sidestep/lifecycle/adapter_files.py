"""Where an adapter's files are, by what a user names: its folder, its one file, or a run's output.

Nothing here needs torch: that an adapter is there is known before a GPU is waited for.
"""

import hashlib
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidestep.config.adapter_files import APP_LORA, APP_LORA_CONFIG, WEIGHTS
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.output import ADAPTER
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError
from sidestep.runtime.parsing import parse_json
from sidestep.runtime.tensorfiles import HEADER_AT_MOST
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import local_path, open_store
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull

BELOW = (ADAPTER, "final")
"""Folders of an output, ours and upstream's, that the adapter is in."""

SUFFIX = ".safetensors"
_NO_ADAPTERS = ("training_state", "diffusers_lokr_weights")
"""Of the files that stand beside an adapter: what a checkpoint has, and a LoKR's form for diffusers."""

_SHOWN = 5


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter. Those of LoRA in the app's format are two, weights and configuration."""

    store: Store
    weights: FileInfo
    config: FileInfo | None = None

    @property
    def place(self) -> str:
        """Of the weights, for messages."""
        return f"{self.store.place}/{self.weights.path}"

    @property
    def files(self) -> list[FileInfo]:
        return [self.weights, *([self.config] if self.config else [])]

    def digest(self) -> str:
        """The same as `digest_of`, read from the store."""
        digests = [hashlib.sha256(self.store.read_bytes(file.path)).hexdigest() for file in self.files]
        return _joined(digests)

    def pull(self, workspace: Workspace) -> Path:
        """Where the weights are on this machine, with the configuration beside them."""
        folder = pull(self.store, self.files, workspace, title="Pulling the adapter")
        return copy_of(self.store, folder, self.weights.path)

    def download(self, folder: Path) -> Path:
        """Copy the files into `folder`, and return where the weights are then."""
        for file in self.files:
            self.store.download(file.path, folder / posixpath.basename(file.path))
        return folder / posixpath.basename(self.weights.path)


def digest_of(weights: Path) -> str:
    """sha256 of an adapter's content: of its file, or of the digests of a LoRA's two."""
    digests = [_sha256(weights)]
    if weights.name == APP_LORA:
        digests.append(_sha256(weights.with_name(APP_LORA_CONFIG)))
    return _joined(digests)


def _joined(digests: Sequence[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def find_adapter(place: str, options: StorageSpec) -> AdapterFiles:
    """The adapter at `place`: a folder, a `.safetensors` file, or an output_dir, of which adapter/ is taken.

    Links are followed: a model hub's cache consists of them. Raises MissingInputError where there is none,
    with those that are below, BadDataError where there are several.
    """
    if place.endswith(SUFFIX) and (named := _one_file(place, options)):
        return named
    store = open_store(place, options, follow_links=True)
    for folder in ("", *BELOW):
        found = [file for name in WEIGHTS if (file := store.stat(posixpath.join(folder, name)))]
        if len(found) > 1:
            names = ", ".join(posixpath.basename(file.path) for file in found)
            raise BadDataError(f"{store.place} holds {len(found)} adapters ({names}): keep one of them")
        if found:
            return _with_config(store, found[0])
    files = store.list_files()
    others = [file for file in files if "/" not in file.path and _may_be_one(file.path)]
    if len(others) == 1:
        return AdapterFiles(store, others[0])
    if others:
        names = ", ".join(file.path for file in others[:_SHOWN])
        raise BadDataError(
            f"{store.place} holds {len(others)} files that may be an adapter ({names}): name one"
        )
    raise _missing(store, [file.path for file in files])


def header_of(adapter: AdapterFiles) -> dict[str, str]:
    """The texts in the header of the weights, of which no more is read.

    Raises BadDataError where they cannot be safetensors, by their size and their first bytes.
    """
    path = adapter.weights.path
    length = int.from_bytes(adapter.store.read_range(path, 0, 8), "little")
    if not 0 < length <= min(adapter.weights.size - 8, HEADER_AT_MOST):
        raise BadDataError(f"{adapter.place} is not a safetensors file, or was cut short: copy it again")
    header = parse_json(adapter.store.read_range(path, 8, length), adapter.place)
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(texts, dict):
        return {}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _one_file(place: str, options: StorageSpec) -> AdapterFiles | None:
    """The file that is named; None where a folder is called so."""
    path = local_path(place)
    parent, name = (str(path.parent), path.name) if path else posixpath.split(place)
    store = open_store(parent, options, follow_links=True)
    if file := store.stat(name):
        return _with_config(store, file)
    if store.local_root is not None and (store.local_root / name).is_dir():
        return None
    raise MissingInputError(f"there is no file {name} in {store.place}. Check the place and the name.")


def _with_config(store: Store, weights: FileInfo) -> AdapterFiles:
    folder, name = posixpath.split(weights.path)
    if name != APP_LORA:
        return AdapterFiles(store, weights)
    config = store.stat(posixpath.join(folder, APP_LORA_CONFIG))
    if config is None:
        raise MissingInputError(
            f"{store.place} has {weights.path} without {APP_LORA_CONFIG} beside it, by which it is scaled"
        )
    return AdapterFiles(store, weights, config)


def _may_be_one(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith((".", *_NO_ADAPTERS))


def _missing(store: Store, paths: Iterable[str]) -> SideStepError:
    """What is said of a place without an adapter that can be read."""
    paths = list(paths)
    if pickles := sorted(path for path in paths if "/" not in path and path.endswith((".bin", ".pt"))):
        return BadDataError(
            f"{store.place} holds {', '.join(pickles[:_SHOWN])}: a pickle can run any code and is never "
            "read. Save the adapter as safetensors."
        )
    below = sorted({posixpath.dirname(path) for path in paths if posixpath.basename(path) in WEIGHTS})
    where = ", ".join(f"{store.place}/{folder}" for folder in below[:_SHOWN])
    hint = f"there is one in {where}" if below else "it is a job's <output_dir>/adapter, or its one file"
    return MissingInputError(f"there is no adapter at {store.place}: {hint}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
