"""The commands of docs/container.md, as they stand there but for the GPU, which is not here."""

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, blocks, run
from tests.image.engine import IMAGE, engine

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]


def test_every_command_works_without_a_gpu(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, place in (("songs", "my_songs"), ("checkpoints", "checkpoints")):
        shutil.copytree(inputs / name, place)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nexec {shlex.join(engine())} "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    quick = "-e SIDESTEP_TRAIN__EPOCHS=1 -e OMP_NUM_THREADS=1 side-step:cuda"
    found = [block for block in blocks(ROOT / "docs" / "container.md") if block.kind == "bash"]
    assert len(found) == 2
    for block in found:
        text = block.text.replace("--gpus all ", "").replace("side-step:cuda", quick)
        run(Block("bash", text.replace("side-step:cuda", IMAGE)))
    assert Path("output/my-lora/adapter/adapter_model.safetensors").exists()
