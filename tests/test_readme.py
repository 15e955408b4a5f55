"""The README's commands, as they stand there, on a tiny checkpoint, made songs and a local S3 server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
from moto.server import ThreadedMotoServer

from sidestep import demo

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(
    r"(?:<!-- not run by the tests: (?P<reason>.*?) -->\n)?```(?P<kind>bash|python|yaml)\n(?P<text>.*?)```",
    re.S,
)
QUICK = {  # what the commands leave open is set so that they end soon
    "SIDESTEP_TRAIN__EPOCHS": "2",
    "SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS": "1",
    "SIDESTEP_ESTIMATE__BATCHES": "1",
}


class Block(NamedTuple):
    kind: str
    text: str


def blocks() -> list[Block]:
    found = BLOCK.finditer(README.read_text())
    return [Block(block["kind"], block["text"]) for block in found if not block["reason"]]


@pytest.fixture
def s3_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def upload(endpoint: str, folder: Path, bucket: str, prefix: str) -> None:
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    s3.create_bucket(Bucket=bucket)
    for file in folder.rglob("*"):
        if file.is_file():
            s3.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(folder).as_posix()}")


@pytest.mark.timeout(900)  # seven commands, each a process that loads torch
def test_every_command_works_as_it_stands(
    tiny_checkpoints: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SECONDS", 1.0)
    monkeypatch.setattr(demo, "TUNES", demo.TUNES[:2])
    demo.write_songs(Path("my_songs"))
    Path("checkpoints").symlink_to(tiny_checkpoints)
    upload(s3_endpoint, tiny_checkpoints, "models", "ace-step-1.5")
    upload(s3_endpoint, Path("my_songs"), "studio", "songs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **QUICK, "PATH": path, "SIDESTEP_STORAGE__ENDPOINT_URL": s3_endpoint}

    for kind, text in blocks():
        if kind == "yaml":
            Path("job.yaml").write_text(text)
            continue
        command = ["bash", "-euc", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"

    assert Path("output/my-lora/adapter/adapter_model.safetensors").exists()
    assert Path("output/my-lokr/adapter/lokr_weights.safetensors").exists()
    assert Path("output/from-python/adapter/adapter_model.safetensors").exists()
    s3 = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    assert s3.head_object(Bucket="studio", Key="runs/my-lora/adapter/adapter_model.safetensors")


def test_the_commands_are_found() -> None:
    """At least the main uses are among what is run: a typo in a marker must not switch them off."""
    commands = "\n".join(text for _, text in blocks())
    for use in (
        "sidestep run --checkpoint-dir",
        "sidestep run --config",
        "sidestep fixed",
        "sidestep.run(spec)",
    ):
        assert use in commands
