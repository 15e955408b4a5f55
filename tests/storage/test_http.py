"""Places on a web server: read as they are, through its stumbles, and never written to."""

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fsspec.registry import _registry

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MachineError,
    MissingInputError,
    StorageError,
)
from sidestep.storage.open import open_store
from sidestep.storage.retry import LIMITS, Limits, Retry
from sidestep.storage.store import Store
from tests.clock import Clock
from tests.faults import FaultyServer, faulty_server

CONTENT = b"0123456789" * 100


@pytest.fixture
def website(tmp_path: Path) -> Iterator[FaultyServer]:
    """`python -m http.server` on a folder, with faults before it."""
    folder = tmp_path / "site" / "songs"
    (folder / "al bum").mkdir(parents=True)
    (folder / "file").write_bytes(CONTENT)
    (folder / "al bum" / "ä 100%?#&.wav").write_bytes(b"1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nothing on the tests' screen."""

    handler = functools.partial(Quiet, directory=str(folder.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with faulty_server(f"http://127.0.0.1:{server.server_port}") as faulty:
        yield faulty
    server.shutdown()
    server.server_close()


def web_store(website: FaultyServer, path: str = "songs/", limits: Limits = LIMITS) -> Store:
    return open_store(f"{website.endpoint}/{path}", StorageSpec(), limits=limits)


def test_an_answer_that_is_shorter_than_the_file(website: FaultyServer, tmp_path: Path) -> None:
    """Its Content-Length fits it, so that nothing seems wrong."""
    store = web_store(website, limits=Limits(Retry(seconds=0.05, first_pause=0.01)))
    website.only = lambda method, path: method == "GET"
    uses: list[Callable[[], object]] = [
        lambda: store.read_bytes("file"),
        lambda: store.download("file", tmp_path / "copy"),
    ]
    for use in uses:
        website.faults[:] = ["short"] * 2
        use()
        assert not website.faults
        website.faults[:] = ["short"] * 1000
        with pytest.raises(StorageError, match=r"songs/file: 500 bytes came of a file of 1,000"):
            use()
        website.faults.clear()
    assert (tmp_path / "copy").read_bytes() == store.read_bytes("file") == CONTENT


def test_a_website_is_read(website: FaultyServer, tmp_path: Path) -> None:
    store = web_store(website)
    assert store.place == f"{website.endpoint}/songs"
    assert [(info.path, info.size) for info in store.list_files()] == [
        ("al bum/ä 100%?#&.wav", 1),
        ("file", len(CONTENT)),
    ]
    assert [info.path for info in store.child("al bum").list_files()] == ["ä 100%?#&.wav"]
    assert store.read_bytes("al bum/ä 100%?#&.wav") == b"1"
    moved: list[int] = []
    store.download("file", tmp_path / "file", moved.append)
    assert (tmp_path / "file").read_bytes() == CONTENT and sum(moved) == len(CONTENT)
    info = store.stat("file")
    assert info is not None and info.version  # what a changed file is known by
    assert store.stat("al bum") is None and store.stat("nowhere") is None
    assert store.list_files("nowhere") == []
    assert web_store(website, "songs/al%20bum").list_files()  # a place is a URL, quoted as those are


@pytest.fixture
def with_parts() -> Iterator[str]:
    """A server of CONTENT under /file that sends parts of it, as nginx and Apache do."""

    class Parts(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            start, stop = (int(end) for end in self.headers["Range"].removeprefix("bytes=").split("-"))
            part = CONTENT[start : stop + 1] if self.path == "/site/file" else b""
            if self.path != "/site/file":
                self.send_error(404)
            elif not part:
                self.send_error(416)
            else:
                self.send_response(206)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                self.wfile.write(part)

        def log_message(self, *args: object) -> None:
            """Nothing on the tests' screen."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Parts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/site"
        server.shutdown()


def test_a_part_of_a_file_where_the_server_has_parts_and_where_it_has_none(
    website: FaultyServer, with_parts: str
) -> None:
    for store in (open_store(with_parts, StorageSpec()), web_store(website)):
        for start, size in ((0, 8), (8, 70), (990, 100), (5000, 8)):
            assert store.read_range("file", start, size) == CONTENT[start : start + size]
        with pytest.raises(MissingInputError, match="nowhere"):
            store.read_range("nowhere", 0, 8)


def test_no_more_is_read_than_a_part_needs(website: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "site" / "songs" / "large").write_bytes(b"0123456789" * 2_000_000)
    website.down = 2_000_000  # the whole of it takes ten seconds
    began = time.monotonic()
    assert web_store(website).read_range("large", 15, 10) == b"5678901234"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", ["503", "429", "drop", "cut"])
def test_passing_faults_of_a_website_are_waited_for(
    website: FaultyServer, tmp_path: Path, fault: str
) -> None:
    clock = Clock()
    store = web_store(website, limits=Limits(Retry(clock=clock, sleep=clock.sleep)))
    pauses = clock.slept
    moved: list[int] = []

    def download() -> bool:
        store.download("file", tmp_path / "local", moved.append)
        return sum(moved) == len(CONTENT)

    uses: list[Callable[[], bool]] = [
        lambda: store.read_bytes("file") == CONTENT,
        lambda: store.read_range("file", 900, 90) == CONTENT[900:990],
        download,
    ]
    for use in uses:
        website.faults[:] = [fault] * 3
        pauses.clear()
        assert use()
        assert all(2**n / 2 <= pauses[n] <= 2**n for n in range(len(pauses)))
        assert len(pauses) == 3 or fault == "drop"  # of which aiohttp repeats some by itself
    if fault != "cut":  # a HEAD has no body to cut
        website.faults[:] = [fault] * 2  # HEAD, and then GET
        pauses.clear()
        assert store.stat("file") and (len(pauses) == 1 or fault == "drop")


@pytest.mark.parametrize(("fault", "said"), [("503", "answered with 503"), ("drop", "is out of reach")])
def test_a_website_that_stays_away(website: FaultyServer, fault: str, said: str) -> None:
    store = web_store(website, limits=Limits(Retry(seconds=0.01, longest_pause=0.01)))
    for use in (store.list_files, lambda: store.stat("file"), lambda: store.read_bytes("file")):
        website.faults[:] = [fault] * 100
        with pytest.raises(StorageError, match=said):
            use()


def test_a_website_that_refuses(website: FaultyServer, tmp_path: Path) -> None:
    store = web_store(website)
    for use in (store.list_files, lambda: store.stat("file"), lambda: store.read_bytes("file")):
        website.faults[:] = ["403"] * 2
        with pytest.raises(AccessError, match=r"songs.*the web server refuses access \(403\)"):
            use()
        website.faults.clear()
    with pytest.raises(MissingInputError, match="songs/nowhere does not exist"):
        store.download("nowhere", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    for change in (
        lambda: store.write_bytes("new", b""),
        lambda: store.create("new", b""),
        lambda: store.upload(tmp_path, "new"),
        lambda: store.delete("file"),
    ):
        with pytest.raises(BadSpecError, match="can only be read"):
            change()


def test_what_a_listing_of_another_server_links_to_is_not_followed(
    website: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "site" / "songs"
    links = ["http://127.0.0.2/other", "/elsewhere", "../up", "?C=N;O=D", "./", "file", "%2e%2e/%2e%2e/x"]
    (folder / "index.html").write_text("".join(f'<a href="{link}">x</a>' for link in links[:-1]))
    assert [info.path for info in web_store(website).list_files()] == ["file"]
    assert {request.rpartition("/")[2] for request in website.requests} == {"", "file"}
    assert not caplog.records
    (folder / "index.html").write_text(f'<a href="{links[-1]}">x</a><a href="file">x</a>')
    assert [info.path for info in web_store(website).list_files()] == ["file"]
    assert links[-1] in caplog.text


@pytest.mark.parametrize(("place", "package"), [("gs://bucket/songs", "gcsfs"), ("az://box/songs", "adlfs")])
def test_a_cloud_without_its_package_names_it(
    place: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gs", "gcs", "az", "abfs"):
        _registry.pop(name, None)
    for module in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)  # also where a developer has them
    with pytest.raises(MachineError, match=f"pip install {package}"):
        open_store(place, StorageSpec())
