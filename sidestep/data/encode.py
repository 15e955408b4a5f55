"""Songs and their texts through the models, as tensors: the two passes of preprocessing.

Pass 1 turns songs into latents (VAE) and texts into hidden states (text encoder); both are kept, song by
song, until pass 2 has made conditions of them (the DiT's condition encoder) and written the tensors.
All of it is computed in fp32: tensors outlive the machine they are made on and should not depend on it.
"""

import gc
import logging
import posixpath
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, get_args

import torch
from torch import Tensor

from sidestep.acestep.conditioning import (
    LYRICS_TOKENS,
    PROMPT_TOKENS,
    RAW_LYRICS_TOKENS,
    count_tokens,
    embed_lyrics,
    encode_conditions,
    encode_text,
)
from sidestep.acestep.layout import Part, pull_part
from sidestep.acestep.loading import load_model, load_text_encoder, load_tokenizer, load_vae
from sidestep.acestep.vae import SAMPLE_RATE, encode_audio
from sidestep.config.schema import PreprocessSpec
from sidestep.config.training import Alternate
from sidestep.data.audio import read_audio
from sidestep.data.checked import Checked
from sidestep.data.dataset import Song, by_store
from sidestep.data.index import tensors_file
from sidestep.data.keys import Work, levels
from sidestep.data.level import normalized
from sidestep.data.preview import has_preview, write_preview
from sidestep.data.prompts import lyrics_prompt, prompt_caption, text_prompt
from sidestep.data.tensors import AUDIO, Sample, checked_of, read_sample, sample_bytes, silent_context
from sidestep.data.unfinished import Unfinished
from sidestep.runtime import tally
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store
from sidestep.storage.transfer import copy_of, pull, using_copies

log = logging.getLogger(__name__)

TOKENS_OF_LYRICS = {"inference": LYRICS_TOKENS, "raw": RAW_LYRICS_TOKENS}


@dataclass(frozen=True)
class SongEncoder:
    """What the passes work with. Each pass pulls its own model, and has it in memory while it lasts.

    Attributes:
        checkpoints: where the models are.
        tensors: where what is made goes.
        unfinished: latents and texts on their way.
        damaged: the keys of tensors that are there and are not what was written.
        made: the keys of tensors that this attempt has made, with the sha256 of their files.
        checked: these digests, with what is known of the files, which are sound.
    """

    checkpoints: Store
    tensors: Store
    unfinished: Unfinished
    workspace: Workspace
    settings: PreprocessSpec
    base_model: str | None
    device: torch.device
    damaged: Set[str] = frozenset()
    made: dict[str, str] = field(default_factory=dict)
    checked: dict[str, Checked] = field(default_factory=dict)

    def encode(self, vae: Part, text_encoder: Part, model: Part, works: Sequence[Work], shown: str) -> None:
        """Both passes. Raises GoneError where a result of the first is gone before the second has used it."""
        self.encode_songs(vae, works, shown)
        free_memory()
        self.encode_texts(text_encoder, works)
        free_memory()
        self.encode_conditions(model, works)
        free_memory()

    def encode_songs(self, part: Part, works: Sequence[Work], shown: str) -> None:
        """Pass 1, first half: each song's latents, by the VAE in `part`. A new caption finds them there.

        `shown` are those of the song that a preview is made of.
        """
        unheard = "" if has_preview(self.tensors) else shown
        unique = {
            work.latents: work
            for work in works
            if work.latents == unheard or not self.unfinished.has(work.latents_file)
        }
        if not unique:
            return
        folders = {
            store.place: pull(store, files, self.workspace, "Pulling songs")
            for store, files in by_store([work.song for work in unique.values()])
        }
        checkpoints = pull_part(self.checkpoints, part, self.workspace, "Pulling the VAE")
        with using_copies(self.checkpoints, part.files, self.workspace):
            vae = load_vae(checkpoints, self.device, torch.float32)
        seconds, started = 0.0, time.monotonic()
        with track("Pass 1, songs", len(unique), "songs") as bar:
            for work in unique.values():
                file = copy_of(work.song.store, folders[work.song.store.place], work.song.path)
                with using_copies(work.song.store, [work.song.file], self.workspace):
                    waveform = read_audio(file, self.settings.max_duration, self.settings.float_scale)
                waveform = normalized(waveform, levels(self.settings), work.song.path)
                made = {"latents": encode_audio(vae, waveform), "samples": torch.tensor(waveform.shape[1])}
                _check_finite(made["latents"], "the latents", work.song)
                if work.latents == shown:
                    write_preview(self.tensors, vae, waveform, made["latents"])
                self.unfinished.write(work.latents_file, made)
                seconds += waveform.shape[1] / SAMPLE_RATE
                bar.advance(1, note=f"{seconds / (time.monotonic() - started):.1f} s of sound per second")

    def encode_texts(self, part: Part, works: Sequence[Work]) -> None:
        """Pass 1, second half: what the text encoder in `part` makes of prompts and lyrics."""
        works = [work for work in works if not self.unfinished.has(work.texts_file)]
        if not works:
            return
        checkpoints = pull_part(self.checkpoints, part, self.workspace, "Pulling the text encoder")
        with using_copies(self.checkpoints, part.files, self.workspace):
            text_encoder = load_text_encoder(checkpoints, self.device, torch.float32)
        lyrics_format = self.settings.lyrics_format
        limit = TOKENS_OF_LYRICS[lyrics_format]
        with track("Pass 1, texts", len(works), "songs") as bar:
            for work in works:
                samples = self.unfinished.read(work.latents_file)["samples"]
                seconds = int(samples) / SAMPLE_RATE
                prompts = {"prompt": text_prompt(work.song, seconds)}
                prompts |= {_named(name): text_prompt(as_, seconds) for name, as_ in work.alternates.items()}
                lyrics = lyrics_prompt(work.song, lyrics_format)
                captions = [("caption", prompt, PROMPT_TOKENS) for prompt in prompts.values()]
                for what, text, most in (*captions, ("lyrics", lyrics, limit)):
                    if (tokens := count_tokens(text_encoder, text)) > most:
                        log.warning(
                            "%s: its %s and what stands around make %d tokens; they are cut at %d",
                            *(work.song.path, what, tokens, most),
                        )
                made = {name: encode_text(text_encoder, prompt) for name, prompt in prompts.items()}
                made["lyrics"] = embed_lyrics(text_encoder, lyrics, limit)
                self.unfinished.write(work.texts_file, made)
                bar.advance(1)

    def check_tokenizer(self, text_encoder: Part) -> None:
        """Raise BadDataError where the text encoder's tokenizer is damaged."""
        root = pull_part(self.checkpoints, text_encoder, self.workspace, "Pulling the text encoder")
        with using_copies(self.checkpoints, text_encoder.files, self.workspace):
            load_tokenizer(root / text_encoder.folder)

    def encode_conditions(self, part: Part, works: Sequence[Work]) -> None:
        """Pass 2: conditions of texts, by the model in `part`, and with them the finished tensors."""
        checkpoints = pull_part(self.checkpoints, part, self.workspace, "Pulling the model")
        with using_copies(self.checkpoints, part.files, self.workspace):
            model = load_model(
                *(checkpoints, part.folder, self.device, torch.float32),
                parts=("condition_encoder",),
                base_model=self.base_model,
            )
        with track("Pass 2", len(works), "songs") as bar:
            for work in works:
                song = self.unfinished.read(work.latents_file)
                texts = self.unfinished.read(work.texts_file)
                conditions, *others = (
                    encode_conditions(model, texts[name], texts["lyrics"], self.settings.timbre)
                    for name in ("prompt", *map(_named, work.alternates))
                )
                sample = Sample(
                    song["latents"],
                    conditions,
                    silent_context(model.condition_encoder.silence_latent, len(song["latents"])),
                    _metadata(work, self.settings, int(song["samples"]) / SAMPLE_RATE),
                    dict(zip(work.alternates, others, strict=True)),
                )
                for made in (conditions, *others):
                    _check_finite(made, "the conditions", work.song)
                data = self._publish(work.tensors, self._as_before(work.tensors, sample))
                read = read_sample(data, tensors_file(work.tensors), tuple(work.alternates))
                asked, silence = get_args(Alternate), model.condition_encoder.silence_latent
                self.checked[self.made[work.tensors]] = checked_of(read, len(data), asked, silence)
                tally.add(tally.SONGS)
                bar.advance(1)

    def _as_before(self, key: str, sample: Sample) -> bytes:
        """The file of a sample. Where it is made anew, and an older version made it, it is what that wrote:
        a run that was begun with it goes on with the same bytes alone."""
        data, digest = sample_bytes(sample), self.unfinished.noted_digest(key)
        if digest and digest != sha256(data).hexdigest():
            metadata = {name: value for name, value in sample.metadata.items() if name != AUDIO}
            older = sample_bytes(replace(sample, metadata=metadata))
            if sha256(older).hexdigest() == digest:
                return older
        return data

    def _publish(self, key: str, data: bytes) -> bytes:
        """Write a song's tensors, but where another attempt was faster, and return what is there: a machine
        of another kind may have made them of other bits, and then each digest that was kept is of those."""
        file = tensors_file(key)
        if key not in self.damaged and self.tensors.stat(file):
            data = self.tensors.read_bytes(file)
        else:
            self.unfinished.note_digest(key, sha256(data).hexdigest())
            self.tensors.write_bytes(file, data)
        self.made[key] = sha256(data).hexdigest()
        return data


def _named(alternate: Alternate) -> str:
    """What an alternate prompt's states are called among the unfinished texts."""
    return f"prompt.{alternate}"


def _check_finite(made: Tensor, what: str, song: Song) -> None:
    """Raise BadDataError rather than write tensors that nothing can be trained on."""
    if not made.isfinite().all():
        raise BadDataError(
            f"{what} of {song.place} are NaN or infinite: the song's audio or the model is not sound\n"
            "  try another song; if it is the same there, download the model again"
        )


def _metadata(work: Work, settings: PreprocessSpec, seconds: float) -> dict[str, Any]:
    """What a `.pt` file says of itself, under the names that other trainers use. No path of this machine."""
    song = work.song
    return {
        "audio_path": song.path,
        AUDIO: work.audio,
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


def free_memory() -> None:
    """Models die with the function that loaded them, but for reference cycles and the GPU's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
