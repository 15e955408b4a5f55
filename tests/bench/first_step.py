"""How long until a training makes its first step, and how long does a step wait for its songs?    make bench

Whole processes, in turn, so that what else the machine does falls on all alike:

- floor: what nobody can do without: `import torch, diffusers, peft`, and each byte of the weights read
- first step: `sidestep train` until its first step, less the sounds of the model that no step needs
- known: the same on a thousand songs of which preprocessing has said that they are sound; unknown: of which
  it has not, as tensors of others
- finished: `sidestep train` of a run that is finished

A step's share of waiting is the reading thread's own count, in the training's process.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from torch import Tensor

from sidestep.acestep.loading import read_silence
from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.config.schema import StorageSpec
from sidestep.data.checked import FILE, write_checked
from sidestep.data.index import Index, write_index
from sidestep.data.tensors import Sample, Silence, checked_of, sample_bytes, silent_context
from sidestep.storage.open import open_store
from tests.bench.rows import Row, table_of
from tests.songs import sha256

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SONGS = int(os.environ.get("SONGS", "1000"))
FLOOR_NAME = "imports and weights"
FLOOR = """
import time; started = time.perf_counter()
import torch, diffusers, peft
from diffusers import AceStepTransformer1DModel
from pathlib import Path
for file in Path({folder!r}).glob("*.safetensors"): file.read_bytes()
print(time.perf_counter() - started)
"""
STEP = """
import os, sys, time
from importlib.abc import MetaPathFinder
from sidestep.cli import main

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "sidestep.tasks.trainer":
            sys.meta_path.remove(self)
            from sidestep.training.loop import Trainer
            original = Trainer.step
            made = []
            def step(self, number):
                began, before = time.perf_counter(), self._ahead.waited
                result = original(self, number)
                made.append((time.perf_counter() - began, self._ahead.waited - before))
                if len(made) == int(os.environ["STEPS"]):
                    seconds, waited = (sum(part) for part in zip(*(made[1:] or made)))
                    since = time.time() - float(os.environ["BEGAN"])
                    print(f"\\nMADE {since} {waited / seconds}", flush=True)
                    os._exit(0)
                return result
            Trainer.step = step
            Trainer.evaluate = lambda self: 1.0
        return None

sys.meta_path.insert(0, Watch())
main(sys.argv[1:])
"""


def rows(rounds: int = ROUNDS, songs: int = SONGS) -> Iterator[Row]:
    """Each way's seconds beside the floor's; and the share of a step that waits for songs."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tiny_checkpoint(folder / "checkpoints", ["base"])
        silence = read_silence(folder / "checkpoints/acestep-v15-base/silence_latent.pt")
        one = dataset(folder / "one", silence, songs=1, seconds=10)
        many = dataset(folder / "many", silence, songs=songs, seconds=240)
        unknown = folder / "unknown"
        shutil.copytree(many, unknown, copy_function=os.link)
        (unknown / FILE).unlink()
        finish(folder, one)
        ways: dict[str, Callable[[], float]] = {
            FLOOR_NAME: lambda: floor(folder),
            "first step, one song": lambda: train(folder, one)[0],
            f"first step, {songs} songs that preprocessing has made": lambda: train(folder, many)[0],
            f"first step, {songs} songs of others' making": lambda: train(folder, unknown)[0],
            "a run that is finished": lambda: finish(folder, one),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append(way())
        for name, found in times.items():
            if name != FLOOR_NAME:
                yield Row.of(name, found, times[FLOOR_NAME])
        share = train(folder, many, steps=8, chunk=None)[1]
        yield Row("share of a tiny model's step that waits for 240 s of song", share, 0.01, 0.01 / share, "")


def main() -> None:
    Console(width=140).print(table_of("The start", FLOOR_NAME, rows()))


def dataset(folder: Path, silence: Tensor, songs: int, seconds: int) -> Path:
    """A song as preprocessing leaves it, under many names."""
    folder.mkdir()
    frames = 25 * seconds
    sample = Sample(torch.randn(frames, 64), torch.randn(260, 64), silent_context(silence, frames), {})
    data, keys = sample_bytes(sample), [f"{number:04}" for number in range(songs)]
    (folder / "song").write_bytes(data)
    for key in keys:
        (folder / f"{key}.pt").hardlink_to(folder / "song")
    store = open_store(str(folder), StorageSpec())
    write_index(
        store, Index(samples={f"/s/{key}": key for key in keys}, tensors=dict.fromkeys(keys, sha256(data)))
    )
    write_checked(store, {sha256(data): checked_of(sample, len(data), (), Silence.of(silence))})
    return folder


def floor(folder: Path) -> float:
    code = FLOOR.format(folder=str(folder / "checkpoints/acestep-v15-base"))
    return timed([sys.executable, "-c", code])[0]


def words(folder: Path, tensors: Path, output: str) -> list[str]:
    places = ["--checkpoint-dir", str(folder / "checkpoints"), "--dataset-dir", str(tensors)]
    more = ["--output-dir", str(folder / output), "--workspace", str(folder / "work"), "--epochs", "1"]
    return ["train", *places, *more, "--device", "cpu", "--accumulation", "1"]


def train(folder: Path, tensors: Path, steps: int = 1, chunk: str | None = "10") -> tuple[float, float]:
    """The seconds until so many steps are made, and the share of them, but for the first, that waits."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    environment = {"STEPS": str(steps), "BEGAN": str(time.time())}
    _, said = timed(
        [
            sys.executable,
            "-c",
            STEP,
            *words(folder, tensors, "out"),
            *(["--chunk-duration", chunk] if chunk else []),
        ],
        environment,
    )
    (line,) = (line for line in said.splitlines() if line.startswith("MADE"))
    _, seconds, share = line.split()
    return float(seconds), float(share)


def finish(folder: Path, tensors: Path) -> float:
    return timed([sys.executable, "-m", "sidestep", *words(folder, tensors, "finished")])[0]


def timed(command: list[str], more: dict[str, str] | None = None) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(more or {})})
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - began, done.stdout


if __name__ == "__main__":
    main()
