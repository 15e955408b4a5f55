"""How fast do files come from a bucket, and go there?    python -m tests.bench.transfers [FILES×MB …]

Beside boto3's transfer manager and rclone: whole processes, in turn, with the same server on the loopback
interface (`bucket.py`). Ours also takes the sha256 of each file that it pulls, rclone the MD5; boto3 neither.
By default 300 files of 4 MB, as a dataset has, and 2 of 600 MB, as a model has.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.bench.rows import Row, table_of

ROUNDS = 3
SIZES = ("300×4", "2×600")
KINDS = ("ours", "boto3", "rclone")
CONNECTIONS = 8
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """What a process took: seconds on the clock, seconds of the processor, megabytes at most."""

    seconds: float
    processor: float
    memory: float


def rows(sizes: tuple[str, ...] = SIZES, rounds: int = ROUNDS) -> list[Row]:
    """Each rival's time and processor time over ours, and the most memory, for pulls and pushes."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        for size in sizes:
            _make_files(source / size, size)
        with serving("tests.bench.bucket", source) as endpoint:
            for way in ("pull", "push"):
                for size in sizes:
                    runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
                    for number in range(rounds):
                        for kind in KINDS:
                            target = Path(folder, f"{kind}-{way}-{size}-{number}")
                            local = source / size if way == "push" else target
                            runs[kind].append(_run(kind, way, endpoint, size, local))
                            subprocess.run(["rm", "-rf", str(target)], check=True)
                    found += _compared(f"{way} {size} MB", runs)
    return found


def _compared(name: str, runs: dict[str, list[Run]]) -> Iterator[Row]:
    for rival in KINDS[1:]:
        for what, unit in (("seconds", "s"), ("processor", "s of the processor"), ("memory", "MB")):
            ours, theirs = ([getattr(run, what) for run in runs[kind]] for kind in ("ours", rival))
            yield Row.of(f"{name}, {rival}", ours, theirs, unit)


def _make_files(folder: Path, size: str) -> None:
    count, megabytes = map(int, size.split("×"))
    folder.mkdir(parents=True)
    for number in range(count):
        with (folder / f"{number:04}.bin").open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(10**6))


@contextmanager
def serving(module: str, folder: Path) -> Iterator[str]:
    """The endpoint of a server that a module is, over the folder, in a process of its own."""
    command = [sys.executable, "-m", module, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def _run(kind: str, way: str, endpoint: str, size: str, folder: Path) -> Run:
    variables = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-1",
    }
    there = size if way == "pull" else f"new-{size}"
    if kind == "rclone":
        remote = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}':bucket/{there}"
        ends = [remote, str(folder)] if way == "pull" else [str(folder), remote]
        command = [str(Path(sys.executable).with_name("rclone")), "copy", *ends, "--config", ""]
        command += ["--transfers", str(CONNECTIONS), "--s3-no-check-bucket"]
    else:
        command = [sys.executable, "-m", "tests.bench.transfers", kind, way, endpoint, there, str(folder)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)
    peak = 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, _megabytes(process.pid))
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    assert not process.returncode, command
    return Run(seconds, ended[2].ru_utime + ended[2].ru_stime, peak)


def _megabytes(process: int) -> float:
    """The most that a process has had in memory. Linux counts what its parent had before in `ru_maxrss`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1000 if found else 0  # nothing of one that has just ended


def ours(way: str, endpoint: str, there: str, folder: Path) -> None:
    from sidestep.config.schema import StorageSpec
    from sidestep.runtime.workspace import Workspace
    from sidestep.storage.open import open_store
    from sidestep.storage.transfer import _each, pull

    store = open_store(f"s3://bucket/{there}", StorageSpec(endpoint_url=endpoint, connections=CONNECTIONS))
    if way == "pull":
        pull(store, store.list_files(), Workspace(folder), "Pulling")
    else:
        _each(lambda file: store.upload(file, file.name), sorted(folder.iterdir()), CONNECTIONS)


def boto3(way: str, endpoint: str, there: str, folder: Path) -> None:
    import boto3
    from botocore.config import Config
    from s3transfer.manager import TransferConfig, TransferManager

    client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=2 * CONNECTIONS))
    manager = TransferManager(client, TransferConfig(max_request_concurrency=CONNECTIONS))
    if way == "pull":
        folder.mkdir(parents=True)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=there)
        keys = [found["Key"] for page in pages for found in page["Contents"]]
        moves = [manager.download("bucket", key, str(folder / Path(key).name)) for key in keys]
    else:
        files = sorted(folder.iterdir())
        moves = [manager.upload(str(file), "bucket", f"{there}/{file.name}") for file in files]
    for move in moves:
        move.result()


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in KINDS:
        kind, way, endpoint, there, folder = sys.argv[1:]
        return {"ours": ours, "boto3": boto3}[kind](way, endpoint, there, Path(folder))
    return Console(width=140).print(
        table_of("Files of a bucket", "rival", rows(tuple(sys.argv[1:]) or SIZES))
    )


if __name__ == "__main__":
    main()
