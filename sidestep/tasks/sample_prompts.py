"""What a sample is asked for by default: what the dataset's songs say, and the trigger word alone.

Texts of songs are in the metadata of their tensors, which an output has unless its job put them elsewhere.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sidestep.data.dataset import INSTRUMENTAL, UNKNOWN_LANGUAGE
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import Sides
from sidestep.data.tensors import Sample, read_sample
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.progress import track
from sidestep.runtime.words import counted
from sidestep.runtime.workspace import Workspace
from sidestep.sampling.takes import Origin, Prompt
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull
from sidestep.training.dataset import song_of

log = logging.getLogger(__name__)

TRAINED = 3
"""Songs whose texts are prompts."""
HELD_OUT = 8
"""Held-out songs whose texts are prompts, at most."""


def default_prompts(tensors: Store, workspace: Workspace, sides: Sides | None) -> list[Prompt]:
    """The texts of the first three songs that were trained on, of the held-out ones, and the trigger word.

    `sides` are those of the adapter; None where no song was held out. Only the tensors that are needed for
    this are pulled: all of them where nobody but they can say which song they are of.

    Raises MissingInputError where there are no tensors, or their songs have no texts.
    """
    dataset = Preprocessed(tensors)
    try:
        files = dataset.files()
    except MissingInputError as error:
        raise MissingInputError(
            f"what to sample is not known: {error}\n"
            "  give it with --prompt and --lyrics, or name the preprocessed songs with --dataset-dir"
        ) from error
    trained, held_out = _by_side(dataset, files, workspace, sides)
    if len(held_out) > HELD_OUT:
        log.info("Of %s, %d are sampled", counted(len(held_out), "held-out songs"), HELD_OUT)
    said: list[dict[str, Any]] = []
    prompts: list[Prompt] = []
    sources: tuple[tuple[Origin, list[FileInfo]], ...] = (
        ("training", trained[:TRAINED]),
        ("held-out", held_out[:HELD_OUT]),
    )
    for source, chosen in sources:
        for _, sample in _read(tensors, chosen, workspace):
            said.append(sample.metadata)
            prompts.append(_prompt_of(sample.metadata, source))
    tags = Counter(tag for metadata in said if (tag := _text(metadata, "custom_tag")))
    if tags:
        prompts.append(Prompt(caption=tags.most_common(1)[0][0], source="trigger"))
    if not any(prompt.caption or prompt.lyrics for prompt in prompts):
        raise MissingInputError(
            f"the songs in {tensors.place} do not say what they are: give --prompt and --lyrics"
        )
    return prompts


def _by_side(
    dataset: Preprocessed, files: Sequence[FileInfo], workspace: Workspace, sides: Sides | None
) -> tuple[list[FileInfo], list[FileInfo]]:
    """The files of songs that were trained on, and of those that were held out; of neither, unknown ones."""
    if sides is None:
        return list(files), []
    audio = dataset.audio
    known = {file.path: sides.side_of("", audio[file.path]) for file in files if file.path in audio}
    unknown = [file for file in files if known.get(file.path) is None]
    for file, sample in _read(dataset.store, unknown, workspace):
        song = song_of(sample, file.path, audio.get(file.path, ""))
        known[file.path] = sides.side_of(song.latents, song.audio)
    trained = [file for file in files if known[file.path] is False]
    return trained, [file for file in files if known[file.path]]


def _read(
    tensors: Store, files: Sequence[FileInfo], workspace: Workspace
) -> Iterable[tuple[FileInfo, Sample]]:
    if not files:
        return
    folder = pull(tensors, files, workspace, "Pulling songs' texts")
    with track("Reading songs' texts", len(files), "songs") as bar:
        for file in files:
            yield file, read_sample(copy_of(tensors, folder, file.path))
            bar.advance(1)


def _prompt_of(metadata: dict[str, Any], source: Origin) -> Prompt:
    """As the song was trained; of other trainers' files, as far as they say it."""
    bpm = metadata.get("bpm")
    return Prompt(
        caption=_text(metadata, "caption"),
        lyrics=_text(metadata, "lyrics") or INSTRUMENTAL,
        source=source,
        song=_text(metadata, "filename"),
        language=_text(metadata, "language") or UNKNOWN_LANGUAGE,
        bpm=bpm if isinstance(bpm, int) and bpm > 0 else None,
        keyscale=_text(metadata, "keyscale"),
        timesignature=_text(metadata, "timesignature"),
    )


def _text(metadata: dict[str, Any], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""
