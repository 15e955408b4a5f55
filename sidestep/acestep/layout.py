"""Finds the parts of an ACE-Step 1.5 checkpoint set, and the files of each that a task needs.

    checkpoints/
      acestep-v15-base/       config.json, safetensors (one file, or shards with an index), silence_latent.pt
      acestep-v15-turbo/ …    any fine-tune's folder looks the same
      vae/                    diffusers' AutoencoderOobleck
      Qwen3-Embedding-0.6B/   the text encoder and its tokenizer

Only these files are ever pulled or read; the checkpoint's own Python (`modeling_*.py`) is not run.
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import pull

VAE_FOLDER = "vae"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
ALIASES = {
    alias: f"acestep-v15-{alias}" for alias in ("turbo", "base", "sft", "xl-turbo", "xl-base", "xl-sft")
}
FOLDERS = {folder: alias for alias, folder in ALIASES.items()}
SILENCE_FILE = "silence_latent.pt"
INDEX_SUFFIX = ".safetensors.index.json"
SHOWN = 5  # places that a message names
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<shards>\d{5})\.safetensors")


@dataclass(frozen=True)
class Part:
    """One folder of a checkpoint set: its name, and the files in it that are used."""

    folder: str
    files: tuple[FileInfo, ...]

    @property
    def names(self) -> list[str]:
        return [posixpath.basename(file.path) for file in self.files]


def open_checkpoints(place: str, options: StorageSpec) -> Store:
    """The store of a checkpoint set. Links are followed: a model hub's cache consists of them."""
    return open_store(place, options, follow_links=True)


def find_variant(store: Store, name: str) -> Part:
    """The model folder called `name`, or meant by the alias `name` (`base` → `acestep-v15-base`).

    Raises MissingInputError with the variants that there are, or the files that the folder lacks.
    """
    files = store.list_files()
    found = _folders(files)
    if not found and store.local_root and not store.local_root.is_dir():
        raise MissingInputError(f"there is no folder {store.place}. Check the path, and what is mounted.")
    folder = name if name in found else ALIASES.get(name, name)
    if folder not in found:
        raise MissingInputError(f"no model variant {name!r} in {store.place}\n  {_place_meant(store, files)}")
    part = _part(store, folder, found[folder], needed=("config.json", "*.safetensors", SILENCE_FILE))
    part = _without_copies(part)
    weight_names(store, part)
    return part


def find_vae(store: Store) -> Part:
    """The autoencoder's folder. Raises MissingInputError where it is not there or not complete."""
    return _without_copies(_find(store, VAE_FOLDER, needed=("config.json", "*.safetensors")))


def pull_part(store: Store, part: Part, workspace: Workspace, title: str) -> Path:
    """Bring a part of a checkpoint set to this machine, and return the folder of the set.

    Weights that an earlier pull has left in the part's folder, and that it no longer has, are deleted.
    """
    root = pull(store, part.files, workspace, title)
    if store.local_root is None:
        for path in (root / part.folder).glob("*"):
            if path.name not in part.names and (is_weights(path.name) or _is_index(path.name)):
                path.unlink()
    return root


def _without_copies(part: Part) -> Part:
    """The part without weights in another precision, which are not pulled, and without macOS's notes."""
    stems = {_stem(name) for name in part.names if is_weights(name) or _is_index(name)}
    kept = [
        file
        for file in part.files
        if not (name := posixpath.basename(file.path)).startswith("._") and not _is_copy_of(name, stems)
    ]
    return Part(part.folder, tuple(kept))


def _is_copy_of(name: str, stems: set[str]) -> bool:
    return (is_weights(name) or _is_index(name)) and _is_copy(_stem(name), stems)


def find_text_encoder(store: Store) -> Part:
    """The text encoder's folder. Raises MissingInputError where it is not there or not complete."""
    return _find(store, TEXT_ENCODER_FOLDER, needed=("config.json", "*.safetensors", "tokenizer.json"))


class _ShardIndex(BaseModel):
    weight_map: dict[str, str]


def shard_names(content: bytes, name: str) -> list[str]:
    """The safetensors files that an index names, sorted; `name` is what messages call the index.

    Raises BadDataError where it is no index, or names a file outside its folder.
    """
    names = sorted(set(parse_as(_ShardIndex, content, name).weight_map.values()))
    if outside := [shard for shard in names if posixpath.basename(shard) != shard]:
        raise BadDataError(f"{name} names files outside its folder: {outside}")
    return names


def weight_names(store: Store, part: Part) -> list[str]:
    """The safetensors files of a part that count, see `choose_weights`."""
    return choose_weights(
        part.names,
        lambda name: store.read_small(f"{part.folder}/{name}"),
        f"{store.place}/{part.folder}",
    )


def choose_weights(names: Iterable[str], read: Callable[[str], bytes], where: str) -> list[str]:
    """Of the files in a model's folder, the safetensors that count: those that its index names, else all.

    A copy in another precision (`model.fp16.safetensors` beside `model.safetensors`) does not count.

    Args:
        read: gives the content of one of the files.
        where: what messages call the folder.

    Raises MissingInputError for a shard that is not there, before gigabytes of others are pulled, and
    BadDataError where the same weights are there twice, whole and in shards.
    """
    stems = {name: _stem(name) for name in sorted(names) if is_weights(name) or _is_index(name)}
    own = set(stems.values())
    kept = {name: stem for name, stem in stems.items() if not _is_copy(stem, own)}
    indexes = [name for name in kept if _is_index(name)]
    weights = [name for name in kept if is_weights(name)]
    for stem in sorted(set(kept.values())):
        whole = f"{stem}.safetensors"
        if whole in kept and (twice := [name for name in weights if kept[name] == stem and name != whole]):
            raise BadDataError(
                f"{where} has the same weights twice: {whole}, and in shards, {', '.join(twice)}\n"
                "  keep one of the two, the one that was downloaded last and whole"
            )
    wanted = set(shard_names(read(indexes[0]), f"{where}/{indexes[0]}")) if indexes else _all_shards(weights)
    if missing := sorted(wanted - set(names)):
        said_by = f"which {indexes[0]} names" if indexes else "by the names of the others"
        raise MissingInputError(
            f"{where} lacks {', '.join(missing)}, {said_by}\n  download this folder again, whole"
        )
    return sorted(wanted) if indexes else weights


def _all_shards(weights: list[str]) -> set[str]:
    """The names of all shards of which one is there."""
    found = [match for name in weights if (match := _SHARD.fullmatch(name))]
    return {
        f"{match['stem']}-{number:05}-of-{match['shards']}.safetensors"
        for match in found
        for number in range(1, min(int(match["shards"]), 1000) + 1)
    }


def _stem(name: str) -> str:
    """`model` of model.safetensors, model-00001-of-00002.safetensors and model.safetensors.index.json."""
    match = _SHARD.fullmatch(name)
    return match["stem"] if match else name.removesuffix(INDEX_SUFFIX).removesuffix(".safetensors")


def _is_copy(stem: str, stems: set[str]) -> bool:
    """Whether weights are others' in another precision: `model.fp16`, where `model` is there."""
    return "." in stem and stem.rpartition(".")[0] in stems


def _is_index(name: str) -> bool:
    return name.endswith(INDEX_SUFFIX) and not name.startswith(".")


def _find(store: Store, folder: str, needed: tuple[str, ...]) -> Part:
    files = [file for file in store.list_files(folder) if file.path.count("/") == 1]
    if not files:
        raise MissingInputError(
            f"no folder {folder}/ in {store.place}\n"
            "  checkpoint_dir must hold the whole set: the model's folder, vae/ and Qwen3-Embedding-0.6B/"
        )
    return _part(store, folder, files, needed)


def _folders(files: Iterable[FileInfo]) -> dict[str, list[FileInfo]]:
    """Folder name → its direct files, for every folder right below the checkpoint directory."""
    folders: dict[str, list[FileInfo]] = {}
    for file in files:
        folder, slash, rest = file.path.partition("/")
        if slash and "/" not in rest:
            folders.setdefault(folder, []).append(file)
    return folders


def _place_meant(store: Store, files: list[FileInfo]) -> str:
    """What to set instead, where the model is not in a folder of `store`: by what is there."""
    paths = {file.path for file in files}
    above, _, own = store.place.rpartition("/")
    if store.place.startswith("hf://") and store.place.count("/") == 3 and SILENCE_FILE in paths:
        return (
            f"the repository is one model alone, of a set with {VAE_FOLDER}/ and {TEXT_ENCODER_FOLDER}/: put "
            f"it beside these (`hf download {store.place[5:]} --local-dir checkpoints/{own}`), and set "
            "checkpoint_dir to checkpoints"
        )
    if above and "config.json" in paths and any(is_weights(path) and "/" not in path for path in paths):
        is_model = SILENCE_FILE in paths
        also = f", and model_variant to {FOLDERS.get(own, own)}" if is_model else ""
        what = "a model's own folder" if is_model else "the folder of one part of a set"
        return f"checkpoint_dir is {what}: set checkpoint_dir to the one above it, {above}{also}"
    parents = (posixpath.dirname(posixpath.dirname(path)) for path in paths if is_silence(path))
    if deeper := sorted({parent for parent in parents if parent}):
        places = " or ".join(f"{store.place}/{parent}" for parent in deeper[:SHOWN])
        return f"the models are in a folder below: set checkpoint_dir to {places}"
    return (
        f"there: {_variants_in_words(_folders(files))}\n"
        "  set model_variant to one of these, or checkpoint_dir to the folder above the model's own"
    )


def is_weights(path: str) -> bool:
    """Whether a file holds weights by its name. macOS puts `._model.safetensors` beside: its own notes."""
    return path.endswith(".safetensors") and not posixpath.basename(path).startswith(".")


def is_silence(path: str) -> bool:
    return posixpath.basename(path) == SILENCE_FILE


def _variants_in_words(folders: dict[str, list[FileInfo]]) -> str:
    variants = [
        f"{FOLDERS[folder]} ({folder})" if folder in FOLDERS else folder
        for folder, files in sorted(folders.items())
        if folder not in (VAE_FOLDER, TEXT_ENCODER_FOLDER)
        and any(file.path.endswith(f"/{SILENCE_FILE}") for file in files)
    ]
    return ", ".join(variants) or "no model at all"


def _part(store: Store, folder: str, files: list[FileInfo], needed: tuple[str, ...]) -> Part:
    names = {file.path.removeprefix(f"{folder}/") for file in files}
    missing = [
        pattern
        for pattern in needed
        if not (any(map(is_weights, names)) if "*" in pattern else pattern in names)
    ]
    if missing:
        for name in missing:
            store.refuse_folder(f"{folder}/{name}")
        raise MissingInputError(
            f"{store.place}/{folder} is not complete: it has no {', no '.join(missing)}\n"
            "  download this folder again, whole"
        )
    used = (".json", ".safetensors", SILENCE_FILE, "merges.txt")
    return Part(folder, tuple(file for file in files if file.path.endswith(used)))
