"""Songs → tensors, in the guide's two passes. Each model is in memory for its own work only.

Pass 1 turns songs into latents (VAE) and texts into hidden states (text encoder); both are kept, song by
song, until pass 2 has made conditions of them (the DiT's condition encoder) and written the tensors.
All of it is computed in fp32: tensors outlive the machine they are made on and should not depend on it.

Every song is decoded once before any model is read, so that bad ones show at once and early.

Nothing is made twice. Finished tensors are found by their key, so the same command again makes what is
missing, and with nothing missing it loads no model and reads no song.
"""

import gc
import logging
import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sidestep.acestep.conditioning import (
    LYRICS_TOKENS,
    RAW_LYRICS_TOKENS,
    embed_lyrics,
    encode_conditions,
    encode_text,
)
from sidestep.acestep.layout import Part, find_text_encoder, find_vae, find_variant
from sidestep.acestep.loading import load_model, load_text_encoder, load_vae
from sidestep.acestep.vae import SAMPLE_RATE, encode_audio
from sidestep.config.schema import PreprocessSpec, StorageSpec
from sidestep.data.audio import read_audio
from sidestep.data.dataset import Song, by_store, read_songs
from sidestep.data.index import Index, read_index, tensors_file, write_index
from sidestep.data.keys import Recipe, digests_of, latents_key, tensors_key, weights_digest
from sidestep.data.level import levels, normalized
from sidestep.data.preview import has_preview, write_preview
from sidestep.data.probe import sound_songs
from sidestep.data.prompts import lyrics_prompt, prompt_caption, text_prompt
from sidestep.data.tensors import Sample, sample_bytes, silent_context
from sidestep.data.unfinished import Unfinished
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.progress import track
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import pull
from sidestep.training.machine import choose_machine

log = logging.getLogger(__name__)

TOKENS_OF_LYRICS = {"inference": LYRICS_TOKENS, "raw": RAW_LYRICS_TOKENS}


@dataclass(frozen=True)
class Models:
    """The parts of the checkpoint set that songs go through."""

    vae: Part
    text_encoder: Part
    model: Part


@dataclass(frozen=True)
class Work:
    """A song, and the keys of what is made of it."""

    song: Song
    latents: str
    tensors: str

    @property
    def latents_file(self) -> str:
        return f"latents-{self.latents}.safetensors"

    @property
    def texts_file(self) -> str:
        return f"texts-{self.tensors}.safetensors"


def preprocess(job: Job, reporter: Reporter) -> None:
    """Make the tensors of all songs of a job.

    Raises SideStepErrors of what it reads: the dataset, songs, checkpoints and places.
    """
    tensors, store = job.tensors, job.checkpoints
    songs = read_songs(job.songs, job.dataset_json)
    # All models are found before any of them is pulled.
    models = Models(find_vae(store), find_text_encoder(store), find_variant(store, job.spec.model_variant))
    scratch = open_store(str(job.workspace.scratch("preprocess")), StorageSpec())
    unfinished = Unfinished(scratch, tensors)
    known = read_index(tensors) or Index()
    songs = sound_songs(songs, job.spec.preprocess, known, job.workspace)
    works, index = _plan(job, models, songs, known)
    write_index(tensors, index)
    missing = _not_made(works, tensors)
    if not missing:
        unfinished.clear()
        log.info("All %d songs are preprocessed already, in %s", len(songs), tensors.place)
        return

    reporter.begin("preprocess")
    device = choose_machine(job.spec.runtime).device
    log.info("Preprocessing %d of %d songs, in fp32 on %s", len(missing), len(songs), device)
    _encode_songs(job, models.vae, missing, unfinished, device, shown=works[0].latents)
    _free_memory()
    _encode_texts(job, models.text_encoder, missing, unfinished, device)
    _free_memory()
    _encode_conditions(job, models.model, missing, unfinished, device)
    _free_memory()
    unfinished.clear()
    log.info("All %d songs are preprocessed, in %s", len(songs), tensors.place)


def _plan(job: Job, models: Models, songs: list[Song], known: Index) -> tuple[list[Work], Index]:
    """What is to be made of each song, and the index that says so.

    Songs and weights are read for this only where the last run's index does not know them.
    """
    settings, index = job.spec.preprocess, Index()

    def digests(
        store: Store, files: Sequence[FileInfo], what: str, probed: float | None = None
    ) -> dict[str, str]:
        found = digests_of(store, files, known, job.workspace, what)
        for file in files:
            index.remember(store, file, found[file.path], probed)
        return found

    audio: dict[str, str] = {}  # by the song's place
    for store, files in by_store(songs):
        found = digests(store, files, "songs", probed=settings.max_duration)
        audio |= {f"{store.place}/{path}": digest for path, digest in found.items()}
    parts = (models.vae, models.text_encoder, models.model)
    weights = digests(job.checkpoints, [file for part in parts for file in part.files], "the model")
    vae, text_encoder, model = (weights_digest(part, weights) for part in parts)
    recipe = Recipe(
        max_duration=settings.max_duration,
        levels=levels(settings),
        lyrics_format=settings.lyrics_format,
        timbre=settings.timbre,
        vae=vae,
        text_encoder=text_encoder,
        model=model,
    )
    works = [
        Work(song, latents_key(audio[song.place], recipe), tensors_key(song, audio[song.place], recipe))
        for song in songs
    ]
    index.samples = {work.song.place: work.tensors for work in works}
    if copies := len(works) - len(set(index.samples.values())):
        log.warning("%d songs have the same sound and texts as others, and count once", copies)
    return works, index


def _not_made(works: list[Work], tensors: Store) -> list[Work]:
    there = {file.path for file in tensors.list_files()}
    unique = {work.tensors: work for work in works}
    return [work for key, work in unique.items() if tensors_file(key) not in there]


def _encode_songs(
    job: Job, part: Part, works: list[Work], unfinished: Unfinished, device: torch.device, shown: str
) -> None:
    """Pass 1, first half: each song's latents. A new caption finds them there.

    `shown` are those of the song that a preview is made of.
    """
    settings = job.spec.preprocess
    unheard = "" if has_preview(job.tensors) else shown
    unique = {
        work.latents: work
        for work in works
        if work.latents == unheard or not unfinished.has(work.latents_file)
    }
    if not unique:
        return
    folders = {
        store.place: pull(store, files, job.workspace, "Pulling songs")
        for store, files in by_store([work.song for work in unique.values()])
    }
    checkpoints = pull(job.checkpoints, part.files, job.workspace, "Pulling the VAE")
    vae = load_vae(checkpoints, device, torch.float32)
    seconds, started = 0.0, time.monotonic()
    with track("Pass 1, songs", len(unique), "songs") as bar:
        for work in unique.values():
            waveform = read_audio(folders[work.song.store.place] / work.song.path, settings.max_duration)
            waveform = normalized(waveform, levels(settings), work.song.path)
            made = {"latents": encode_audio(vae, waveform), "samples": torch.tensor(waveform.shape[1])}
            if work.latents == shown:
                write_preview(job.tensors, vae, waveform, made["latents"])
            unfinished.write(work.latents_file, made)
            seconds += waveform.shape[1] / SAMPLE_RATE
            bar.advance(1, note=f"{seconds / (time.monotonic() - started):.1f} s of sound per second")


def _encode_texts(
    job: Job, part: Part, works: list[Work], unfinished: Unfinished, device: torch.device
) -> None:
    """Pass 1, second half: the hidden states of prompts and the embeddings of lyrics."""
    works = [work for work in works if not unfinished.has(work.texts_file)]
    if not works:
        return
    checkpoints = pull(job.checkpoints, part.files, job.workspace, "Pulling the text encoder")
    text_encoder = load_text_encoder(checkpoints, device, torch.float32)
    lyrics_format = job.spec.preprocess.lyrics_format
    limit = TOKENS_OF_LYRICS[lyrics_format]
    with track("Pass 1, texts", len(works), "songs") as bar:
        for work in works:
            samples = unfinished.read(work.latents_file)["samples"]
            prompt = text_prompt(work.song, duration=int(samples) / SAMPLE_RATE)
            made = {
                "prompt": encode_text(text_encoder, prompt),
                "lyrics": embed_lyrics(text_encoder, lyrics_prompt(work.song, lyrics_format), limit),
            }
            unfinished.write(work.texts_file, made)
            bar.advance(1)


def _encode_conditions(
    job: Job, part: Part, works: list[Work], unfinished: Unfinished, device: torch.device
) -> None:
    """Pass 2: conditions of texts, and with them the finished tensors."""
    settings = job.spec.preprocess
    checkpoints = pull(job.checkpoints, part.files, job.workspace, "Pulling the model")
    model = load_model(
        *(checkpoints, part.folder, device, torch.float32),
        parts=("condition_encoder",),
        base_model=job.spec.base_model,
    )
    with track("Pass 2", len(works), "songs") as bar:
        for work in works:
            song = unfinished.read(work.latents_file)
            texts = unfinished.read(work.texts_file)
            sample = Sample(
                song["latents"],
                encode_conditions(model, texts["prompt"], texts["lyrics"], settings.timbre),
                silent_context(model.condition_encoder.silence_latent, len(song["latents"])),
                _metadata(work.song, settings, int(song["samples"]) / SAMPLE_RATE),
            )
            job.tensors.write_bytes(tensors_file(work.tensors), sample_bytes(sample))
            bar.advance(1)


def _metadata(song: Song, settings: PreprocessSpec, seconds: float) -> dict[str, Any]:
    """What a `.pt` file says of itself, under the names that other trainers use. No path of this machine."""
    return {
        "audio_path": song.path,
        "filename": posixpath.basename(song.path),
        "caption": prompt_caption(song),
        "lyrics": song.lyrics,
        "duration": seconds,
        "bpm": song.bpm,
        "keyscale": song.keyscale,
        "timesignature": song.timesignature,
        "language": song.language,
        "genre": song.genre,
        "custom_tag": song.custom_tag,
        "is_instrumental": song.is_instrumental,
        "timbre": settings.timbre,
        "lyrics_format": settings.lyrics_format,
        "levels": levels(settings),
    }


def _free_memory() -> None:
    """Models die with the function that loaded them, but for reference cycles and the GPU's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
