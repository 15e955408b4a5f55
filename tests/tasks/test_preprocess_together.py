"""Two attempts at one preprocessing at the same time, and what one of them takes from under the other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.data.encode import SongEncoder
from sidestep.data.tensors import Sample, sample_bytes
from sidestep.data.unfinished import FOLDER, Unfinished
from sidestep.storage.open import open_store
from sidestep.tasks.preprocess import preprocess
from tests.runs import run_task
from tests.tasks.preprocessing import Counted, MakeJob, tensors


def on(tmp_path: Path, machine: str) -> dict[str, Any]:
    return {"runtime": {"device": "cpu", "workspace": str(tmp_path / machine)}}


@pytest.fixture
def vanished(spec: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine was gone before it had made any tensors: latents and texts lie beside them."""

    def die(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SongEncoder, "encode_conditions", die)
        with pytest.raises(KeyboardInterrupt):
            run_task(preprocess, spec(**on(tmp_path, "gone")))


@pytest.mark.parametrize("before", ["encode_songs", "encode_texts", "encode_conditions"])
@pytest.mark.usefixtures("vanished")
def test_the_one_that_ends_second_has_nothing_left_to_do(
    spec: MakeJob, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """The other one ends meanwhile, and clears what this one had counted on."""
    original = getattr(SongEncoder, before)
    done: list[dict[str, int]] = []

    def after_the_other(self: SongEncoder, *given: Any) -> None:
        if not done:
            done.append({})  # the other one comes here, too
            run_task(preprocess, spec(**on(tmp_path, "other")))
            done[0] = counted()
        original(self, *given)

    monkeypatch.setattr(SongEncoder, before, after_the_other)
    run_task(preprocess, spec(**on(tmp_path, "slow")))
    assert done[0]["encode_conditions"] == 2
    assert counted().keys() <= {"load_model", "load_text_encoder"}
    assert len(tensors(spec())) == 2
    assert open_store(spec().tensors_place, spec().storage).list_files(FOLDER) == []


@pytest.mark.slow
@pytest.mark.usefixtures("vanished")
def test_what_is_gone_is_made_anew(
    spec: MakeJob, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there is deleted between the look for it and the reading of it, file by file."""
    read = Unfinished.read

    def deleted(self: Unfinished, name: str) -> Any:
        (tmp_path / "tensors" / FOLDER / name).unlink(missing_ok=True)
        return read(self, name)

    monkeypatch.setattr(Unfinished, "read", deleted)
    counted()
    run_task(preprocess, spec(**on(tmp_path, "slow")))
    assert (counted()["encode_audio"], len(tensors(spec()))) == (2, 2)


def test_tensors_that_another_attempt_made_meanwhile_stay(
    spec: MakeJob, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of another kind they may be of other bits: what is there has its own digest."""
    original = SongEncoder.encode_conditions

    def other(key: str) -> bytes:
        return sample_bytes(Sample(torch.ones(5, 64), torch.ones(2, 8), torch.ones(5, 128), {"caption": key}))

    def after_the_other(self: SongEncoder, *given: Any) -> None:
        for work in given[1]:
            self.tensors.write_bytes(f"{work.tensors}.pt", other(work.tensors))
        original(self, *given)

    monkeypatch.setattr(SongEncoder, "encode_conditions", after_the_other)
    run_task(preprocess, spec())
    content = {f"{path}": data for path, data in tensors(spec()).items()}
    assert content == {path: other(path.removesuffix(".pt")) for path in content}
    monkeypatch.setattr(SongEncoder, "encode_conditions", original)
    counted()
    run_task(preprocess, spec())
    assert counted() == {}


PAUSED = """
import os, signal, sys
from sidestep.data.encode import SongEncoder
encode = SongEncoder.encode_songs
def paused(*given):
    os.kill(os.getpid(), signal.SIGSTOP)
    return encode(*given)
SongEncoder.encode_songs = paused
from sidestep.cli import entry
entry()
"""


@pytest.mark.slow  # two processes that load torch
@pytest.mark.usefixtures("vanished")
def test_two_processes(spec: MakeJob, tmp_path: Path) -> None:
    def attempt(machine: str, *program: str) -> subprocess.Popen[bytes]:
        file = tmp_path / f"{machine}.json"
        file.write_text(json.dumps(spec(**on(tmp_path, machine)).model_dump(mode="json")))
        return subprocess.Popen([sys.executable, *program, "run", "--config", str(file)])

    slow = attempt("slow", "-c", PAUSED)
    while Path(f"/proc/{slow.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert slow.poll() is None
        time.sleep(0.05)
    assert attempt("other", "-m", "sidestep").wait() == 0
    os.kill(slow.pid, signal.SIGCONT)
    assert slow.wait() == 0
    assert len(tensors(spec())) == 2
