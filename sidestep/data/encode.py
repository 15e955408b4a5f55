"""Songs and their texts through the models, as tensors: the two passes of preprocessing.

Pass 1 turns songs into latents (VAE) and texts into hidden states (text encoder); both are kept, song by
song, until pass 2 has made conditions of them (the DiT's condition encoder) and written the tensors.
Songs are decoded and judged in threads ahead of the VAE, and what is made is written in threads behind it.
All of it is computed in fp32: tensors outlive the machine they are made on and should not depend on it.
"""

import gc
import logging
import posixpath
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import AutoencoderOobleck
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
from sidestep.data.checked import Checked
from sidestep.data.dataset import Song, by_store
from sidestep.data.index import Stored, tensors_file
from sidestep.data.keys import Work, levels
from sidestep.data.level import normalized
from sidestep.data.made import Made
from sidestep.data.preview import has_preview, write_preview
from sidestep.data.probe import Decoded, decoded, problem_in
from sidestep.data.prompts import lyrics_prompt, prompt_caption, text_prompt
from sidestep.data.survey import Heard
from sidestep.data.tensors import (
    AUDIO,
    Sample,
    Silence,
    checked_of,
    read_sample,
    sample_bytes,
    silent_context,
)
from sidestep.data.unfinished import HEARD, Unfinished, packed
from sidestep.runtime import tally
from sidestep.runtime.beside import Behind, made_ahead
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store
from sidestep.storage.transfer import copy_of, pull, using_copies

log = logging.getLogger(__name__)

_DECODERS = 3  # beside a GPU; a VAE on the CPU takes all cores itself
_WRITERS = 4
_WAITING = 8  # made, and not written yet: some 5 MB each

TOKENS_OF_LYRICS = {"inference": LYRICS_TOKENS, "raw": RAW_LYRICS_TOKENS}


@dataclass(frozen=True)
class SongEncoder:
    """What the passes work with. Each pass pulls its own model, and has it in memory while it lasts.

    Attributes:
        checkpoints: where the models are.
        tensors: where what is made goes.
        unfinished: latents and texts on their way.
        made: which tensors are there; those that the passes make are added.
        checked: what is known of the files of these, by their digests.
        heard: what was heard of songs, by the keys of their latents.
        bad: why songs cannot be used, in the same way.
    """

    checkpoints: Store
    tensors: Store
    unfinished: Unfinished
    workspace: Workspace
    settings: PreprocessSpec
    base_model: str | None
    device: torch.device
    made: Made = field(default_factory=Made)
    checked: dict[str, Checked] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    def encode(self, text_encoder: Part, model: Part, works: Sequence[Work]) -> None:
        """What follows the songs, in both passes. Raises GoneError where a result of the first is gone before
        the second has used it."""
        self.encode_texts(text_encoder, works)
        free_memory()
        self.encode_conditions(model, works)
        free_memory()

    def encode_songs(self, part: Part, works: Sequence[Work], shown: str) -> None:
        """Pass 1, first half: each song's latents, by the VAE in `part`. A new caption finds them there.

        `shown` are those of the song that a preview is made of. Songs that cannot be used are in `bad`
        afterwards; where the spec says that one of them ends the job, no other one is encoded after it.
        """
        unheard = "" if has_preview(self.unfinished.beside) else shown
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
        following = dict(pairwise(unique))
        seconds, started = 0.0, time.monotonic()
        decoders = _DECODERS if self.device.type == "cuda" else 1
        with (
            track("Pass 1, songs", len(unique), "songs") as bar,
            self._behind() as behind,
            # One more than is decoded: the one that the VAE has.
            closing(
                made_ahead(lambda work: self._decoded(work, folders), unique.values(), decoders, decoders + 1)
            ) as songs,
        ):
            for work in unique.values():
                song = next(songs)
                if isinstance(song, str):
                    self.bad[work.latents] = song
                    shown = following.get(shown, "") if work.latents == shown else shown
                elif not (self.bad and self.settings.on_bad_file == "fail"):
                    self.heard[work.latents] = song.heard
                    made = self._latents(vae, song, work, is_shown=work.latents == shown)
                    behind.call(self.unfinished.write, work.latents_file, made)
                    seconds += song.heard.seconds
                del song  # before the next one is asked for
                bar.advance(1, note=f"{seconds / (time.monotonic() - started):.1f} s of sound per second")

    def _decoded(self, work: Work, folders: Mapping[str, Path]) -> Decoded | str:
        """A song at the level that is asked for, or why it cannot be used. Called in threads."""
        song = work.song
        file = copy_of(song.store, folders[song.store.place], song.path)
        try:
            with using_copies(song.store, [song.file], self.workspace):
                found = decoded(file, self.settings.max_duration, self.settings.float_scale)
        except (BadDataError, OSError) as error:
            return problem_in(error, file)
        return replace(found, waveform=normalized(found.waveform, levels(self.settings), song.path))

    def _latents(
        self, vae: AutoencoderOobleck, song: Decoded, work: Work, is_shown: bool
    ) -> dict[str, Tensor]:
        """What is kept of a song until its tensors are made: what was heard of it is beside its latents."""
        latents = encode_audio(vae, song.waveform)
        _check_finite(latents, "the latents", work.song)
        if is_shown:
            write_preview(self.unfinished.beside, vae, song.waveform, latents)
        samples = torch.tensor(song.waveform.shape[1])
        return {"latents": latents, "samples": samples, HEARD: packed(song.heard)}

    def _behind(self) -> Behind:
        return Behind(min(_WRITERS, self.tensors.options.connections), _WAITING)

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
        with track("Pass 1, texts", len(works), "songs") as bar, self._behind() as behind:
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
                behind.call(self.unfinished.write, work.texts_file, made)
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
        silence = Silence.of(model.condition_encoder.silence_latent)
        with track("Pass 2", len(works), "songs") as bar, self._behind() as behind:
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
                    silent_context(silence.latents, len(song["latents"])),
                    _metadata(work, self.settings, int(song["samples"]) / SAMPLE_RATE),
                    dict(zip(work.alternates, others, strict=True)),
                )
                for made in (conditions, *others):
                    _check_finite(made, "the conditions", work.song)
                behind.call(self._publish, work, sample, silence)
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

    def _publish(self, work: Work, sample: Sample, silence: Silence) -> None:
        """Write a song's tensors, but where another attempt was faster: a machine of another kind may have
        made them of other bits, and then each digest that was kept is of those that are there."""
        key = work.tensors
        data = self._as_before(key, sample)
        file = tensors_file(key)
        there = None if key in self.made.damaged else self.tensors.stat(file)
        if there:
            data = self.tensors.read_bytes(file)
        else:
            self.unfinished.note_digest(key, sha256(data).hexdigest())
            self.tensors.write_bytes(file, data)
            there = self.tensors.stat(file)
        digest = self.made.sound[key] = sha256(data).hexdigest()
        if there:  # else the store does not show it yet
            self.made.stored[digest] = Stored.of(there)
        read = read_sample(data, file, tuple(work.alternates))
        self.checked[digest] = checked_of(read, len(data), get_args(Alternate), silence)
        tally.add(tally.SONGS)


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
