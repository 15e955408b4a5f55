from pathlib import Path

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
