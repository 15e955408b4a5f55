"""How do time, memory and requests grow with the songs?    python -m tests.bench.growth [SONGS …]

Datasets as preprocessing has left them, of 1,000 and 10,000 songs unless others are asked for, in a bucket on
this machine: songs of a few bytes, tensors of a few kilobytes, each another. Whole processes do what needs
no GPU: list, plan, preprocess with nothing left to do, train until the first step, go on, and say the status.
An exponent of 1 is growth in step with the songs, 0 is none. What a process takes by itself, which the
smallest dataset shows, is not taken off: so exponents below 1 say less than those above.
"""

import json
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path
from statistics import linear_regression
from tempfile import TemporaryDirectory
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from sidestep.acestep.layout import find_text_encoder, find_vae, find_variant
from sidestep.acestep.loading import read_silence
from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.config.job import JobSpec
from sidestep.config.training import Alternate
from sidestep.data.checked import Checked, write_checked
from sidestep.data.dealing import list_digest
from sidestep.data.index import Index, Stored, write_index
from sidestep.data.survey import Heard
from sidestep.data.tensors import AUDIO, Sample, Silence, checked_of, sample_bytes, silent_context
from sidestep.lifecycle.job import Job
from sidestep.tasks import preprocess
from tests.bench.first_step import STEP
from tests.bench.transfers import serving
from tests.s3 import ACCESS_KEY, SECRET_KEY

LIST = """
import sys
from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
print(len(open_store("s3://b/out/tensors", StorageSpec(endpoint_url=sys.argv[1])).list_files()))
"""
STEPS = 3
FRAMES = 4  # of a song


@dataclass(frozen=True)
class Cost:
    """Of a process: seconds, MB at its peak, and the requests that it made, by kind."""

    seconds: float
    memory: float
    requests: dict[str, int]


def main() -> None:
    sizes = sorted({int(word) for word in sys.argv[1:]}) or [1000, 10_000]
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    costs = {}
    for songs in sizes:
        with TemporaryDirectory() as temporary:
            costs[songs] = measured(Path(temporary), songs)
    Console().print(table_of(costs))


def measured(folder: Path, songs: int) -> dict[str, Cost]:
    bucket = folder / "bucket"
    write_tiny_checkpoint(bucket / "checkpoints", ["base"])
    (bucket / "songs").mkdir()
    for number in range(songs):
        (bucket / f"songs/{number:07}.wav").write_bytes(b"RIFF%d" % number)
    with serving("tests.bench.keeping", bucket) as endpoint:
        make(spec_of(folder, endpoint), bucket)
    with serving("tests.bench.keeping", bucket) as endpoint:  # which sees what was put below it
        files = folder / "job.yaml"
        files.write_text(json.dumps(spec_of(folder, endpoint).model_dump(mode="json")))
        job = ["--config", str(files)]
        train = [sys.executable, "-c", STEP, "train", *job]
        whole = [sys.executable, "-m", "sidestep", "train", *job, "--max-steps", str(STEPS)]
        longer = ["--extend", "--max-steps", str(STEPS + 1)]
        ways = {
            "list": [sys.executable, "-c", LIST, endpoint],
            "plan": [sys.executable, "-m", "sidestep", "plan", *job],
            "preprocess, nothing to do": [sys.executable, "-m", "sidestep", "preprocess", *job],
            "train, first step": [*train, "--output-dir", "s3://b/first"],
            f"train, {STEPS} steps, saved": whole,
            "train, finished before": whole,
            "go on, first step": [*train, *longer],
            "status": [sys.executable, "-m", "sidestep", "status", "s3://b/out", "--endpoint-url", endpoint],
        }
        found = {}
        for name, command in ways.items():
            found[name] = cost_of(command, endpoint)
            print(songs, name, found[name], flush=True)  # the whole takes minutes
        return found


def spec_of(folder: Path, endpoint: str) -> JobSpec:
    return JobSpec.model_validate(
        {
            "task": "train",
            "checkpoint_dir": "s3://b/checkpoints",
            "audio_dir": "s3://b/songs",
            "output_dir": "s3://b/out",
            "dataset_dir": "s3://b/out/tensors",
            "storage": {"endpoint_url": endpoint},
            "runtime": {"device": "cpu", "workspace": str(folder / "work")},
            "train": {"epochs": 2, "accumulation": 1, "adapter": {"rank": 2}},
        }
    )


def make(spec: JobSpec, bucket: Path) -> None:
    """What preprocessing leaves: tensors, index, report, and what is known of them."""
    job = Job(spec)
    songs, store, settings = job.read_songs(), job.checkpoints, spec.preprocess
    index = Index()
    for song in songs:
        content = (bucket / "songs" / Path(song.place).name).read_bytes()
        index.remember(song.store, song.file, sha256(content).hexdigest(), probed=settings.max_duration)
    parts = (find_vae(store), find_text_encoder(store), find_variant(store, "base"))
    works, planned = preprocess._plan(job, parts, songs, index, list_digest(songs))
    preprocess._mark_sound(planned, songs, settings)
    silence = Silence.of(read_silence(next((bucket / "checkpoints").rglob("silence_latent.*"))))
    context = silent_context(silence.latents, FRAMES)
    tensors = bucket / "out/tensors"
    tensors.mkdir(parents=True)
    checked: dict[str, Checked] = {}
    for work in works:  # straight to the bucket's disk, as a server would take an hour
        metadata = {"filename": Path(work.song.path).name, "caption": work.song.caption, AUDIO: work.audio}
        sample = Sample(torch.randn(FRAMES, 64), torch.randn(2, 64), context, metadata)
        data = sample_bytes(sample)
        digest = planned.tensors[work.tensors] = sha256(data).hexdigest()
        planned.stored[digest] = Stored(len(data), md5(data).hexdigest())
        checked[digest] = checked_of(sample, len(data), get_args(Alternate), silence)
        (tensors / f"{work.tensors}.pt").write_bytes(data)
    write_index(job.tensors, planned)
    write_checked(job.tensors, checked)
    heard = {song.place: Heard(seconds=2.0, lufs=-14.0, sound=song.path) for song in songs}
    preprocess._report(job.tensors, songs, heard, planned, settings)


def cost_of(command: list[str], endpoint: str) -> Cost:
    counted(endpoint)
    began = time.perf_counter()
    given = os.environ | {"STEPS": "1", "BEGAN": str(time.time())}
    with TemporaryDirectory() as folder, Path(folder, "said").open("w+") as said:
        running = subprocess.Popen(command, stdout=said, stderr=said, env=given)
        memory = 0.0
        while running.poll() is None:  # not by rusage, which counts what the parent has, too
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
                memory = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        said.seek(0)
        text = said.read()
        if running.returncode or (STEP in command and "MADE" not in text):
            raise SystemExit(f"{command}\n{text[-3000:]}")
    return Cost(seconds, memory, counted(endpoint))


def counted(endpoint: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{endpoint}/-/counts") as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


def table_of(costs: dict[int, dict[str, Cost]]) -> Table:
    table = Table("", *(f"{songs:,} songs" for songs in costs), "exponents", title="s / MB / requests")
    for name in next(iter(costs.values())):
        row = []
        for songs in costs:
            cost = costs[songs][name]
            requests = " ".join(f"{kind} {count}" for kind, count in sorted(cost.requests.items()))
            row.append(f"{cost.seconds:.1f} / {cost.memory:.0f} / {requests}")
        figures = [
            (cost.seconds, cost.memory, sum(cost.requests.values()))
            for cost in (costs[songs][name] for songs in costs)
        ]
        grown = [exponent(list(costs), of_kind) for of_kind in zip(*figures, strict=True)]
        table.add_row(name, *row, " / ".join(f"{power:.2f}" for power in grown))
    return table


def exponent(songs: Sequence[int], figures: Sequence[float]) -> float:
    """The e of songs^e that fits figures best, in logarithms; 0 where there is but one, or one is 0."""
    if len(songs) < 2 or min(figures) <= 0:
        return 0
    return linear_regression([math.log(n) for n in songs], [math.log(figure) for figure in figures]).slope


if __name__ == "__main__":
    main()
