"""The tiny checkpoint set: real layout, repeatable bytes."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sidestep.acestep.loading import load_vae
from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.acestep.vae import encode_audio
from sidestep.runtime.errors import UsageError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tiny_checkpoint(tmp_path / name, variants=("turbo",), seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["acestep-v15-turbo/model.safetensors"] != c["acestep-v15-turbo/model.safetensors"]


def test_its_keys_are_the_originals(tiny_checkpoints: Path, golden: Path) -> None:
    """All but those for cover conditioning, which training does not read."""
    for variant in ("acestep-v15-base", "acestep-v15-turbo", "acestep-v15-xl-base"):
        shapes = []
        for root in (tiny_checkpoints, golden / "checkpoints"):
            with safe_open(root / variant / "model.safetensors", "pt") as file:
                shapes.append({key: file.get_slice(key).get_shape() for key in file.keys()})  # noqa: SIM118
        tiny, original = shapes
        assert tiny == {k: v for k, v in original.items() if not k.startswith(("tokenizer.", "detokenizer."))}


def test_an_unknown_variant(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="huge"):
        write_tiny_checkpoint(tmp_path, variants=("huge",))


def test_its_latents_stand_out_from_the_noise(tiny_checkpoints: Path) -> None:
    """Near unit variance, as released: else a model has nothing but noise to predict, and learns nothing."""
    generator = torch.Generator().manual_seed(0)
    vae = load_vae(tiny_checkpoints, "cpu", torch.float32)
    latents = encode_audio(vae, 0.2 * torch.randn(2, 24_000, generator=generator))
    assert 0.5 < latents.std() < 2
