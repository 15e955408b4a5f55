"""Jobs that preprocess songs of a fraction of a second, and how often each costly thing of it is done."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.job import JobSpec
from sidestep.data import encode
from tests.tasks.preprocessing import Counted, MakeJob, write_song


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are done before a second thread has woken up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Two songs: a.wav and b.wav."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number, name in enumerate(("a.wav", "b.wav")):
        write_song(folder / name, number)
    return folder


@pytest.fixture
def spec(tmp_path: Path, golden: Path, songs: Path) -> MakeJob:
    """A job on those songs; fields may be changed."""

    def spec(**fields: Any) -> JobSpec:
        settings = {
            "task": "preprocess",
            "checkpoint_dir": str(golden / "checkpoints"),
            "audio_dir": str(songs),
            "dataset_dir": str(tmp_path / "tensors"),
            "runtime": {"device": "cpu", "workspace": str(tmp_path / "workspace")},
        }
        return JobSpec.model_validate(settings | fields)

    return spec


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How often each costly thing was done."""
    counts = dict.fromkeys(
        (
            "load_vae",
            "load_text_encoder",
            "load_model",
            "decoded",
            "encode_audio",
            "encode_text",
            "encode_conditions",
        ),
        0,
    )

    def watch(name: str) -> None:
        original = getattr(encode, name)

        def counting(*given: Any, **named: Any) -> Any:
            counts[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(encode, name, counting)

    for name in counts:
        watch(name)

    def take() -> dict[str, int]:
        done = {name: count for name, count in counts.items() if count}
        counts.update(dict.fromkeys(counts, 0))
        return done

    return take
