"""`sidestep publish`: codes and words. What it does to an output is in tests/lifecycle/test_publish.py."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import take_over
from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
from tests.facts import tells


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Of a run that was stopped after two checkpoints, without tensors, a model or a state to train on."""
    with take_over(
        CommitLog(open_store(str(tmp_path / "out"), StorageSpec())), Lease(60), None, {}
    ) as writer:
        for epoch in (5, 10):
            folder = tmp_path / f"files-{epoch}"
            folder.mkdir()
            (folder / "lokr_weights.safetensors").write_bytes(b"after epoch %d" % epoch)
            (folder / "training_state.json").write_bytes(b"no state")
            name = f"checkpoint-epoch-{epoch}"
            writer.commit(folder, name, 3 * epoch, writer.checkpoints(name))
    return tmp_path / "out"


def test_it_says_what_the_adapter_is(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for flags, epoch in (([], 10), (["--checkpoint", "checkpoint-epoch-5"], 5)):
        caplog.clear()
        assert main(["publish", str(output), *flags]) == 0
        assert [file.name for file in (output / "adapter").iterdir()] == ["lokr_weights.safetensors"]
        assert (output / "adapter" / "lokr_weights.safetensors").read_bytes() == b"after epoch %d" % epoch
        assert tells(caplog.text, output / "adapter", f"checkpoint-epoch-{epoch}", f"step {3 * epoch}")


@pytest.mark.parametrize(
    ("place", "flags", "code", "told"),
    [
        ("out", ["--checkpoint", "checkpoint-epoch-7"], 66, ["-epoch-7", "-epoch-10", "-epoch-5"]),
        ("nowhere", [], 66, ["nowhere", "checkpoint"]),
        ("", [], 78, ["output_dir"]),
        ("out", ["--epochs", "3"], 64, ["--epochs"]),
    ],
)
def test_what_cannot_be_published(
    output: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    flags: list[str],
    code: int,
    told: list[str],
) -> None:
    monkeypatch.chdir(output.parent)
    assert main(["publish", place, *flags]) == code
    assert tells(caplog.text, *told)
    assert not (output / "adapter").exists() and not Path("nowhere").exists()


LOADED = """
import sys
from sidestep.cli import main

assert main(["publish", *sys.argv[1:]]) == 0
print(*({"torch", "diffusers", "transformers", "safetensors"} & sys.modules.keys()))
"""


def test_it_needs_no_torch(output: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, output], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
