"""Real music, end to end: four tracks, an S3 server, one preprocessing, all four kinds of training.

    make music

Debian's amoebax-data (Free Art License) and asc-music (GPL-2+) are fetched with apt and unpacked, not
installed. Each job below is its own process with an empty workspace, as it would be on a rented machine:
the bucket is all that they share.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import boto3
import torch
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sidestep
from sidestep.acestep.loading import load_null_condition
from sidestep.config.training import TrainSpec
from sidestep.data.tensors import read_sample
from sidestep.training import rng
from sidestep.training.flow import SamplingConfig, draw_batch, flow_loss
from sidestep.training.loop import EVALUATION_DRAWS

BUILD = Path(__file__).parents[2] / "build" / "music"
BUCKET = "studio"
SECONDS = 8
TRACKS = {  # Debian package: the tracks taken from it
    "amoebax-data": [
        "usr/share/games/amoebax/music/KerberosBackground.ogg",
        "usr/share/games/amoebax/music/PenBackground.ogg",
        "usr/share/games/amoebax/music/training.ogg",
    ],
    "asc-music": ["usr/share/games/asc/music/frontiers.mp3"],
}
TRAINING = [
    *("--epochs", "50", "--lr", "3e-3", "--accumulation", "1", "--rank", "16", "--alpha", "32"),
    *("--save-every", "25"),
]
CELLS = [(adapter, mode) for adapter in ("lora", "lokr") for mode in ("corrected", "vanilla")]


def main() -> None:
    say("Music")
    songs = [cut(track, BUILD / "songs") for track in fetch_tracks()]
    say("Model")
    sidestep_command("tiny-checkpoint", str(BUILD / "checkpoints"))
    with s3_server() as server:
        s3 = server.client()
        s3.create_bucket(Bucket=BUCKET)
        upload(s3, BUILD / "songs", "songs")
        upload(s3, BUILD / "checkpoints", "models")

        say("Preprocess")
        job(server, "preprocess", "--audio-dir", f"s3://{BUCKET}/songs")
        tensors = objects(s3, "tensors/")
        assert sum(key.endswith(".pt") for key in tensors) == len(songs), sorted(tensors)

        say("Preprocess again: nothing is to be made")
        job(server, "preprocess", "--audio-dir", f"s3://{BUCKET}/songs")
        assert objects(s3, "tensors/") == tensors, "the second preprocess wrote something"

        rows = []
        for adapter, mode in CELLS:
            say(f"Train: {adapter}, {mode}")
            output = f"runs/{adapter}-{mode}"
            start = time.monotonic()
            job(
                server,
                *("train", "--adapter-type", adapter, "--mode", mode),
                *("--output-dir", f"s3://{BUCKET}/{output}", *TRAINING),
            )
            rows.append(check_run(s3, adapter, mode, output, time.monotonic() - start))
    report(rows)


def say(title: str) -> None:
    Console().rule(title)


# ---- the music ----


def fetch_tracks() -> Iterator[Path]:
    """The tracks of TRACKS, from Debian's archive or from what an earlier run left in build/."""
    for package, tracks in TRACKS.items():
        folder = BUILD / package
        if not folder.exists():
            download(package, BUILD / "packages")
            archive = next((BUILD / "packages").glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
        yield from (folder / track for track in tracks)


def download(package: str, folder: Path) -> None:
    """apt-get download; a machine whose package lists are missing or old gets them first."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
    if subprocess.run(command, cwd=folder).returncode:
        subprocess.run(["apt-get", "-q", "update"], check=True)
        subprocess.run(command, cwd=folder, check=True)


def cut(track: Path, folder: Path) -> Path:
    """The first SECONDS of a track, its own compressed packets untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / track.name
    with av.open(track) as source, av.open(target, "w") as result:
        stream = result.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.pts is None or packet.pts * packet.time_base >= SECONDS:
                break
            packet.stream = stream
            result.mux(packet)
    print(f"{target.name}: {SECONDS} s, {target.stat().st_size:,} bytes")
    return target


# ---- the S3 server ----


@dataclass(frozen=True)
class Server:
    url: str

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **KEYS)


KEYS = {"aws_access_key_id": "music", "aws_secret_access_key": "music"}


@contextmanager
def s3_server() -> Iterator[Server]:
    """moto's S3 server in a process of its own, on a free port of the loopback interface."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (BUILD / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        assert process.poll() is None, f"the S3 server ended; see {BUILD / 'server.log'}"
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"the S3 server is not up after 10 s; see {BUILD / 'server.log'}")


def upload(s3: Any, folder: Path, prefix: str) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            s3.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder).as_posix()}")


def objects(s3: Any, prefix: str) -> dict[str, tuple[str, Any, int]]:
    """What is below a prefix: key to ETag, time of writing and size."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {
        found["Key"]: (found["ETag"], found["LastModified"], found["Size"])
        for page in pages
        for found in page.get("Contents", [])
    }


def fetch(s3: Any, prefix: str, folder: Path) -> Path:
    for key in objects(s3, prefix):
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(BUCKET, key, str(target))
    return folder / prefix


# ---- the jobs ----


def sidestep_command(*arguments: str, **environment: str) -> None:
    command = [str(Path(sys.executable).with_name("sidestep")), *arguments]
    subprocess.run(command, check=True, cwd=BUILD, env=os.environ | environment)


def job(server: Server, *arguments: str) -> None:
    """One batch job on a machine that has nothing: no songs, no model, no tensors, an empty workspace."""
    workspace = BUILD / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    sidestep_command(
        *arguments,
        *("--checkpoint-dir", f"s3://{BUCKET}/models", "--dataset-dir", f"s3://{BUCKET}/tensors"),
        *("--endpoint-url", server.url, "--region", "us-east-1", "--workspace", str(workspace)),
        **{name.upper(): key for name, key in KEYS.items()},
    )


# ---- the checks ----


@dataclass(frozen=True)
class Row:
    adapter: str
    mode: str
    first: float
    last: float
    seconds: float
    files: dict[str, int]


def check_run(s3: Any, adapter: str, mode: str, output: str, seconds: float) -> Row:
    """The loss fell; and the adapter in the bucket, loaded onto the base model, has the recorded loss."""
    folder = fetch(s3, f"{output}/", BUILD / "fetched")
    tensors = fetch(s3, "tensors/", BUILD / "fetched")
    recorded = EventAccumulator(str(folder / "runs")).Reload().Scalars("loss/eval")
    first, last = recorded[0].value, recorded[-1].value
    assert last < first * 2 / 3, f"{adapter}, {mode}: the loss went from {first} to {last}"

    model = sidestep.acestep.load_model(BUILD / "checkpoints", "base")
    assert abs(loss_on_fixed_draws(model, tensors, mode) - first) < 1e-4
    sidestep.adapters.load(model, folder / "adapter")
    loaded = loss_on_fixed_draws(model, tensors, mode)
    assert abs(loaded - last) < 1e-4, f"{adapter}, {mode}: {loaded} as loaded, {last} in training"

    found = objects(s3, f"{output}/adapter/")
    files = {key.rpartition("/")[2]: size for key, (_, _, size) in found.items()}
    return Row(adapter, mode, first, last, seconds, files)


@torch.no_grad()
def loss_on_fixed_draws(model: Any, tensors: Path, mode: str) -> float:
    """What training logs as loss/eval, computed here from the files alone."""
    samples = [read_sample(file) for file in sorted(tensors.glob("*.pt"))]
    null_condition = load_null_condition(BUILD / "checkpoints", model.variant)
    mu, sigma = model.config["timestep_mu"], model.config["timestep_sigma"]
    sampling = SamplingConfig(mode, mu, sigma, cfg_dropout=0, seed=rng.key(TrainSpec().seed, "evaluation"))
    model.transformer.eval()
    losses = [
        flow_loss(
            model.transformer,
            draw_batch(samples[index % len(samples)], null_condition, sampling, index, "cpu"),
        )
        for index in range(EVALUATION_DRAWS)
    ]
    return float(torch.stack(losses).mean())


def report(rows: list[Row]) -> None:
    table = Table("adapter", "mode", "loss before", "after", "job", "files in the bucket")
    for row in rows:
        files = io.StringIO()
        for name, size in sorted(row.files.items()):
            print(f"{name}  {size:,} bytes", file=files)
        table.add_row(
            row.adapter,
            row.mode,
            f"{row.first:.4f}",
            f"{row.last:.4f} ({row.last / row.first - 1:+.0%})",
            f"{row.seconds:.0f} s",
            files.getvalue().rstrip(),
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
