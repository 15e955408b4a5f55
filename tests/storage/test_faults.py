"""S3 behind a proxy that fails, each way at least twenty times: what passes is outlasted and nothing is lost,
what stays is one message within about a minute, and the same client works again once the store is back."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidestep.runtime.errors import ExitCode, MissingInputError, StorageError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.retry import Limits, Retry
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from tests.faults import FaultyServer, faulty_server
from tests.s3 import S3Server

CONTENT = b"0123456789" * 100
LARGE = os.urandom(11 * 2**20)
USES: dict[str, Callable[[Store, Path], Any]] = {
    "list": lambda store, _: [info.path for info in store.list_files()] == ["file"],
    "stat": lambda store, _: getattr(store.stat("file"), "size", None) == len(CONTENT),
    "read": lambda store, _: store.read_bytes("file") == CONTENT,
    "part": lambda store, _: store.read_range("file", 0, len(CONTENT)) == CONTENT,
    "write": lambda store, _: store.write_bytes("new", CONTENT) or store.read_bytes("new") == CONTENT,
    "create": lambda store, _: store.create("new", CONTENT) or store.read_bytes("new") == CONTENT,
    "delete": lambda store, _: store.delete("file") or store.stat("file") is None,
    "download": lambda store, path: store.download("file", path) or path.read_bytes() == CONTENT,
    "upload": lambda store, path: (
        path.write_bytes(CONTENT) and (store.upload(path, "new") or store.read_bytes("new") == CONTENT)
    ),
}


PART = 5 * 2**20  # the smallest that S3 allows


def limits(seconds: float = 5, silence: float = 5, part_bytes: int = PART) -> Limits:
    """As ever, its minute five seconds long: a busy machine takes its time for three failures."""
    return Limits(Retry(seconds=seconds, longest_pause=0.01), silence, silence, part_bytes)


@pytest.fixture
def faulty(s3_server: S3Server) -> Iterator[FaultyServer]:
    s3_server.store("songs").write_bytes("file", CONTENT)
    with faulty_server(s3_server.endpoint) as server:
        yield server


@pytest.fixture
def store(faulty: FaultyServer) -> Store:
    return open_behind(faulty, limits())


def open_behind(faulty: FaultyServer, limits: Limits, path: str = "songs") -> Store:
    return S3Server(faulty.endpoint).store(path, limits)


@pytest.mark.parametrize("fault", ["503", "429", "500", "drop", "lost", "silent"])
def test_passing_faults_are_outlasted(faulty: FaultyServer, tmp_path: Path, fault: str) -> None:
    store = open_behind(faulty, limits(silence=0.1 if fault == "silent" else 5))
    for name, use in USES.items():
        store.write_bytes("file", CONTENT)
        store.delete("new")
        faulty.faults[:] = [fault] * 3
        assert use(store, tmp_path / "local"), name
        assert not faulty.faults, name


@pytest.mark.parametrize(
    ("fault", "names"), [("cut", ("list", "read", "part", "download")), ("cut short", ("list",))]
)
def test_a_connection_cut_within_an_answer(
    faulty: FaultyServer, store: Store, tmp_path: Path, fault: str, names: tuple[str, ...]
) -> None:
    for name in names:
        for _ in range(7):
            faulty.faults[:] = [fault] * 3
            assert USES[name](store, tmp_path / "local"), name
            assert not faulty.faults


def test_an_answer_cut_within_its_headers(faulty: FaultyServer, store: Store, tmp_path: Path) -> None:
    """Of a HEAD, which has nothing else: it lacks the size."""
    faulty.only = lambda method, path: method == "HEAD"
    for _ in range(7):
        faulty.faults[:] = ["cut short"] * 3
        assert store.stat("file") and not faulty.faults
    impatient = open_behind(faulty, limits(seconds=0.05))
    faulty.faults[:] = ["cut short"] * 1000
    with pytest.raises(StorageError, match="ContentLength"):
        impatient.stat("file")


@pytest.mark.parametrize("name", ["read", "part", "download"])
def test_an_answer_that_is_shorter_than_the_file(
    faulty: FaultyServer, store: Store, tmp_path: Path, name: str
) -> None:
    """Its Content-Length fits it, so that nothing seems wrong: tried again, and then the store's fault."""
    faulty.only = lambda method, path: method == "GET"
    for _ in range(7):
        faulty.faults[:] = ["short"] * 3
        assert USES[name](store, tmp_path / "local")
        assert not faulty.faults
    impatient = open_behind(faulty, limits(seconds=0.05))
    faulty.faults[:] = ["short"] * 1000
    (tmp_path / "local").unlink(missing_ok=True)
    with pytest.raises(StorageError, match=r"songs/file: \d+ bytes came of a file of [\d,]+"):
        USES[name](impatient, tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_a_part_that_is_too_short(faulty: FaultyServer, store: Store, tmp_path: Path) -> None:
    """Of a large file: the first one, which would leave a hole, or the last one."""
    store.write_bytes("large", LARGE)
    faulty.only = lambda method, path: method == "GET"
    for faults in (["short"], ["", "short"], ["", "", "short"], ["short", "short", "short", "", "short"]):
        faulty.faults[:] = faults
        moved: list[int] = []
        came = store.download("large", tmp_path / "target", moved.append)
        assert not faulty.faults and sum(moved) == len(LARGE)
        assert (tmp_path / "target").read_bytes() == LARGE and came
        assert came.sha256 == hashlib.sha256(LARGE).hexdigest()


def test_a_connection_cut_within_a_request(faulty: FaultyServer, store: Store, tmp_path: Path) -> None:
    for name in ("write", "create", "upload"):
        for _ in range(7):
            store.delete("new")
            faulty.faults[:] = ["cut upload"] * 3
            assert USES[name](store, tmp_path / "local"), name


@pytest.mark.parametrize("fault", ["cut upload", "lost", "503", "drop"])
def test_large_uploads_are_cut_within_their_parts(
    faulty: FaultyServer, store: Store, tmp_path: Path, fault: str
) -> None:
    source, met = tmp_path / "source", 0
    source.write_bytes(LARGE)
    while met < 20:
        faulty.faults[:] = [fault, "", fault, fault, fault]
        faulty.only = lambda method, path: "partNumber" in path
        moved: list[int] = []
        store.upload(source, "large", moved.append)
        met += 4 - faulty.faults.count(fault)
        assert sum(moved) == len(LARGE)
        assert hashlib.sha256(store.read_bytes("large")).digest() == hashlib.sha256(LARGE).digest()


def test_large_downloads_are_cut_within_their_parts(
    faulty: FaultyServer, store: Store, tmp_path: Path
) -> None:
    store.write_bytes("large", LARGE)
    for _ in range(5):
        faulty.faults[:] = ["cut", "", "cut", "cut", "", "cut"]
        moved: list[int] = []
        came = store.download("large", tmp_path / "target", moved.append)
        assert not faulty.faults and sum(moved) == len(LARGE)
        assert (tmp_path / "target").read_bytes() == LARGE and came
        assert came.sha256 == hashlib.sha256(LARGE).hexdigest()


@pytest.mark.parametrize("fault", ["lost", "cut", "cut short"])
@pytest.mark.parametrize("again", ["", "404"])
def test_an_upload_in_parts_that_was_completed_unheard(
    faulty: FaultyServer, store: Store, tmp_path: Path, fault: str, again: str
) -> None:
    """The request that completes it, sent again, is answered as before, or: there is no such upload."""
    faulty.only = lambda method, path: method == "POST" and "uploadId" in path
    data = LARGE[: PART + 1]
    (tmp_path / "source").write_bytes(data)
    for number in range(5):
        faulty.faults[:] = [fault, *([again] if again and fault != "cut short" else [])]
        moved: list[int] = []
        store.upload(tmp_path / "source", f"large-{number}", moved.append)
        assert not faulty.faults and sum(moved) == len(data)
    assert all(info.size == len(data) for info in store.list_files() if info.path != "file")
    assert store.read_bytes("large-4") == data


def test_a_creation_that_was_done_unheard(faulty: FaultyServer, store: Store) -> None:
    """The request sent again is told that the file is there: then reading it back says whose it is."""
    for number in range(20):
        faulty.faults[:] = ["lost"]
        assert store.create(f"{number}.json", b"mine") is False
        assert store.read_bytes(f"{number}.json") == b"mine"


def test_a_creation_that_meets_another_is_sent_again(faulty: FaultyServer, store: Store) -> None:
    """409 says that another request is under way: S3 asks to send this one again, and then says who won."""
    faulty.faults[:] = ["409"] * 20
    assert store.create("1.json", b"mine") is True and not faulty.faults
    faulty.faults[:] = ["409"]
    assert store.create("1.json", b"other") is False
    assert store.read_bytes("1.json") == b"mine"


def test_one_creation_wins_whatever_is_lost(faulty: FaultyServer, store: Store) -> None:
    faulty.only = lambda method, path: method == "PUT"
    with ThreadPoolExecutor(4) as threads:
        for number in range(20):
            faulty.faults[:] = ["lost", "", "503", "drop"]
            list(threads.map(lambda who, n=number: store.create(f"{n}.json", b"%d" % who), range(4)))
            content = store.read_bytes(f"{number}.json")
            assert content in (b"0", b"1", b"2", b"3")
            assert store.create(f"{number}.json", b"late") is False
            assert store.read_bytes(f"{number}.json") == content


def test_throttling_that_stays_ends_in_one_message(faulty: FaultyServer) -> None:
    store = open_behind(faulty, limits(seconds=1))
    faulty.faults[:] = ["503"] * 10_000
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"songs/file: the store answered with SlowDown.*who runs it"):
        store.read_bytes("file")
    assert 10_000 - len(faulty.faults) >= 20
    assert time.monotonic() - began < 5
    assert StorageError.exit_code is ExitCode.STORAGE and int(ExitCode.STORAGE) == 69


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_store_that_is_gone_and_comes_back(faulty: FaultyServer, tmp_path: Path, how: str) -> None:
    """In all threads at once: each fails in time, and the same client goes on afterwards."""
    store = open_behind(faulty, limits(seconds=0.1, silence=0.1))

    def fails(name: str) -> bool:
        with pytest.raises(StorageError, match="is out of reach"):
            USES[name](store, tmp_path / name)
        return True

    with ThreadPoolExecutor(len(USES)) as threads:
        for _ in range(3):  # by eight uses
            began = time.monotonic()
            if how == "refused":
                with faulty.gone():
                    assert all(threads.map(fails, USES))
            else:
                faulty.faults[:] = ["silent"] * 100
                assert all(threads.map(fails, USES))
                faulty.faults.clear()
            assert time.monotonic() - began < 10
            assert store.read_bytes("file") == CONTENT
    names = {thread.name for thread in threading.enumerate() if not thread.daemon}
    assert not {name for name in names if name.startswith("transfer")}


def test_a_store_that_goes_in_the_middle_of_an_upload(faulty: FaultyServer, tmp_path: Path) -> None:
    """While this thread goes on; it returns before the patience ends."""
    store, source = open_behind(faulty, limits(seconds=20)), tmp_path / "source"
    source.write_bytes(LARGE)
    faulty.up = 20e6
    moved: list[int] = []
    with ThreadPoolExecutor(1) as background:
        upload = background.submit(store.upload, source, "large", moved.append)
        for _ in range(3):
            wait_until(lambda: sum(moved) > 2**20)
            with faulty.gone():
                time.sleep(0.2)
        upload.result(timeout=60)
    assert store.read_bytes("large") == LARGE


@pytest.mark.slow
def test_a_slow_store_is_no_silent_one(faulty: FaultyServer) -> None:
    """One request takes longer than any time limit on silence, in both directions."""
    data = LARGE[: 8 * 2**20]
    store = open_behind(faulty, limits(silence=2, part_bytes=2 * len(data)))
    for rate, move in (
        ("up", lambda: store.write_bytes("slow", data)),
        ("down", lambda: store.read_bytes("slow")),
    ):
        setattr(faulty, rate, 3.5e6)
        faulty.requests.clear()
        began = time.monotonic()
        move()
        assert time.monotonic() - began > 2.1 and len(faulty.requests) == 1
    faulty.down = 0
    assert store.read_bytes("slow") == data


def test_an_upload_that_nobody_reads_ends(faulty: FaultyServer) -> None:
    """The connection stays open and takes nothing: that too is silence, also while sending."""
    store = open_behind(faulty, limits(seconds=0.1, silence=0.5))
    assert store.stat("file")
    faulty.up = 1
    began = time.monotonic()
    with pytest.raises(StorageError, match="is out of reach"):
        store.write_bytes("stuck", LARGE)
    assert time.monotonic() - began < 20
    faulty.set_free()


def test_a_delete_that_fails(faulty: FaultyServer) -> None:
    store = open_behind(faulty, limits(seconds=0.05))
    faulty.only = lambda method, path: method == "DELETE"
    for _ in range(20):
        faulty.faults[:] = ["500"] * 100
        with pytest.raises(StorageError):
            store.delete("file")
        assert store.read_bytes("file") == CONTENT
    faulty.faults.clear()
    store.delete("file")
    store.delete("file")


def test_a_listing_that_lags_hides_no_file_from_the_other_uses(faulty: FaultyServer, store: Store) -> None:
    faulty.listings_lag = 60
    for number in range(20):
        store.write_bytes(f"new-{number}", CONTENT)
        assert store.create("new-0", b"") is False
        assert store.read_bytes(f"new-{number}") == CONTENT and store.stat(f"new-{number}")
    assert [info.path for info in store.list_files()] == ["file"]
    store.delete("file")
    (ghost,) = store.list_files()
    assert (ghost.path, ghost.size) == ("file", len(CONTENT))
    assert store.stat("file") is None
    with pytest.raises(MissingInputError):
        store.read_bytes("file")
    faulty.listings_lag = 0
    assert len(store.list_files()) == 20


def test_many_files_through_a_storm(faulty: FaultyServer, tmp_path: Path) -> None:
    """All at once and mixed, with eight transfers at a time."""
    store = open_behind(faulty, limits(seconds=20), "many")
    files = {f"{n}.bin": bytes([n]) * n * 1000 for n in range(60)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    storm = ["503", "", "lost", "429", "", "cut upload", "drop", "", "500", ""] * 20
    faulty.faults[:] = storm
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store.upload(tmp_path / name, name), files))
    faulty.faults[:] = [fault.replace("cut upload", "cut") for fault in storm]
    pulled = pull(store, store.list_files(), Workspace(tmp_path / "workspace"), "Pulling")
    assert {name: (pulled / name).read_bytes() for name in files} == files


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
