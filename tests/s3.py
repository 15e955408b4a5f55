"""Real S3 servers on the loopback interface, for every test that needs one.

`s3_server` is the fixture to use.
"""

import logging
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
from sidestep.storage.retry import LIMITS, Limits
from sidestep.storage.store import Store

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTEST", "a/very+secret/key"


@dataclass(frozen=True)
class S3Server:
    """A server with one empty bucket."""

    endpoint: str
    bucket: str = "studio"

    @property
    def options(self) -> StorageSpec:
        return StorageSpec(endpoint_url=self.endpoint)

    def place(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"

    def store(self, path: str, limits: Limits = LIMITS) -> Store:
        return open_store(self.place(path), self.options, limits=limits)


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """The URL of an S3 server in this process that takes any credentials."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_server(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that holds nothing but the empty bucket "studio", and credentials in the environment."""
    set_credentials(monkeypatch)
    server = S3Server(moto_endpoint)
    for method, path in (("POST", "moto-api/reset"), ("PUT", server.bucket)):
        request = urllib.request.Request(f"{server.endpoint}/{path}", method=method)
        urllib.request.urlopen(request, timeout=10).close()
    return server


@pytest.fixture
def s3_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of S3's interface that this process makes, such as "GetObject tensors/index.json"."""
    from botocore.client import BaseClient

    made: list[str] = []
    call = BaseClient._make_api_call

    def noted(self: BaseClient, operation: str, given: dict[str, Any]) -> Any:
        made.append(f"{operation} {given.get('Key', given.get('Prefix', ''))}")
        return call(self, operation, given)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    return made


def set_credentials(monkeypatch: pytest.MonkeyPatch, secret: str = SECRET_KEY) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # or the lack of credentials takes seconds
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)  # it disturbs plain http


@contextmanager
def server_process() -> Iterator[S3Server]:
    """moto's server in a process of its own, with the bucket, for tests of many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            server = S3Server(f"http://127.0.0.1:{port}")
            request = urllib.request.Request(f"{server.endpoint}/{server.bucket}", method="PUT")
            for _ in range(600):
                try:
                    urllib.request.urlopen(request, timeout=10).close()
                except urllib.error.URLError:
                    assert process.poll() is None, "the server ended"
                    time.sleep(0.1)
                else:
                    break
            yield server
        finally:
            process.terminate()


@contextmanager
def strict_server(folder: Path) -> Iterator[S3Server]:
    """rclone's S3 server over a folder of buckets. Unlike moto, it checks the credentials."""
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(folder)]
    command += ["--addr", "127.0.0.1:0", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", "", "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not (address := re.search(r"http://127\.0\.0\.1:\d+", said)):
                line = process.stderr.readline()
                assert line, f"rclone ended: {said}"
                said += line
            (folder / S3Server.bucket).mkdir(parents=True, exist_ok=True)
            yield S3Server(address[0])
        finally:
            process.terminate()
