"""Finds the parts of an ACE-Step 1.5 checkpoint set, and the files of each that a task needs.

    checkpoints/
      acestep-v15-base/       config.json, safetensors (one file, or shards with an index), silence_latent.pt
      acestep-v15-turbo/ …    any fine-tune's folder looks the same
      vae/                    diffusers' AutoencoderOobleck
      Qwen3-Embedding-0.6B/   the text encoder and its tokenizer

Only these files are ever pulled or read; the checkpoint's own Python (`modeling_*.py`) is not run.
"""

import posixpath
from dataclasses import dataclass

from pydantic import BaseModel

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import parse_as
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store

VAE_FOLDER = "vae"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
ALIASES = {
    alias: f"acestep-v15-{alias}" for alias in ("turbo", "base", "sft", "xl-turbo", "xl-base", "xl-sft")
}
FOLDERS = {folder: alias for alias, folder in ALIASES.items()}
SILENCE_FILE = "silence_latent.pt"
INDEX_SUFFIX = ".safetensors.index.json"


@dataclass(frozen=True)
class Part:
    """One folder of a checkpoint set: its name, and the files in it that are used."""

    folder: str
    files: tuple[FileInfo, ...]


def open_checkpoints(place: str, options: StorageSpec) -> Store:
    """The store of a checkpoint set. Links are followed: a model hub's cache consists of them."""
    return open_store(place, options, follow_links=True)


def find_variant(store: Store, name: str) -> Part:
    """The model folder called `name`, or meant by the alias `name` (`base` → `acestep-v15-base`).

    Raises MissingInputError with the variants that there are, or the files that the folder lacks.
    """
    found = _folders(store)
    if not found and store.local_root and not store.local_root.is_dir():
        raise MissingInputError(f"there is no folder {store.place}. Check the path, and what is mounted.")
    folder = name if name in found else ALIASES.get(name, name)
    if folder not in found:
        raise MissingInputError(
            f"no model variant {name!r} in {store.place}\n"
            f"  there: {_variants_in_words(found)}\n"
            "  set model_variant to one of these, or checkpoint_dir to the folder above the model's own"
        )
    part = _part(store, folder, found[folder], needed=("config.json", "*.safetensors", SILENCE_FILE))
    _check_shards(store, part)
    return part


def find_vae(store: Store) -> Part:
    """The autoencoder's folder. Raises MissingInputError where it is not there or not complete."""
    return _find(store, VAE_FOLDER, needed=("config.json", "*.safetensors"))


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


def _check_shards(store: Store, part: Part) -> None:
    """A shard that an index names and the folder lacks is noticed before gigabytes of others are pulled."""
    there = {posixpath.basename(file.path) for file in part.files}
    for index in (file.path for file in part.files if file.path.endswith(INDEX_SUFFIX)):
        missing = sorted({*shard_names(store.read_small(index), f"{store.place}/{index}")} - there)
        if missing:
            raise MissingInputError(
                f"{store.place}/{part.folder} lacks {', '.join(missing)}, which {posixpath.basename(index)} "
                "names\n  download this folder again, whole"
            )


def _find(store: Store, folder: str, needed: tuple[str, ...]) -> Part:
    files = [file for file in store.list_files(folder) if file.path.count("/") == 1]
    if not files:
        raise MissingInputError(
            f"no folder {folder}/ in {store.place}\n"
            "  checkpoint_dir must hold the whole set: the model's folder, vae/ and Qwen3-Embedding-0.6B/"
        )
    return _part(store, folder, files, needed)


def _folders(store: Store) -> dict[str, list[FileInfo]]:
    """Folder name → its direct files, for every folder right below the checkpoint directory."""
    folders: dict[str, list[FileInfo]] = {}
    for file in store.list_files():
        folder, slash, rest = file.path.partition("/")
        if slash and "/" not in rest:
            folders.setdefault(folder, []).append(file)
    return folders


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
        if not (any(name.endswith(pattern[1:]) for name in names) if "*" in pattern else pattern in names)
    ]
    if missing:
        raise MissingInputError(
            f"{store.place}/{folder} is not complete: it has no {', no '.join(missing)}\n"
            "  download this folder again, whole"
        )
    used = (".json", ".safetensors", SILENCE_FILE, "merges.txt")
    return Part(folder, tuple(file for file in files if file.path.endswith(used)))
