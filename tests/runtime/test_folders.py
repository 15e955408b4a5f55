"""A machine without a folder for temporary files, without a home, or with a user that it does not know."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.runtime import folders
from sidestep.runtime.errors import MachineError
from sidestep.runtime.folders import CACHES, provide_folders

UNKNOWN = 54_321  # no machine's user

# A process of a user that the machine does not know, where no folder but the workspace can be written.
PROGRAM = f"""
import os, pwd, sys, tempfile
os.getuid = os.geteuid = lambda: {UNKNOWN}
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {{uid}}")
pwd.getpwuid = unknown
tempfile._candidate_tempdir_list = lambda: ["/proc/none"]
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
    os.environ.pop(name, None)
"""
IMPORTS = """
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
provide_folders(sys.argv[1])
import_diffusers()
print(tempfile.gettempdir(), os.environ["HF_HOME"])
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One that has all; what is provided is put back after each test."""
    for name in (*folders.NAMES, *CACHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    environ = dict(os.environ)
    yield
    folders._until_the_end.close()
    os.environ.clear()
    os.environ.update(environ)


@pytest.fixture
def no_system_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither /tmp nor its like; Python tries the one that is named, and the working directory at last."""
    tried = tempfile._candidate_tempdir_list  # type: ignore[attr-defined]
    lacks = ("/tmp", "/var/tmp", "/usr/tmp")
    monkeypatch.setattr(
        tempfile, "_candidate_tempdir_list", lambda: [at for at in tried() if at not in lacks]
    )


def test_a_machine_that_has_all_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    for named in (None, str(tmp_path / "mine"), f"{tmp_path}/none/../mine/"):
        if named:
            monkeypatch.setenv("TMPDIR", named)
        before = dict(os.environ)
        provide_folders(str(tmp_path / "work"))
        assert os.environ == before
        monkeypatch.setattr(tempfile, "tempdir", None)
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("no_system_folder")
def test_the_workspace_has_the_temporary_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And not the working directory."""
    with caplog.at_level("INFO"):
        provide_folders(str(tmp_path / "work"))
    folder = Path(tempfile.gettempdir())
    assert folder.parent == tmp_path / "work" / "temporary" and os.environ.get("TMPDIR") == str(folder)
    assert "TMPDIR" in caplog.text and str(folder) in caplog.text
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == folder
    provide_folders(str(tmp_path / "work"))
    assert tempfile.gettempdir() == str(folder)  # once
    folders._until_the_end.close()
    assert not folder.exists()


def test_the_folder_that_is_named_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would take another one, and other libraries would not."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    provide_folders(str(tmp_path / "work"))
    assert Path(os.environ["TMPDIR"]).parent == tmp_path / "work" / "temporary"


@pytest.mark.usefixtures("no_system_folder")
def test_neither_a_temporary_folder_nor_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"TMPDIR.*workspace"):
        provide_folders(str(tmp_path / "file"))


@pytest.mark.parametrize("home", ["unset", "gone", "a file"])
def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    (tmp_path / "file").touch()
    if home == "unset":
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    else:
        monkeypatch.setenv("HOME", str(tmp_path / ("file" if home == "a file" else "gone")))
    monkeypatch.setenv("HF_HOME", "/mine")
    before = os.environ.get("HOME")
    provide_folders(str(tmp_path / "work"))
    assert os.environ.get("TRITON_CACHE_DIR", "").startswith(str(tmp_path / "work"))
    assert os.environ["HF_HOME"] == "/mine" and os.environ.get("HOME") == before
    provide_folders(str(tmp_path / "file"))  # where no workspace can be made, who needs it says so


def test_no_home_and_no_workspace_is_the_machine_s_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert main(["train", "--checkpoint-dir", "c", "--dataset-dir", "d", "--output-dir", "o"]) == 72
    said = capsys.readouterr().err
    assert "--workspace" in said and "Traceback" not in said


@pytest.mark.slow
def test_torch_is_imported_by_a_user_that_the_machine_does_not_know(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + IMPORTS, str(tmp_path / "work")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(tmp_path / "work")) == 2
