"""Readers of a checkpoint set's files: its configs, weights and tokenizer, and how they fit each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sidestep.acestep.headers import check_part
from sidestep.acestep.layout import find_variant, open_checkpoints
from sidestep.acestep.loading import load_text_encoder, load_tokenizer, load_vae
from sidestep.config.schema import StorageSpec
from tests.fuzz.kind import Loader, files

CHECKPOINTS = Path(__file__).parents[1] / "golden" / "checkpoints"
MODEL, TEXTS, VAE = "acestep-v15-base", "Qwen3-Embedding-0.6B", "vae"


def _in_part(part: str, name: str, look: Callable[[Path], Any]) -> Loader:
    """A checkpoint set's folder `part` in which the file `name` is another one."""

    def read(data: bytes, folder: Path) -> None:
        (folder / part).mkdir()
        for file in (CHECKPOINTS / part).iterdir():
            if file.name != name:
                (folder / part / file.name).symlink_to(file)
        (folder / part / name).write_bytes(data)
        look(folder)

    return Loader(files(CHECKPOINTS / part / name), read)


def _check_model(folder: Path) -> None:
    store = open_checkpoints(str(folder), StorageSpec())
    check_part(store, find_variant(store, MODEL), "pipeline")


def _load_vae(folder: Path) -> None:
    load_vae(folder, "cpu", torch.float32)


def _load_texts(folder: Path) -> None:
    load_text_encoder(folder, "cpu", torch.float32)


def _load_tokenizer(folder: Path) -> None:
    load_tokenizer(folder / TEXTS)


MODELS = {
    "model-config": _in_part(MODEL, "config.json", _check_model),
    "vae-config": _in_part(VAE, "config.json", _load_vae),
    "text-config": _in_part(TEXTS, "config.json", _load_texts),
    "text-weights": _in_part(TEXTS, "model.safetensors", _load_texts),
    "tokenizer": _in_part(TEXTS, "tokenizer.json", _load_tokenizer),
    "tokenizer-config": _in_part(TEXTS, "tokenizer_config.json", _load_tokenizer),
}
