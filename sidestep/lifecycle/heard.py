"""The sounds that a run makes while it trains: `samples/` in its output, with a list and a picture of each.

A sound that is there, made with the same adapter from the same noise, is never made again, whichever attempt
has made it. Each is written as soon as it is made, before the list tells of it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from sidestep.data.audio import SAMPLE_RATE, read_audio
from sidestep.data.level import loudness
from sidestep.data.preview import Sound, wav_bytes
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.workspace import Workspace
from sidestep.sampling.audio import flac_bytes
from sidestep.sampling.kept import FILE as CONDITIONS
from sidestep.sampling.kept import asked_of, kept_bytes, read_kept
from sidestep.sampling.takes import FILE, Prompt, Take, begin_samples, file_name, picture_of, title_of
from sidestep.sampling.wish import Settings
from sidestep.storage.store import Store
from sidestep.storage.transfer import copy_of, pull
from sidestep.training.mel import mel_png

log = logging.getLogger(__name__)


class Sounds:
    """What is in `samples/`, for one attempt at a run."""

    def __init__(
        self,
        store: Store,
        workspace: Workspace,
        variant: str,
        weights: str,
        prompts: Sequence[Prompt],
        settings: Settings,
    ) -> None:
        """`variant` and `weights` are the model's folder and digest.

        Raises UsageError for sounds of another model, BadDataError where the list is damaged.
        """
        self._store, self._workspace, self._settings = store, workspace, settings
        self._samples = begin_samples(store, variant, weights)
        self._unkept: bytes | None = None  # conditions that are not in the store yet
        numbers = dict.fromkeys(self._samples.number_of(prompt) for prompt in prompts)
        self.prompts = {number: self._samples.prompts[number] for number in numbers}
        """Each once, by its number in the list."""
        self._asked = asked_of(list(self.prompts.values()), settings.seconds, weights)

    def conditions(self) -> list[Tensor] | None:
        """What an earlier attempt has kept of the prompts' conditions [L, D]; None where it has not."""
        return read_kept(self._store, self._asked, self._workspace)

    def keep_conditions(self, conditions: Sequence[Tensor]) -> None:
        """Let later attempts have them, once a sound is written: who has not begun yet writes nothing."""
        self._unkept = kept_bytes(conditions, self._asked)

    def take(self, number: int, checkpoint: str | None, adapter: str | None) -> Mapping[str, Any]:
        """What is said of a sound of the prompt of that number, as far as it is known before it is made.

        Args:
            checkpoint: what the run's adapter is called at that step; None: the base model.
            adapter: the digest of its weights.
        """
        fields = {
            "prompt": number,
            "strength": 0.0 if checkpoint is None else 1.0,
            "checkpoint": checkpoint,
            "adapter": adapter,
            **asdict(self._settings),
        }
        samples = self._samples
        return {**fields, "file": file_name(samples.prompts[number], fields, samples.weights, "flac")}

    def is_there(self, take: Mapping[str, Any]) -> bool:
        """Whether it has been made, with this very adapter."""
        there = self._samples.find(_taken(take))
        return there is not None and there.adapter == take["adapter"]

    def read(self, take: Mapping[str, Any]) -> Tensor | None:
        """The waveform [2, N] of one that is there; None where it is not, or its file is damaged."""
        file = self._store.stat(take["file"]) if self.is_there(take) else None
        if file is None:
            return None
        path = copy_of(self._store, pull(self._store, [file], self._workspace, "Reading a sound"), file.path)
        try:
            return read_audio(path, self._settings.seconds + 1)
        except BadDataError as error:
            log.warning("%s: it is made again", error)
            return None

    def keep(self, take: Mapping[str, Any], waveform: Tensor) -> None:
        """Write it and its picture, then tell of it; one of an older adapter in its place is deleted."""
        store, name = self._store, take["file"]
        if self._unkept is not None:
            store.write_bytes(CONDITIONS, self._unkept)
            self._unkept = None
        older = self._samples.find(_taken(take))
        store.write_bytes(picture_of(name), mel_png(waveform, SAMPLE_RATE))
        store.write_bytes(name, flac_bytes(waveform))
        self._samples.put(_taken(take, round(loudness(waveform), 2)))
        store.write_bytes(FILE, self._samples.content())
        if older is not None and older.file != name:
            store.delete(older.file)
            store.delete(picture_of(older.file))

    def sound(self, take: Mapping[str, Any], waveform: Tensor) -> Sound:
        """It as TensorBoard shows it: each prompt by one name, step after step."""
        name = title_of(take["prompt"], self._samples.prompts[take["prompt"]])
        return Sound(name, wav_bytes(waveform), waveform, SAMPLE_RATE)


def _taken(take: Mapping[str, Any], loudness: float = 0) -> Take:
    return Take(loudness=loudness, **take)
