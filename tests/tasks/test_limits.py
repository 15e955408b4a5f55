"""A machine that is too small, by the command: what to change is said, and nothing half written is left."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.cli import main
from sidestep.runtime.errors import MachineError
from sidestep.tasks.limits import limits_explained, training_savings
from sidestep.training.loop import Trainer
from tests.songs import MakeSpec

FULL_DISK = """
# Loaded by Python itself: from here on the disk is full for the folder that FULL names.
import errno, os

sync = os.fsync

def fsync(descriptor):
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    if os.environ["FULL"] in path and os.path.isfile(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sync(descriptor)

os.fsync = fsync
"""


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmuch more"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_out_of_gpu_memory_says_what_to_change(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, capsys: Any, failure: RuntimeError
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(Trainer, "step", fail)
    spec = make_spec(gradient_checkpointing=False, adapter={"rank": 64})
    Path("job.json").write_text(spec.model_dump_json())
    assert main(["train", "--config", "job.json"]) == 71
    said = capsys.readouterr().err
    lines = said[said.index("error: train: the GPU has too little memory") :].splitlines()
    assert lines[1] == f"  {str(failure).splitlines()[0]}"
    changes = [line.removeprefix("  - ").partition(" (")[0] for line in lines[3:]]
    assert changes[:7] == [
        "train.gradient_checkpointing: true, train.gradient_checkpointing_ratio: 1",
        "train.quantize: 8bit or nf4",
        "train.block_swap: 8 or 16 or 24",
        "train.chunk_duration: 120 or 60 or 30",
        "train.offload_activations: true",
        "train.adapter.rank: 32 or 16 or 8",
        "train.optimizer_type: adamw8bit",
    ]
    assert "Traceback" not in said and "Traceback" in Path("sidestep.log").read_text()


def test_what_is_saved_already_is_not_advised(make_spec: MakeSpec) -> None:
    spec = make_spec(model_variant="xl-base", gradient_checkpointing_ratio=0.5, chunk_duration=30)
    first, second, *others = training_savings(spec)
    assert "gradient_checkpointing_ratio: 1" in first
    assert "model_variant: base" in second
    assert not any("rank" in line or "chunk" in line for line in others)
    assert len(training_savings(make_spec(), task="estimate")) == 1
    assert any("chunk_duration: 60 or 30" in line for line in training_savings(make_spec(chunk_duration=61)))


def test_another_failure_stays_what_it_is(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Trainer, "step", fail)
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["train", "--config", "job.json"]) == 70


def test_a_full_disk_met_by_a_library_says_so(make_spec: MakeSpec) -> None:
    with (
        pytest.raises(MachineError, match="a disk of this machine: no space is left"),
        limits_explained(make_spec(), "train"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileExistsError), limits_explained(make_spec(), "train"):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


@pytest.mark.slow
def test_a_full_disk_leaves_whole_files_and_the_job_goes_on(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A process of its own, in which the system says that no space is left for checkpoints."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FULL_DISK)
    Path("job.json").write_text(make_spec().model_dump_json())
    command = [sys.executable, "-m", "sidestep", "train", "--config", "job.json"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    full = {**env, "FULL": f"{tmp_path}/out/checkpoints/"}
    done = subprocess.run(command, env=full, capture_output=True, text=True)
    assert done.returncode == 72, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "no space is left on that disk. Free some" in errors[0]
    assert "Traceback" not in done.stderr
    left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any("checkpoints" in file.parts for file in left)
    records = [json.loads(file.read_text()) for file in left if "commits" in file.parts]
    assert [record["kind"] for record in records] == ["take-over"]

    done = subprocess.run(command, env={**env, "FULL": "nowhere"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = max((tmp_path / "out" / "commits").iterdir())
    assert json.loads(last.read_text())["step"] == 4
