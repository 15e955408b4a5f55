"""The songs of the preprocessing tests, and what is made of them."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.storage.open import open_store

SECONDS = 0.1
MakeJob = Callable[..., JobSpec]
Counted = Callable[[], dict[str, int]]


def write_song(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-9000, 9000, (round(SECONDS * 48_000), 2))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(noise.astype("<i2").tobytes())


def tensors(spec: JobSpec) -> dict[str, bytes]:
    store = open_store(spec.tensors_place, spec.storage)
    return {file.path: store.read_bytes(file.path) for file in Preprocessed(store).samples()}


def write_dataset(tmp_path: Path, **fields: Any) -> str:
    """A JSON beside the folder of songs, in which a.wav has these fields."""
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([{"audio_path": "songs/a.wav", **fields}, {"audio_path": "songs/b.wav"}]))
    return str(path)
