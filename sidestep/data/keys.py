"""Digests of all that tensors are made of: where the key is the same, they need not be made again.

Not a file's name or time but its content decides, so a changed caption, setting or checkpoint never
reuses old tensors, and a moved dataset or a new machine does not make them anew.
"""

import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

from sidestep.acestep.layout import Part, find_variant, pull_part
from sidestep.config.schema import PreprocessSpec
from sidestep.config.training import Alternate
from sidestep.data.dataset import Song
from sidestep.data.index import Index
from sidestep.data.prompts import alternates_of, lyrics_prompt, text_prompt
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull

RECIPE_VERSION = 1
"""To be counted up with every change of the code that changes the tensors it makes."""

DEFAULT_DURATION: int = PreprocessSpec.model_fields["max_duration"].default


@dataclass(frozen=True)
class Recipe:
    """The settings and digests of weights that the tensors of every song are made with."""

    max_duration: float
    levels: dict[str, float]
    lyrics_format: str
    timbre: str
    vae: str
    text_encoder: str
    model: str
    version: int = RECIPE_VERSION
    float_scale: int = 1
    alternates: tuple[Alternate, ...] = ()


def levels(spec: PreprocessSpec) -> dict[str, float]:
    """The levels that songs are brought to: {} for none, {"peak": dBFS}, or {"peak": dBFS, "lufs": LUFS}."""
    match spec.normalize:
        case "none":
            return {}
        case "peak":
            return {"peak": spec.target_db}
        case _:
            return {"peak": spec.target_db, "lufs": spec.target_lufs}


def recipe_of(
    settings: PreprocessSpec, vae: str, text_encoder: str, model: str, alternates: Sequence[Alternate] = ()
) -> Recipe:
    """What `settings` make of a song; the weights by their digests.

    `alternates` are all prompts that are wanted beside each song's own, also for what training is set to.
    """
    return Recipe(
        max_duration=settings.max_duration,
        levels=levels(settings),
        lyrics_format=settings.lyrics_format,
        timbre=settings.timbre,
        vae=vae,
        text_encoder=text_encoder,
        model=model,
        float_scale=settings.float_scale,
        alternates=tuple(sorted({*settings.alternates, *alternates})),
    )


def recipes_alike(recipe: Recipe) -> list[Recipe]:
    """The recipe as keys have it, and as they had it where the same was said in another way.

    Keys of older versions tell a whole number of seconds that was nobody's choice, 240, from the same one as
    a flag, a file or an output's job.yaml says it, 240.0.
    """
    seconds = recipe.max_duration
    if seconds != DEFAULT_DURATION:
        return [recipe]
    return [replace(recipe, max_duration=said) for said in (DEFAULT_DURATION, float(seconds))]


def recipe_digest(recipe: Recipe) -> str:
    """The same for all that make the same of a song: what shards of one dataset have in common."""
    return _digest({**asdict(recipe), "max_duration": float(recipe.max_duration)})


def latents_key(audio: str, recipe: Recipe) -> str:
    """The key of a song's latents: digest of its bytes (`audio`), level, length that is used, and the VAE."""
    parts = {"length": recipe.max_duration, "levels": recipe.levels, "vae": recipe.vae}
    return _digest({"audio": audio, **parts, "version": recipe.version, **_of_floats(recipe)})


def tensors_key(song: Song, audio: str, recipe: Recipe) -> str:
    """The key of a song's `.pt` file. The prompts enter without the duration, which follows from the rest.

    Other prompts enter where there are some: so all other keys are those of older versions.
    """
    prompts = {"prompt": text_prompt(song, None), "lyrics": lyrics_prompt(song, recipe.lyrics_format)}
    settings = dict(vars(recipe))
    del settings["float_scale"], settings["alternates"]
    others = {name: text_prompt(as_, None) for name, as_ in alternates_of(song, recipe.alternates).items()}
    return _digest(
        {"audio": audio, **prompts, **settings, **_of_floats(recipe)}
        | ({"alternates": others} if others else {})
    )


def _of_floats(recipe: Recipe) -> dict[str, int]:
    """Nothing for a full scale of 1, as in keys made before another could be set."""
    return {} if recipe.float_scale == 1 else {"float_scale": recipe.float_scale}


@dataclass(frozen=True)
class Work:
    """A song, the digest of its file, and the keys of what is made of it."""

    song: Song
    audio: str
    latents: str
    tensors: str
    alternates: Mapping[Alternate, Song] = field(default_factory=dict)  # the song as other prompts have it

    @property
    def latents_file(self) -> str:
        return f"latents-{self.latents}.safetensors"

    @property
    def texts_file(self) -> str:
        return f"texts-{self.tensors}.safetensors"


def weights_digest(part: Part, digests: dict[str, str]) -> str:
    """A digest of the content of a model's folder, whatever the folder is called."""
    return _digest({posixpath.basename(file.path): digests[file.path] for file in part.files})


class PulledModel(NamedTuple):
    """A model's files on this machine."""

    root: Path  # of the checkpoint set
    folder: str  # of the model, in it
    digest: str  # of what is in its files


def pull_model(store: Store, variant: str, workspace: Workspace) -> PulledModel:
    """Pull a model from a checkpoint set. Raises MissingInputError where it is not there, or not whole."""
    part = find_variant(store, variant)
    root = pull_part(store, part, workspace, f"Pulling {part.folder}")
    digests = digests_of(store, part.files, Index(), workspace, part.folder)
    return PulledModel(root, part.folder, weights_digest(part, digests))


def digests_of(
    store: Store, files: Sequence[FileInfo], known: Index, workspace: Workspace, what: str
) -> dict[str, str]:
    """Path → sha256 of the content, for files of a store. Only those that `known` does not know are read."""
    unknown = [file for file in files if known.sha256(store, file) is None]
    digests = {file.path: digest for file in files if (digest := known.sha256(store, file))}
    if unknown:
        folder = pull(store, unknown, workspace, f"Pulling {what}")
        with (
            track(f"Reading {what}", sum(file.size for file in unknown), "B") as bar,
            ThreadPoolExecutor() as pool,  # hashing leaves Python's lock to the others
        ):
            found = pool.map(sha256_of, [copy_of(store, folder, file.path) for file in unknown])
            for file, digest in zip(unknown, found, strict=True):
                digests[file.path] = digest
                bar.advance(file.size)
    return digests


def sha256_of(path: Path) -> str:
    """The digest of a local file's content."""
    with local_errors(path), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _digest(content: dict[str, Any]) -> str:
    return sha256(json_bytes(content)).hexdigest()
