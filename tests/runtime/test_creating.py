"""A file is created once, whole, whatever the disk has for it. The calls are the kernel's own."""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidestep.runtime import creating
from sidestep.runtime.creating import NOT_OFFERED, PATIENCE, Means, create_file
from sidestep.storage.disks import means_in
from tests.clock import Clock
from tests.disks import LACKS, MEANS, answer

MEMORY = Path("/dev/shm")

RACER = """
import json, sys
from pathlib import Path
import pytest
from sidestep.runtime.creating import create_file
from tests.disks import LACKS, answer

folder, name, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
answer(pytest.MonkeyPatch(), **LACKS[kind])
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([n for n in range(60) if create_file(folder / f"{n}.json", name.encode() * 999)]))
"""


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On this machine's disk, and on a tmpfs."""
    if request.param == "disk":
        yield tmp_path
    elif not os.access(MEMORY, os.W_OK):
        pytest.skip("there is no tmpfs to write to")
    else:
        with TemporaryDirectory(dir=MEMORY) as name:
            yield Path(name)


@pytest.mark.parametrize("kind", LACKS)
def test_created_once_and_whole(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, **LACKS[kind])
    assert means_in(folder) is MEANS[kind]
    assert create_file(folder / "new" / "file", b"first") is MEANS[kind]
    assert create_file(folder / "new" / "file", b"second") is None
    assert (folder / "new" / "file").read_bytes() == b"first"
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "new"]  # and nothing temporary


@pytest.mark.parametrize("pair", list(combinations(LACKS, 2)), ids="-".join)
def test_writers_with_different_means_keep_each_other_out(
    tmp_path: Path, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (first, second) in enumerate((pair, pair[::-1])):
        for kind, is_first in ((first, True), (second, False)):
            with monkeypatch.context() as patch:
                answer(patch, **LACKS[kind])
                assert (create_file(tmp_path / str(number), kind.encode()) is not None) is is_first
        assert (tmp_path / str(number)).read_bytes() == first.encode()


@pytest.mark.parametrize("code", sorted({*NOT_OFFERED, errno.EXDEV}), ids=errno.errorcode.get)
def test_each_answer_that_means_not_here(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, link=code)
    assert create_file(tmp_path / "a", b"a") is Means.RENAME
    answer(monkeypatch, link=code, rename=code)
    assert create_file(tmp_path / "b", b"b") is Means.EXCLUSIVE


@pytest.mark.parametrize("call", ["link", "rename"])
@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EIO, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get
)
def test_any_other_answer_is_an_error(
    tmp_path: Path, code: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, **{"link": errno.EPERM, call: code})
    with pytest.raises(OSError, match=os.strerror(code)):
        create_file(tmp_path / "file", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_c_library_without_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, link=errno.EPERM)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert create_file(tmp_path / "file", b"") is Means.EXCLUSIVE


@pytest.mark.parametrize("kinds", [*((kind, kind) for kind in LACKS), ("link", "exclusive")], ids="-".join)
def test_two_processes_race(tmp_path: Path, kinds: tuple[str, str]) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for name, kind in zip("ab", kinds, strict=True)
    ]
    for racer in racers:
        assert racer.stdout and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {name: json.loads(racer.communicate()[0]) for name, racer in zip("ab", racers, strict=True)}
    assert sorted(won["a"] + won["b"]) == list(range(60))
    for name, numbers in won.items():
        assert all((tmp_path / f"{n}.json").read_bytes() == name.encode() * 999 for n in numbers)


class TestExclusive:
    """What only a disk with neither hard links nor that rename can do."""

    @pytest.fixture(autouse=True)
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer(monkeypatch, **LACKS["exclusive"])

    def test_what_is_written_in_part_is_not_created(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        with pytest.raises(OSError, match="a part"):
            create_file(tmp_path / "file", b"a record")
        assert (tmp_path / "file").read_bytes() == b"a r"  # taken: another process may have seen it
        assert create_file(tmp_path / "file", b"") is None

    @pytest.mark.parametrize("call", ["fsync", "close"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
    def test_what_the_disk_says_at_the_end_counts(
        self, tmp_path: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fail_at(call, code, tmp_path / "file", monkeypatch)
        with pytest.raises(OSError, match=os.strerror(code)):
            create_file(tmp_path / "file", b"a record")

    @pytest.mark.parametrize("call", ["fsync", "close"])
    def test_another_machine_was_first(
        self, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So gcsfuse says it: each machine's open succeeds."""
        self.fail_at(call, errno.ESTALE, tmp_path / "file", monkeypatch)
        assert create_file(tmp_path / "file", b"a record") is None

    def test_who_takes_as_long_as_others_wait_has_not_created_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, write = Clock(), os.write

        def slow(descriptor: int, data: bytes) -> int:
            clock.now += seconds
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", slow)
        seconds = PATIENCE - 0.1
        assert create_file(tmp_path / "in time", b"", clock) is Means.EXCLUSIVE
        seconds = PATIENCE
        with pytest.raises(TimeoutError):
            create_file(tmp_path / "late", b"", clock)

    def fail_at(self, call: str, code: int, target: Path, patch: pytest.MonkeyPatch) -> None:
        real = getattr(os, call)

        def failing(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            real(descriptor)
            if path == target:
                raise OSError(code, os.strerror(code))

        patch.setattr(os, call, failing)


def test_a_second_file_that_replaces_the_first_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        creating, "_give_name", lambda temporary, target: temporary.replace(target) and Means.RENAME
    )
    assert means_in(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_sync_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def no_folders(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    assert create_file(tmp_path / "new" / "file", b"whole") is Means.LINK
    monkeypatch.setattr(os, "fsync", lambda descriptor: (tmp_path / "nothing").stat())
    with pytest.raises(FileNotFoundError):  # of the file itself
        create_file(tmp_path / "other", b"")
