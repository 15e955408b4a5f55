"""The README's commands, as they stand there, on a tiny checkpoint, made songs and a local S3 server."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from sidestep.tasks import demo
from tests.documents import QUICK, ROOT, blocks, run

README = ROOT / "README.md"


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


@pytest.mark.slow
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
    for block in blocks(README):
        if block.kind == "yaml":
            Path("job.yaml").write_text(block.text)
        else:
            run(block, **QUICK, SIDESTEP_STORAGE__ENDPOINT_URL=s3_endpoint)

    assert Path("output/my-lora/adapter/adapter_model.safetensors").exists()
    assert Path("output/my-lokr/adapter/lokr_weights.safetensors").exists()
    assert Path("output/from-python/adapter/adapter_model.safetensors").exists()
    s3 = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    assert s3.head_object(Bucket="studio", Key="runs/my-lora/adapter/adapter_model.safetensors")


def test_the_commands_are_found() -> None:
    """At least the main uses are among what is run: a typo in a marker must not switch them off."""
    commands = "\n".join(text for _, text in blocks(README))
    for use in (
        "sidestep run --checkpoint-dir",
        "sidestep run --config",
        "sidestep plan --check-only",
        "sidestep train",
        "sidestep render",
        "sidestep.run(spec)",
    ):
        assert use in commands
