import shutil
from pathlib import Path
from typing import Any

import pytest

from sidestep.runtime.errors import MachineError
from sidestep.runtime.workspace import Workspace, open_workspace


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert open_workspace(None).root == tmp_path / "cache" / "sidestep"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert open_workspace(None).root == tmp_path / "home" / ".cache" / "sidestep"
    monkeypatch.chdir(tmp_path)
    assert open_workspace("~/jobs").root == tmp_path / "home" / "jobs"
    assert open_workspace("work").root == tmp_path / "work"
    assert (tmp_path / "work").is_dir()


def test_each_place_has_its_own_folder(tmp_path: Path) -> None:
    places = ["s3://a/songs", "s3://b/songs", "s3://a/songs%2F", "s3://a/söngs?*", "s3://a/..", "memory://"]
    folders = [Workspace(tmp_path).pulled(place) for place in places]
    assert folders == [Workspace(tmp_path).pulled(place) for place in places]
    assert len(set(folders)) == len(places)
    assert all(folder.is_dir() and folder.parent == tmp_path / "pulled" for folder in folders)
    assert folders[0].name.startswith("songs-")


def test_scratch_stays(tmp_path: Path) -> None:
    (Workspace(tmp_path).scratch("tensors") / "half").touch()
    assert [path.name for path in Workspace(tmp_path).scratch("tensors").iterdir()] == ["half"]
    with pytest.raises(AssertionError):
        Workspace(tmp_path).scratch("../out")


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"file/below cannot be made.*--workspace"):
        open_workspace(str(tmp_path / "file" / "below"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(MachineError, match=r"not writable.*runtime.workspace"):
        open_workspace(str(tmp_path / "read-only"))


def test_a_temporary_folder_is_its_process_s_as_long_as_that_lives(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.temporary() as first:
        Path(first, "file").write_text("in use")
        left = Path(first).with_name("of-a-process-that-was-killed")
        left.mkdir()
        (left / "file").write_text("")
        with workspace.temporary() as second:  # another process locks no other way
            assert second != first
            assert Path(first, "file").exists()
            assert not left.exists()
        assert not Path(second).exists()
    assert not Path(first).exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_what_is_in_a_folder_s_place_goes(tmp_path: Path, kind: str) -> None:
    """A link may have been put there by another user of a temporary folder for all: it is not followed."""
    other = tmp_path / "of another user"
    for names in (("pulled",), ("pulled", "outbox-1"), ("scratch",), ("scratch", "outbox-1"), ("temporary",)):
        root = tmp_path / "-".join((kind, *names))
        path = root.joinpath(*names)
        path.parent.mkdir(parents=True)
        if kind == "link":
            other.mkdir(exist_ok=True)
        path.touch() if kind == "file" else path.symlink_to(other)
        workspace = Workspace(root)
        workspace.pulled("s3://studio/x")
        assert workspace.scratch("outbox-1").is_dir()
        with workspace.temporary() as temporary:
            Path(temporary, "file").touch()
        if names != ("pulled", "outbox-1"):
            assert path.is_dir() and not path.is_symlink()
    assert not other.exists() or list(other.iterdir()) == []


def test_what_others_left_among_the_temporary_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "temporary"
    root.mkdir()
    (root / "a file").touch()
    (root / "another user's").mkdir()
    remove = shutil.rmtree

    def refused(path: Any, **how: Any) -> None:
        if Path(path).name == "another user's":
            raise PermissionError(13, "Permission denied", str(path))
        remove(path, **how)

    monkeypatch.setattr(shutil, "rmtree", refused)
    with Workspace(tmp_path).temporary() as temporary:
        remove(temporary)  # it may vanish at any time


def test_a_workspace_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "temporary"))

    workspace = Workspace(tmp_path)
    monkeypatch.setattr("sidestep.runtime.workspace.TemporaryDirectory", refused)
    with pytest.raises(MachineError, match=r"runtime\.workspace"), workspace.temporary():
        raise AssertionError("it was made")
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(MachineError, match=r"runtime\.workspace"):
        workspace.scratch("x")
