"""A reader that changes what is not its own, or takes too much, is noticed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import run
from tests.fuzz.guard import watched
from tests.fuzz.kind import Loader
from tests.fuzz.loaders import LOADERS


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "there").write_bytes(b"")
    (tmp_path / "own" / "link").symlink_to(tmp_path / "there")
    return tmp_path / "own"


@pytest.mark.parametrize(
    "act",
    [
        lambda own: (own.parent / "new").write_bytes(b"x"),
        lambda own: (own.parent / "there").open("a").close(),
        lambda own: (own / "link").write_bytes(b"x"),
        lambda own: (own.parent / "new").mkdir(),
        lambda own: (own.parent / "there").unlink(),
        lambda own: (own.parent / "there").rename(own / "there"),
        lambda own: (own.parent / "new").symlink_to(own),
        lambda own: (own.parent / "new").hardlink_to(own.parent / "there"),
        lambda own: os.truncate(own.parent / "there", 0),
        lambda own: subprocess.run(["true"], check=True),
    ],
)
def test_what_is_done_elsewhere_is_told(own: Path, act: Callable[[Path], object]) -> None:
    with watched(own) as done_elsewhere:
        act(own)
    assert len(done_elsewhere) >= 1


@pytest.mark.parametrize(
    "act",
    [
        lambda own: (own / "new").write_bytes(b"x"),
        lambda own: (own.parent / "there").read_bytes(),
        lambda own: (own / "link").unlink(),
        lambda own: (own / "new" / "deep").mkdir(parents=True),
    ],
)
def test_what_is_its_own_is_not(own: Path, act: Callable[[Path], object]) -> None:
    with watched(own) as done_elsewhere:
        act(own)
    assert done_elsewhere == []
    (own.parent / "after").write_bytes(b"")
    assert done_elsewhere == []


def test_a_reader_that_writes_elsewhere_fails(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes, folder: Path) -> None:
        (own / "stolen").write_bytes(data)

    monkeypatch.setitem(LOADERS, "bad", Loader(lambda: [b""], read))
    wrong = run.check("bad", b"a")
    assert wrong and "stolen" in wrong


@pytest.mark.parametrize(("megabytes", "is_killed"), [(1, False), (200, True)])
def test_a_process_is_killed_for_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, is_killed: bool
) -> None:
    monkeypatch.setattr(run, "MEMORY_AT_MOST", 30_000)
    last = tmp_path / "last"
    code = (
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(0.3)\n"
        "taken = b'x' * (int(sys.argv[2]) * 10**6)\n"
        "time.sleep(60 if len(taken) > 10**7 else 0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(last), str(megabytes)])
    why = run.end_where_it_is_too_much(process, last)
    assert (process.returncode == -9, "MB" in why) == (is_killed, is_killed)


def test_a_process_is_killed_that_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS_TO_KILL", 0.1)
    last = tmp_path / "last"
    last.touch()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert run.end_where_it_is_too_much(process, last)
    assert process.returncode == -9
