"""How files of a bucket are read: with which requests, from which servers, and what if they change."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import AccessError, StorageError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.retry import Limits, Retry
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from tests.odd_server import OddServer, Request, odd_server, refusal
from tests.s3 import S3Server

PART = 2**18
LARGE = os.urandom(5 * PART + 1)


@pytest.fixture
def odd(s3_server: S3Server) -> Iterator[OddServer]:
    s3_server.store("songs").write_bytes("large", LARGE)
    with odd_server(s3_server.endpoint) as server:
        yield server


def opened(odd: OddServer, connections: int = 8) -> Store:
    limits = Limits(Retry(seconds=0.1, first_pause=0.01), part_bytes=PART)
    options = StorageSpec(endpoint_url=odd.endpoint, connections=connections)
    return open_store("s3://studio/songs", options, limits=limits)


def reads(odd: OddServer) -> list[str]:
    """What was asked of files."""
    return [request.method for request in odd.requests if request.is_file]


def test_a_small_file_takes_one_request(odd: OddServer, s3_server: S3Server, tmp_path: Path) -> None:
    """Also within a pull: its answer says which version came. A large one takes one for each part."""
    s3_server.store("songs").write_bytes("small", b"1")
    s3_server.store("songs").write_bytes("empty", b"")
    store = opened(odd)
    large, small = (file for file in store.list_files() if file.size)
    assert store.read_bytes("small") == b"1" and store.read_range("small", 0, 9) == b"1"
    assert reads(odd) == ["GET"] * 2
    pull(store, [small], Workspace(tmp_path), "Pulling")
    assert reads(odd) == ["GET"] * 3
    folder = pull(store, [large], Workspace(tmp_path), "Pulling")
    assert reads(odd) == ["GET"] * (3 + 6)
    assert (folder / "large").read_bytes() == LARGE
    assert store.read_bytes("empty") == b"" and store.read_bytes("large") == LARGE


def test_a_server_that_knows_no_ranges(odd: OddServer, tmp_path: Path) -> None:
    """It sends all, once: it is not asked for each part."""

    def without(request: Request) -> Request:
        headers = {name: value for name, value in request.headers.items() if name != "range"}
        return replace(request, headers=headers)

    odd.forward = without
    store = opened(odd)
    came = store.download("large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == LARGE and reads(odd) == ["GET"]
    assert came and came.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert store.read_range("large", PART - 1, 5) == LARGE[PART - 1 : PART + 4]
    assert store.read_range("large", len(LARGE) + 5, 5) == b""


def test_a_file_that_changes_between_its_parts_is_refused(odd: OddServer, tmp_path: Path) -> None:
    asked: list[str] = []

    def change(request: Request, headers: dict[str, str]) -> dict[str, str]:
        asked.append(request.method)
        return {**headers, "etag": '"other"'} if len(asked) > 2 else headers

    odd.change = change
    with pytest.raises(StorageError, match=r"songs/large changed while it was read"):
        opened(odd).download("large", tmp_path / "large")
    assert not list(tmp_path.iterdir())


def test_nothing_is_read_after_a_failure(odd: OddServer, tmp_path: Path) -> None:
    """The first failure is what is said, and what is under way ends."""
    moved: list[int] = []
    odd.answer = lambda request: (
        refusal(403, "AccessDenied")
        if request.headers.get("range") == f"bytes={PART}-{2 * PART - 1}"
        else None
    )
    with pytest.raises(AccessError, match="AccessDenied"):
        opened(odd, connections=1).download("large", tmp_path / "large", moved.append)
    assert reads(odd) == ["GET"] * 2 and sum(moved) == PART and not list(tmp_path.iterdir())


def test_a_token_of_a_minute_is_renewed(
    odd: OddServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program gives them: the same client asks for the next one before each ends."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    program, count = tmp_path / "give.py", tmp_path / "count"
    program.write_text(
        "import datetime, json, pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "count.write_text(count.read_text() + '.' if count.exists() else '.')\n"
        "end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'ASIAROLE', 'SecretAccessKey': 's',"
        " 'SessionToken': f'token-{len(count.read_text())}', 'Expiration': end.isoformat()}))\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    store = opened(odd)
    for _ in range(3):  # so short a one is renewed each time
        store.stat("large")
    tokens = [request.headers["x-amz-security-token"] for request in odd.requests]
    assert len(set(tokens)) == 3
