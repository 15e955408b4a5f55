"""Pulling only what is needed, once; and what happens when that is disturbed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, MachineError, MissingInputError, SideStepError, StorageError
from sidestep.runtime.workspace import Workspace
from sidestep.storage import transfer
from sidestep.storage.local import LocalStore
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import pull, using_copies
from tests.s3 import S3Server


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def songs(s3_server: S3Server) -> Store:
    store = s3_server.store("my songs")
    for name in ("a.wav", "b [live].wav", "album/c.wav"):
        store.write_bytes(name, name.encode())
    return store


@pytest.fixture
def downloads(songs: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are downloaded, from now on."""
    done: list[str] = []
    download = type(songs).download

    def noted(self: Store, path: str, *rest: Any) -> None:
        download(self, path, *rest)
        done.append(path)

    monkeypatch.setattr(type(songs), "download", noted)
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["deleted", "changed", "nothing"])
def test_a_failure_of_what_uses_copies_that_are_gone(songs: Store, workspace: Workspace, what: str) -> None:
    files = songs.list_files()
    copy = pull(songs, files, workspace, "Pulling songs") / "a.wav"
    if what == "deleted":
        copy.unlink()
    elif what == "changed":
        copy.write_bytes(b"b.wav")
    with pytest.raises(SideStepError, match=r"a\.wav") as failed, using_copies(songs, files, workspace):
        raise BadDataError(f"{copy} is no song")
    assert isinstance(failed.value, BadDataError if what == "nothing" else MachineError)


def test_pull_brings_what_is_asked_for(songs: Store, workspace: Workspace, downloads: list[str]) -> None:
    folder = pull(songs, songs.list_files("album"), workspace, "Pulling songs")
    assert contents(folder) == {"album/c.wav": b"album/c.wav"}
    assert pull(songs, songs.list_files(), workspace, "Pulling songs") == folder
    assert contents(folder) == {info.path: info.path.encode() for info in songs.list_files()}
    assert sorted(downloads) == ["a.wav", "album/c.wav", "b [live].wav"]


def test_unchanged_files_are_not_pulled_again(
    songs: Store, workspace: Workspace, downloads: list[str]
) -> None:
    pull(songs, songs.list_files(), workspace, "Pulling songs")
    downloads.clear()
    songs.write_bytes("a.wav", b"A.WAV")  # of the same size
    songs.delete("album/c.wav")
    folder = pull(songs, songs.list_files(), Workspace(workspace.root), "Pulling songs")
    assert downloads == ["a.wav"]
    assert (folder / "a.wav").read_bytes() == b"A.WAV"
    downloads.clear()
    pull(songs, songs.list_files(), workspace, "Pulling songs")
    assert downloads == []


def damage(copy: Path, how: str) -> None:
    match how:
        case "cut":
            copy.write_bytes(b"a")
        case "deleted":
            copy.unlink()
        case "flipped":  # its time tells nothing
            status = copy.stat()
            copy.write_bytes(b"b.wav")
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "folder":
            copy.unlink()
            (copy / "file").mkdir(parents=True)
        case "link":
            content = copy.read_bytes()
            copy.unlink()
            (copy.parent.parent / "other").write_bytes(content)
            copy.symlink_to(copy.parent.parent / "other")
        case "records":
            (records,) = copy.parent.parent.glob("*.jsonl")
            records.write_bytes(b"\xff\x00{}\n[]\n")
        case "records are a folder":
            (records,) = copy.parent.parent.glob("*.jsonl")
            records.unlink()
            records.mkdir()
        case "all":
            shutil.rmtree(copy.parent.parent)


@pytest.mark.parametrize(
    "how", ["cut", "deleted", "flipped", "folder", "link", "records", "records are a folder", "all"]
)
def test_a_damaged_copy_is_pulled_again(
    songs: Store, workspace: Workspace, downloads: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    a_song = [file for file in songs.list_files() if file.path == "a.wav"]
    copy = pull(songs, a_song, workspace, "Pulling songs") / "a.wav"
    downloads.clear()
    monkeypatch.setattr(transfer, "_verified", {})  # the next attempt
    damage(copy, how)
    pull(songs, a_song, workspace, "Pulling songs")
    assert downloads == ["a.wav"] and copy.read_bytes() == b"a.wav" and not copy.is_symlink()
    pull(songs, a_song, workspace, "Pulling songs")
    assert downloads == ["a.wav"]


def test_a_file_where_a_folder_of_copies_belongs(songs: Store, workspace: Workspace) -> None:
    folder = pull(songs, songs.list_files(), workspace, "Pulling songs")
    shutil.rmtree(folder / "album")
    (folder / "album").write_bytes(b"")
    pull(songs, songs.list_files(), workspace, "Pulling songs")
    assert (folder / "album" / "c.wav").read_bytes() == b"album/c.wav"


def test_copies_of_older_versions_have_no_digest(
    songs: Store, workspace: Workspace, downloads: list[str]
) -> None:
    pull(songs, songs.list_files(), workspace, "Pulling songs")
    (records,) = (workspace.root / "pulled").glob("*.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    records.write_text("".join(json.dumps({**line, "sha256": ""}) + "\n" for line in lines))
    downloads.clear()
    pull(songs, songs.list_files(), workspace, "Pulling songs")
    assert downloads == []


def test_a_stopped_pull_goes_on(
    songs: Store, workspace: Workspace, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = songs.options.model_copy(update={"connections": 1})
    songs = open_store(songs.place, one_by_one)
    gone = FileInfo("b gone.wav", 1, "x")
    a, b, c = songs.list_files()
    with pytest.raises(MissingInputError, match=r"b gone.wav does not exist"):
        pull(songs, [a, gone, b, c], workspace, "Pulling songs")
    assert downloads == ["a.wav"]  # and nothing after the failure

    (records,) = (workspace.root / "pulled").glob("*.jsonl")
    records.write_text(records.read_text() + '{"path": "album/c.wav", "si')  # as a crash may leave it
    pull(songs, [a, b, c], workspace, "Pulling songs")
    assert downloads == ["a.wav", "album/c.wav", "b [live].wav"]
    pull(songs, [a, b, c], workspace, "Pulling songs")
    assert len(downloads) == 3


def test_a_file_that_changes_meanwhile_is_refused(songs: Store, workspace: Workspace) -> None:
    listed = songs.list_files()
    songs.write_bytes("a.wav", b"A.WAV")
    with pytest.raises(StorageError, match=r"a.wav changed while it was pulled.*again"):
        pull(songs, listed, workspace, "Pulling songs")
    folder = pull(songs, songs.list_files(), workspace, "Pulling songs")
    assert (folder / "a.wav").read_bytes() == b"A.WAV"


def test_no_pull_leaves_the_workspace(songs: Store, workspace: Workspace) -> None:
    with pytest.raises(BadDataError, match=r"\.\./evil"):
        pull(songs, [FileInfo("../../evil", 1, "x")], workspace, "Pulling songs")
    assert not list(workspace.root.rglob("evil"))


def test_too_small_a_disk_is_said_before(
    songs: Store, workspace: Workspace, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(MachineError, match=r"28 bytes are to be pulled .* 10 bytes are free.*--workspace"):
        pull(songs, songs.list_files(), workspace, "Pulling songs")
    assert downloads == []


def test_a_local_folder_is_used_in_place(tmp_path: Path, workspace: Workspace) -> None:
    store = open_store(str(tmp_path / "songs"), StorageSpec())
    store.write_bytes("a.wav", b"1")
    assert pull(store, store.list_files(), workspace, "Pulling songs") == tmp_path / "songs"
    assert not workspace.root.exists()

    (tmp_path / "secret").touch()
    (tmp_path / "songs" / "b.wav").symlink_to("../secret")
    with pytest.raises(BadDataError, match="symbolic link out of"):
        pull(store, store.list_files(), workspace, "Pulling songs")
    trusting = open_store(store.place, StorageSpec(), follow_links=True)
    assert isinstance(trusting, LocalStore)
    assert pull(trusting, trusting.list_files(), workspace, "Pulling songs") == trusting.root


def test_any_store_is_pulled_under_its_own_names(store: Store, workspace: Workspace) -> None:
    files = {f"checkpoint #{n}/état [{n}] %20.bin": bytes([n]) * n * 1000 for n in range(20)}
    for path, data in files.items():
        store.write_bytes(path, data)
    assert contents(pull(store, store.list_files(), workspace, "Pulling checkpoints")) == files
