"""Songs that are quick to train on, and specs that train on them in seconds."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.job import JobSpec
from sidestep.data.tensors import Sample, sample_bytes

MakeSpec = Callable[..., JobSpec]


def song(number: int, frames: int = 24, conditions: int = 6, width: int = 64) -> Sample:
    """A made song: latents around a level of their own, so that there is something to learn."""
    generator = torch.Generator().manual_seed(number)
    latents = torch.randn(1, 64, generator=generator) + 0.3 * torch.randn(frames, 64, generator=generator)
    context = torch.cat([torch.randn(frames, 64, generator=generator), torch.ones(frames, 64)], dim=1)
    return Sample(
        latents, torch.randn(conditions, width, generator=generator), context, {"caption": f"{number}"}
    )


def flip_a_bit(file: Path) -> None:
    """One of a number in the middle of a tensor, as a disk may: neither size nor time change."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def absurd_song(number: int) -> Sample:
    """A song whose numbers are finite, as a reader demands, and whose loss is not."""
    sample = song(number)
    return replace(sample, target_latents=torch.full_like(sample.target_latents, 1e30))


def write_songs(folder: Path, songs: Sequence[Sample]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(songs):
        (folder / f"{number}.pt").write_bytes(sample_bytes(sample))
    return folder


@pytest.fixture(autouse=True)
def sketched_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's `loss.png` holds what would be drawn: to draw it took as long as training. Those that processes
    of their own make are drawn, and `tests/report` looks at one."""

    def sketch(losses: Sequence[float], evaluations: Mapping[int, float], title: str) -> bytes:
        return b"\x89PNG" + repr((title, list(losses), sorted(evaluations.items()))).encode()

    for room in ("finish", "results"):
        monkeypatch.setattr(f"sidestep.lifecycle.{room}.loss_curve", sketch)


@pytest.fixture
def make_spec(tiny_checkpoints: Path, tmp_path: Path) -> MakeSpec:
    """A spec that trains on three small songs in seconds; `train` settings by keyword."""
    tensors = write_songs(tmp_path / "tensors", [song(n, frames=20 + 4 * n) for n in range(3)])

    def make(output: str = "out", **changes: Any) -> JobSpec:
        top_keys = (
            "checkpoint_dir",
            "dataset_dir",
            "output_dir",
            "storage",
            "runtime",
            "model_variant",
            "name",
        )
        top = {key: changes.pop(key) for key in top_keys if key in changes}
        adapter = {"rank": 4, "alpha": 8, **changes.pop("adapter", {})}
        settings = {"epochs": 2, "accumulation": 2, "lr": 1e-2, "adapter": adapter, **changes}
        places = {"checkpoint_dir": tiny_checkpoints, "dataset_dir": tensors, "output_dir": tmp_path / output}
        return JobSpec.load(None, **{"task": "train", **places, **top, "train": settings})

    return make
