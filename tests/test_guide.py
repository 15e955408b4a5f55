"""The training guide's code blocks, word for word and in their order, on a tiny checkpoint.

They run in a folder as a clone of the repository is, with `uv run` as it stands there. Nothing is left out:
the wizard is started in a pseudo-terminal and left again, TensorBoard is asked for what it shows.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pexpect
import pytest

from sidestep.tasks import demo
from tests.documents import GUIDE, ROOT, Block, blocks, run, surroundings

WIZARD, PREPROCESS, TRAIN, TENSORBOARD, RESUME, ESTIMATE = blocks(GUIDE)
STEPS = 51  # of an epoch each: the guide resumes after epoch 50
SHORT = {"SIDESTEP_TRAIN__MAX_STEPS": str(STEPS), "UV_OFFLINE": "1"}  # the guide says nothing of either
CONTROL_C = "\x03"


@pytest.fixture
def clone(tiny_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory: train.py, pyproject.toml and .venv; songs; and ACE-Step-1.5 beside it."""
    checkpoints = tmp_path / "ACE-Step-1.5" / "checkpoints"
    shutil.copytree(tiny_checkpoints, checkpoints)
    shutil.copytree(checkpoints / "acestep-v15-base", checkpoints / "my-custom-finetune")
    folder = tmp_path / "Side-Step"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("train.py", "pyproject.toml"):
        Path(name).symlink_to(ROOT / name)
    Path(".venv").symlink_to(sys.prefix)
    monkeypatch.setattr(demo, "SECONDS", 1.0)
    monkeypatch.setattr(demo, "TUNES", demo.TUNES[:2])
    demo.write_songs(Path("my_audio"))
    Path("my_audio", "dataset.json").rename("my_dataset.json")


def test_its_commands_are_found() -> None:
    """Each block is the one it is taken for, and all commands are among them."""
    text = GUIDE.read_text()
    found = "\n".join(block.text for block in blocks(GUIDE))
    assert text.count("```bash") == len(blocks(GUIDE))
    assert found.count("uv run") == text.count("uv run python train.py") == 8
    assert WIZARD.text == "uv run python train.py\n"
    assert "tensorboard --logdir" in TENSORBOARD.text
    for block, word, uses in (
        *((PREPROCESS, "--preprocess", 2), (PREPROCESS, "--dataset-json", 1)),
        *((TRAIN, "--output-dir", 3), (TRAIN, "--adapter-type lokr", 1), (TRAIN, "--base-model", 1)),
        *((RESUME, "--resume-from", 1), (ESTIMATE, "train.py estimate", 1)),
    ):
        assert block.text.count(word) == uses


@pytest.mark.slow  # each of its seven commands is a process that loads torch
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("clone")
def test_every_block_works_word_for_word() -> None:
    with started(WIZARD):
        pass

    said = run(PREPROCESS, **SHORT)
    assert said.count("All 2 songs are preprocessed, in ") == 2
    assert len(list(Path("my_tensors").glob("*.pt"))) == 4  # the captions of both commands differ

    run(TRAIN, **SHORT)
    for adapter in ("my_lora/adapter/adapter_model", "my_lokr/adapter/lokr_weights"):
        assert Path(f"output/{adapter}.safetensors").exists()
    assert Path("output/finetune_lora/adapter/adapter_model.safetensors").exists()

    assert {"loss/train", "lr"} <= tensorboard_tags(TENSORBOARD)

    before = Path("output/my_lora/adapter/adapter_model.safetensors").read_bytes()
    as_if_interrupted(Path("output/my_lora"), "checkpoint-epoch-50")
    said = run(RESUME, **SHORT)
    assert "from ./output/my_lora/checkpoint-epoch-50" in said and "Already finished" not in said
    assert Path("output/my_lora/adapter/adapter_model.safetensors").read_bytes() == before

    said = run(ESTIMATE, **SHORT)
    assert "To train these: --target-modules layers." in said


@contextmanager
def started(wizard: Block) -> Iterator[None]:
    """The wizard at its first question; then Ctrl-C leaves it."""
    process = pexpect.spawn(
        "bash", ["-euc", wizard.text], env=surroundings(**SHORT), encoding="utf-8", timeout=240
    )
    process.expect("preprocess")  # in the menu
    yield
    process.sendline(CONTROL_C)
    process.expect(pexpect.EOF)
    process.close()


def tensorboard_tags(block: Block) -> set[str]:
    """The names of the curves that TensorBoard has, at the address that it says."""
    process = subprocess.Popen(
        ["bash", "-euc", block.text],
        env=surroundings(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr
    try:
        said = next(filter(None, (re.search(r"http://localhost:\d+", line) for line in process.stderr)))
        with urlopen(f"{said[0]}/data/plugin/scalars/tags") as answer:
            return {tag for run in json.load(answer).values() for tag in run}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


def as_if_interrupted(output: Path, checkpoint: str) -> None:
    """Leave the output as a machine does that vanishes after this checkpoint: what came later never was."""
    for record in sorted((output / "commits").iterdir(), reverse=True):
        said = json.loads(record.read_bytes())
        if said["kind"] == "commit" and said["folder"] == f"checkpoints/{checkpoint}":
            break
        record.unlink()
    for result in ("adapter", f"checkpoints/checkpoint-epoch-{STEPS}"):
        shutil.rmtree(output / result)
    (output / "receipt.json").unlink()
