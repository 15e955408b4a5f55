"""S3 as it is: what goes wrong there, what is put there, and processes that fork."""

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.utils import parse_timestamp

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MachineError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.storage.open import open_store
from sidestep.storage.remote import RemoteStore
from sidestep.storage.retry import Limits, Retry
from sidestep.storage.s3 import S3Store
from sidestep.storage.s3_client import connect, parse_time
from sidestep.storage.store import Store
from tests.odd_server import Answer, Request, odd_server
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server, set_credentials, strict_server

SHORT = Limits(Retry(seconds=0, longest_pause=0.01), read_seconds=0.2)


@contextmanager
def refusal(kind: type[SideStepError], said: str) -> Iterator[None]:
    """The block ends with this error, in one line, that never says a secret."""
    with pytest.raises(kind, match=said) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message and "s3://studio" in message
    for secret in (SECRET_KEY, "wrong-secret", ACCESS_KEY):
        assert secret not in message


def every_use(store: Store, tmp_path: Path) -> list[Any]:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    return [
        store.list_files,
        lambda: store.stat("file"),
        lambda: store.read_bytes("file"),
        lambda: store.write_bytes("file", b""),
        lambda: store.create("file", b""),
        lambda: store.delete("file"),
        lambda: store.download("file", tmp_path / "target"),
        lambda: store.upload(source, "file"),
    ]


def test_a_missing_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    store = open_store("s3://studio-of-nobody/songs", s3_server.options)
    for use in every_use(store, tmp_path):
        with refusal(MissingInputError, "no such bucket.*storage.endpoint_url"):
            use()


def test_a_bad_bucket_name(s3_server: S3Server, tmp_path: Path) -> None:
    for use in every_use(open_store("s3://studio of mine!/songs", s3_server.options), tmp_path):
        with refusal(BadSpecError, "cannot be a bucket's name"):
            use()


def test_wrong_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with strict_server(tmp_path / "buckets") as server:
        set_credentials(monkeypatch)
        store = server.store("songs")
        store.write_bytes("file", b"1")  # a server of another maker takes what is sent
        assert [info.path for info in store.list_files()] == ["file"]
        assert store.read_bytes("file") == b"1"

        set_credentials(monkeypatch, secret="wrong-secret")
        for use in every_use(server.store("songs"), tmp_path):
            with refusal(AccessError, "refuses access.*AWS_SECRET_ACCESS_KEY"):
                use()
    assert AccessError.exit_code == 77


def test_no_credentials_at_all(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = s3_server.store("songs")
    public.write_bytes("file", b"1")
    assert isinstance(public, S3Store)
    public.clients.mine().requests.put_object_acl(Bucket="studio", Key="songs/file", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for use in every_use(s3_server.store("songs"), tmp_path):
        with refusal(AccessError, "no usable credentials.*storage.anonymous"):
            use()
    anonymous = s3_server.options.model_copy(update={"anonymous": True})
    assert open_store(s3_server.place("songs"), anonymous).read_bytes("file") == b"1"


def test_a_profile_that_is_not_there(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "of-nobody")
    with refusal(AccessError, "ProfileNotFound"):
        s3_server.store("songs").list_files()


def test_an_endpoint_out_of_reach(s3_server: S3Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        port = unused.getsockname()[1]
        options = StorageSpec(endpoint_url=f"http://127.0.0.1:{port}")
        store = open_store("s3://studio/songs", options, limits=SHORT)
        for use in every_use(store, tmp_path):
            with refusal(StorageError, f"127.0.0.1:{port} is out of reach"):
                use()


def test_a_server_that_says_nothing(s3_server: S3Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = StorageSpec(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with refusal(StorageError, "is out of reach.*StayedSilent"):
            open_store("s3://studio", options, limits=SHORT).list_files()


def test_a_full_disk_is_not_the_servers_fault(s3_server: S3Server, full_disk: Path) -> None:
    store = s3_server.store("songs")
    store.write_bytes("file", b"1")
    with pytest.raises(MachineError, match=r"target: no space is left"):
        store.download("file", full_disk / "target")
    assert not list(full_disk.iterdir())


def test_create_in_memory_has_one_winner_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec looks for the file and then writes: between the two another thread may come."""
    store = open_store("memory://commits-of-this-test", StorageSpec())
    assert isinstance(store, RemoteStore)
    exists = type(store.clients.mine()).exists

    def slowly(self: Any, path: str) -> bool:
        found: bool = exists(self, path)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(type(store.clients.mine()), "exists", slowly)
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda n: store.create("1.json", b"%d" % n), range(4))) == 1


def test_folder_markers_are_not_files(s3_server: S3Server) -> None:
    store = s3_server.store("songs")
    assert isinstance(store, S3Store)
    for key in ("songs/", "songs/album/", "songs/album/one.wav", "songs-of-another/two.wav"):
        store.clients.mine().requests.put_object(Bucket="studio", Key=key, Body=b"")
    assert [info.path for info in store.list_files()] == ["album/one.wav"]
    assert [info.path for info in s3_server.store("").list_files()] == [
        "songs-of-another/two.wav",
        "songs/album/one.wav",
    ]


def test_large_files_move_in_parts(s3_server: S3Server, tmp_path: Path) -> None:
    limits = Limits(part_bytes=5 * 2**20)  # the smallest that S3 allows
    store, source = s3_server.store("models", limits), tmp_path / "source"
    source.write_bytes(os.urandom(11 * 2**20))
    moved: list[int] = []
    store.upload(source, "model", moved.append)
    info = store.stat("model")
    assert info is not None and info.version.endswith("-3")  # the ETag of an upload in three parts
    assert sum(moved) == info.size == 11 * 2**20
    store.download("model", tmp_path / "target", moved.append)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert sum(moved) == 2 * info.size and max(moved) <= 5 * 2**20


def test_the_spec_reaches_the_client(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a proxy is asked for."""
    with odd_server(s3_server.endpoint) as odd:
        monkeypatch.setenv("HTTP_PROXY", odd.endpoint)
        odd.answer = lambda request: Answer(200, b"", {"content-length": "1", "etag": '"1"'})

        def asked(**options: Any) -> Request:
            open_store("s3://bucket/songs", StorageSpec(region="eu-west-3", **options)).stat("file")
            return odd.requests[-1]

        url = "http://s3.example.org:9000"
        assert asked(endpoint_url=url).path == f"{url}/bucket/songs/file"
        assert asked(endpoint_url=url, path_style=True).path == f"{url}/bucket/songs/file"
        virtual = asked(endpoint_url=url, path_style=False)
        assert virtual.path == "http://bucket.s3.example.org:9000/songs/file"
        assert "/eu-west-3/s3/" in virtual.headers["authorization"]
        assert "authorization" not in asked(endpoint_url=url, anonymous=True).headers


def test_a_forked_process_has_its_own_client(s3_server: S3Server) -> None:
    """The child uses the very object that its parent has connected, and the parent goes on after it."""
    program = """
        import os, sys
        from sidestep.config.schema import StorageSpec
        from sidestep.storage.open import open_store

        store = open_store("s3://studio/songs", StorageSpec(endpoint_url=sys.argv[1]))
        store.write_bytes("parent", b"1")
        client = store.clients.mine()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert store.clients.mine() is not client
                assert store.clients.mine() is store.child("deeper").clients.mine()
                assert store.read_bytes("parent") == b"1"
                store.write_bytes("child", b"2")
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, "the child failed"
        assert store.clients.mine() is client
        assert [info.path for info in store.list_files()] == ["child", "parent"]
    """
    command = [sys.executable, "-c", textwrap.dedent(program), s3_server.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_parts_of_a_file_from_a_server_that_calls_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone's answers 200 in place of 206, and sends the part."""
    set_credentials(monkeypatch)
    content = bytes(range(256)) * 40
    with strict_server(tmp_path / "buckets") as server:
        (tmp_path / "buckets" / server.bucket / "file").write_bytes(content)
        store = open_store(f"s3://{server.bucket}", StorageSpec(endpoint_url=server.endpoint))
        for start, size in ((0, 9), (100, 50), (len(content) - 22, 22), (len(content) - 5, 90)):
            assert store.read_range("file", start, size) == content[start : start + size]


def test_times_are_those_that_botocore_reads(s3_server: S3Server) -> None:
    texts = ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05+02:00", "2026-01-02T03:04:05", "20260102")
    for text in (*texts, "Fri, 02 Jan 2026 03:04:05 GMT", "1767323045", 1767323045, 1767323045.5):
        assert parse_time(text) == parse_timestamp(text)
    with pytest.raises(ValueError, match="yesterday"):
        parse_time("yesterday")
    store = s3_server.store("times")
    store.write_bytes("a", b"a")
    requests = connect("studio", s3_server.options, Limits()).requests
    (listed,) = requests.list_objects_v2(Bucket="studio", Prefix="times/")["Contents"]
    assert 0 <= time.time() - listed["LastModified"].timestamp() < 60
