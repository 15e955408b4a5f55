"""What a folder must keep: whole files or none, and nothing outside it."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime import atomic
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import (
    AccessError,
    BadDataError,
    MachineError,
    MissingInputError,
    StorageError,
)
from sidestep.storage.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root", StorageSpec())


@pytest.fixture
def outside(store: LocalStore, tmp_path: Path) -> Path:
    """A folder beside the store, with one file."""
    store.root.mkdir()
    folder = tmp_path / "root-of-another"  # a comparison of mere prefixes would let it in
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


def test_a_failed_write_leaves_the_old_file(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_bytes("file", b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MachineError, match="no space is left"):
        store.write_bytes("file", b"new")
    with pytest.raises(MachineError, match="no space is left"):
        store.create("other", b"new")
    assert [path.name for path in store.root.iterdir()] == ["file"]
    assert store.read_bytes("file") == b"old"


@pytest.mark.parametrize("how", ["write", "create", "upload"])
def test_synced_before_it_has_its_name_and_the_folder_after(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    target = store.root / "folder" / "file"
    events: list[str] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        content = path.read_bytes() if path.is_file() else b""
        events.append(f"{path.name[:8]} {content!r} named={target.exists()}")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    (tmp_path / "source").write_bytes(b"new")
    uses: dict[str, Callable[[], object]] = {
        "write": lambda: store.write_bytes("folder/file", b"new"),
        "create": lambda: store.create("folder/file", b"new"),
        "upload": lambda: store.upload(tmp_path / "source", "folder/file"),
    }
    uses[how]()
    assert events[-2:] == [".sideste b'new' named=False", "folder b'' named=True"]
    assert len(events) == 4  # and the entries of both new folders before


def test_unfinished_files_are_not_listed(store: LocalStore) -> None:
    store.write_bytes("folder/file", b"")
    (store.root / "folder" / f"{atomic.TEMPORARY}1234").write_bytes(b"half")
    assert [info.path for info in store.list_files()] == ["folder/file"]


def test_a_new_file_has_the_usual_mode(store: LocalStore) -> None:
    store.write_bytes("file", b"")
    plain = store.root / "plain"
    plain.touch()
    assert (store.root / "file").stat().st_mode == plain.stat().st_mode


def test_links_that_lead_out_are_refused(store: LocalStore, outside: Path) -> None:
    (store.root / "song.wav").symlink_to(outside / "secret")
    (store.root / "album").symlink_to(outside)
    for path in ("song.wav", "album/secret", "album/new"):
        for use in (
            store.read_bytes,
            store.stat,
            store.locate,
            store.delete,
            lambda path: store.write_bytes(path, b""),
            lambda path: store.create(path, b""),
            lambda path: store.download(path, outside / "copy"),
        ):
            with pytest.raises(BadDataError, match="symbolic link out of"):
                use(path)
    with pytest.raises(BadDataError, match="symbolic link out of"):
        store.list_files()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"


def test_links_may_lead_out_where_that_is_said(store: LocalStore, outside: Path) -> None:
    (store.root / "snapshot").mkdir()
    (store.root / "snapshot" / "model").symlink_to(outside / "secret")
    (store.root / "folder").symlink_to(outside)
    trusting = LocalStore(store.root, StorageSpec(), follow_links=True)
    assert [info.path for info in trusting.list_files()] == ["folder/secret", "snapshot/model"]
    assert trusting.child("snapshot").read_bytes("model") == b"secret"


def test_links_inside_are_followed_and_circles_end(store: LocalStore) -> None:
    store.write_bytes("real/file", b"1")
    (store.root / "link").symlink_to("real")
    (store.root / "real" / "up").symlink_to("..")
    (store.root / "dangling").symlink_to("nowhere")
    assert [info.path for info in store.list_files()] == ["link/file", "real/file"]
    assert store.read_bytes("link/file") == b"1"


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = LocalStore(tmp_path / "link", StorageSpec())
    store.write_bytes("file", b"1")
    assert store.place == str(tmp_path / "link")
    assert [info.path for info in store.list_files()] == ["file"]


def test_messages_name_the_file_and_the_trouble(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes("file", b"")
    for use in (store.read_bytes, lambda path: store.write_bytes(path, b"")):
        with pytest.raises(BadDataError, match=r"root/file is a file, where a folder is needed"):
            use("file/below")
    with pytest.raises(MissingInputError, match=r"root/below does not exist"):
        store.read_bytes("below")

    def refused(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(store.root / "file"))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(AccessError, match=r"root/file: .*Permission denied.*owner and mode"):
        store.read_bytes("file")


def test_a_folder_where_a_file_belongs(store: LocalStore, tmp_path: Path) -> None:
    (store.root / "status.json").mkdir(parents=True)
    (tmp_path / "source").write_bytes(b"1")
    for use in (
        lambda: store.read_bytes("status.json"),
        lambda: store.write_bytes("status.json", b""),
        lambda: store.delete("status.json"),
        lambda: store.upload(tmp_path / "source", "status.json"),
        lambda: store.download("status.json", tmp_path / "copy"),
        lambda: store.upload(store.root / "status.json", "copy"),
    ):
        with pytest.raises(BadDataError, match=r"root/status.json is a folder, where a file is needed"):
            use()
    assert store.create("status.json", b"") is False
    assert [path.name for path in store.root.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, MissingInputError),
        (errno.EISDIR, BadDataError),
        (errno.ENOTDIR, BadDataError),
        (errno.ELOOP, BadDataError),
        (errno.ENXIO, BadDataError),
        (errno.ENAMETOOLONG, BadDataError),
        (errno.EILSEQ, BadDataError),
        (errno.EACCES, AccessError),
        (errno.EPERM, AccessError),
        (errno.EROFS, AccessError),
        (errno.ENOSPC, MachineError),
        (errno.EDQUOT, MachineError),
        (errno.EMFILE, MachineError),
        (errno.ENFILE, MachineError),
        (errno.ENOMEM, MachineError),
        (errno.EIO, StorageError),
        (errno.ESTALE, StorageError),
        (errno.ENOTCONN, StorageError),
        (errno.EBUSY, StorageError),
    ],
)
def test_what_fails_for_good_and_what_may_pass(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="the place"), local_errors("the place"):
        raise OSError(number, os.strerror(number))


def test_links_that_lead_nowhere_or_to_themselves_and_long_names(store: LocalStore) -> None:
    store.write_bytes("file", b"")
    (store.root / "circle").symlink_to("circle")
    with pytest.raises(BadDataError, match="root/circle is a symbolic link"):
        store.read_bytes("circle")
    long = "x" * 300
    for use in (store.read_bytes, store.stat, lambda path: store.write_bytes(path, b"")):
        with pytest.raises(BadDataError, match=f"root/{long} cannot be a file's name"):
            use(long)


def test_a_pipe_is_not_waited_for(store: LocalStore, tmp_path: Path) -> None:
    store.root.mkdir()
    os.mkfifo(store.root / "index.json")
    for use in (store.read_bytes, lambda path: store.download(path, tmp_path / "copy")):
        with pytest.raises(BadDataError, match=r"root/index.json is a pipe or a device"):
            use("index.json")


def test_nothing_is_written_through_a_link(store: LocalStore, tmp_path: Path) -> None:
    """Neither through one that leads out nor through one that stays inside, nor in a folder of the store."""
    store.write_bytes("real/file", b"1")
    (store.root / "inside").symlink_to("real")
    (store.root / "outside").symlink_to(tmp_path)
    (store.root / "real" / "link").symlink_to("file")
    (tmp_path / "source").write_bytes(b"2")
    for where, path in (
        (store, "inside/new"),
        (store, "real/link"),
        (store.child("inside"), "new"),
        (store.child("outside"), "new"),
        (store.child("outside").child("deeper"), "new"),
    ):
        uses: list[Callable[[LocalStore, str], object]] = [
            lambda where, path: where.write_bytes(path, b"2"),
            lambda where, path: where.create(path, b"2"),
            lambda where, path: where.upload(tmp_path / "source", path),
            lambda where, path: where.delete(path),
        ]
        for use in uses:
            with pytest.raises(BadDataError, match=r"root/(inside|outside|real/link) is a symbolic link"):
                use(where, path)
    assert store.read_bytes("real/file") == b"1"
    assert sorted(path.name for path in (store.root / "real").iterdir()) == ["file", "link"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "source"]


@pytest.mark.parametrize("how", ["write", "create", "upload"])
def test_a_folder_that_another_process_deletes_again_and_again(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It was empty, as nothing had been put there yet: so it is made again."""
    folder, others_turns = store.root / "folder" / "deeper", ["mkdir", "open", "mkdir", "open", "made"]
    make, begin = Path.mkdir, os.open

    def open_after_the_other(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_EXCL and others_turns[:1] == ["open"]:
            others_turns.pop(0)
            folder.rmdir()
            folder.parent.rmdir()
        return begin(path, flags, *rest, **more)

    def make_after_the_other(path: Path, *rest: Any, **more: Any) -> None:
        if path == folder and others_turns[:1] == ["mkdir"]:
            others_turns.pop(0)
            folder.parent.rmdir()
        if path == folder and others_turns == ["made"]:
            others_turns.pop(0)
            make(path)
        make(path, *rest, **more)

    monkeypatch.setattr(Path, "mkdir", make_after_the_other)
    monkeypatch.setattr(os, "open", open_after_the_other)
    (tmp_path / "source").write_bytes(b"new")
    uses: dict[str, Callable[[], object]] = {
        "write": lambda: store.write_bytes("folder/deeper/file", b"new"),
        "create": lambda: store.create("folder/deeper/file", b"new"),
        "upload": lambda: store.upload(tmp_path / "source", "folder/deeper/file"),
    }
    uses[how]()
    assert not others_turns and (folder / "file").read_bytes() == b"new"


def test_a_folder_that_cannot_stay_is_given_up(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path, *_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(Path, "mkdir", gone)
    with pytest.raises(MissingInputError, match="root does not exist"):
        store.write_bytes("file", b"")


def test_a_file_deleted_by_another_as_soon_as_it_was_there(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def replaced_then_deleted(path: Path, target: Path) -> None:
        replace(path, target)
        LocalStore(store.root, StorageSpec()).delete("folder/file")

    monkeypatch.setattr(Path, "replace", replaced_then_deleted)
    store.write_bytes("folder/file", b"")
    assert store.list_files() == []


def test_a_listing_while_another_process_deletes(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_bytes("a/file", b"")
    store.write_bytes("b/file", b"")
    scan = os.scandir

    def scanned_late(path: Any) -> Any:
        if Path(path).name == "a":
            LocalStore(store.root, StorageSpec()).delete("a/file")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned_late)
    assert [info.path for info in store.list_files()] == ["b/file"]


def test_many_write_and_delete_in_one_folder(store: LocalStore) -> None:
    """Real threads, each of which finds the folder gone now and then."""

    def work(who: int) -> None:
        for number in range(100):
            path = f"parent/folder/{who}"
            store.write_bytes(path, b"%d" % number)
            assert store.read_bytes(path) == b"%d" % number
            store.list_files()
            store.delete(path)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert list(store.root.iterdir()) == []


def test_an_empty_folder_is_none(store: LocalStore) -> None:
    for path in ("checkpoints/1/a", "checkpoints/1/deeper/b", "checkpoints/2/c"):
        store.write_bytes(path, b"")
    store.delete("checkpoints/1/a")
    store.delete("checkpoints/1/deeper/b")
    assert [path.name for path in (store.root / "checkpoints").iterdir()] == ["2"]
    store.delete("checkpoints/2/c")
    store.delete("checkpoints/2/c")
    assert list(store.root.iterdir()) == []


def test_a_disk_that_is_read_only(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(store.root))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(AccessError, match=r"root: the file system refuses access .Read-only file system"):
        store.write_bytes("file", b"")


@pytest.mark.parametrize("how", ["write", "create", "upload"])
def test_a_disk_that_has_no_space_left(full_disk: Path, tmp_path: Path, how: str) -> None:
    """As the kernel says it. The file that was there stays, and nothing else."""
    store, source = LocalStore(full_disk, StorageSpec()), tmp_path / "source"
    source.write_bytes(b"new" * 1000)
    (full_disk / "file").write_bytes(b"old")
    uses: dict[str, Callable[[], object]] = {
        "write": lambda: store.write_bytes("file", b"new" * 1000),
        "create": lambda: store.create("other", b"new" * 1000),
        "upload": lambda: store.upload(source, "file"),
    }
    with pytest.raises(MachineError, match="no space is left"):
        uses[how]()
    assert [path.name for path in full_disk.iterdir()] == ["file"]
    assert store.read_bytes("file") == b"old"


def test_a_process_at_its_limit_of_file_size(tmp_path: Path) -> None:
    """A real limit, met in the middle of a copy; then the same store works on."""
    program = """
        import resource, sys
        from pathlib import Path
        from sidestep.runtime.errors import StorageError
        from sidestep.config.schema import StorageSpec
        from sidestep.storage.local import LocalStore

        folder = Path(sys.argv[1])
        store = LocalStore(folder / "store", StorageSpec())
        store.write_bytes("file", b"old")
        (folder / "source").write_bytes(bytes(5_000_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        for use in (lambda: store.upload(folder / "source", "file"),
                    lambda: store.write_bytes("file", bytes(5_000_000)),
                    lambda: store.create("new", bytes(5_000_000))):
            try:
                use()
            except StorageError as error:
                assert "File too large" in str(error), error
            else:
                raise AssertionError("it was written")
        assert [info.path for info in store.list_files()] == ["file"]
        assert len(list(store.root.iterdir())) == 1 and store.read_bytes("file") == b"old"
        assert store.create("new", b"small")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_input_output_error_is_the_stores(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync is where a failing disk is heard of: what was there stays."""
    store.write_bytes("file", b"old")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    for use in (lambda: store.write_bytes("file", b"new"), lambda: store.create("other", b"new")):
        with pytest.raises(StorageError, match="Input/output error"):
            use()
    assert store.read_bytes("file") == b"old" and [path.name for path in store.root.iterdir()] == ["file"]


def test_a_delete_that_fails_deletes_nothing(store: LocalStore) -> None:
    store.write_bytes("folder/file", b"1")
    with pytest.raises(BadDataError, match="root/folder is a folder"):
        store.delete("folder")
    assert store.read_bytes("folder/file") == b"1"
