"""The set-up's decisions and messages; that it works as a whole is shown by every fresh clone."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"


@pytest.fixture
def setup_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with its .venv in an empty folder and no command ever run."""
    spec = importlib.util.spec_from_file_location("setup_venv", REQUIREMENTS / "setup_venv.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "side-step-setup")
    return module


def pins(*names: str) -> dict[str, str]:
    lines = "\n".join((REQUIREMENTS / name).read_text() for name in names)
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", lines, re.MULTILINE))


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [(text, pins("cpu.txt")) for text in project["dependencies"]]
    wanted += [(text, pins("dev.txt")) for text in project["optional-dependencies"]["dev"]]
    for text, pinned in wanted:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}, but {version} is pinned"


def test_the_pins_are_complete_and_fit_each_other() -> None:
    """They are installed without resolution, so nothing else would notice a missing one."""
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_no_pin_file_names_an_index_or_a_path() -> None:
    for file in REQUIREMENTS.glob("*.txt"):
        for line in file.read_text().splitlines():
            assert re.fullmatch(r"#.*|-r cpu\.txt|[\w.-]+==[\w.]+", line), f"{file.name}: {line}"


def test_an_old_python_is_refused_with_what_to_do(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(setup_venv.shutil, "which", lambda name: None)
    with pytest.raises(setup_venv.SetupError, match=r"needs Python 3\.11 to 3\.14.*apt install python3\.11"):
        setup_venv.find_python()


def test_an_old_python3_gives_way_to_a_newer_one_on_path(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(setup_venv.shutil, "which", {"python3.12": "/opt/python3.12"}.get)
    monkeypatch.setattr(setup_venv, "succeeds", lambda *command: True)
    assert setup_venv.find_python() == "/opt/python3.12"


def test_a_python_without_venv_is_refused_with_what_to_do(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_venv, "succeeds", lambda *command: False)
    with pytest.raises(setup_venv.SetupError, match="apt install python3-venv"):
        setup_venv.find_python()


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: [Errno 28] No space left on device", "The disk is full"),
        ("Retrying after NewConnectionError: Failed to establish a new connection", "cannot be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "Python 3.11 to 3.14"),
        ("something unheard of", "something unheard of"),
    ],
)
def test_a_failed_command_says_what_to_do(setup_venv: ModuleType, output: str, advice: str) -> None:
    script = f"import sys; print({output!r}, file=sys.stderr); sys.exit(1)"
    with pytest.raises(setup_venv.SetupError, match=r"^Installing torch failed\.") as error:
        setup_venv.run([sys.executable, "-c", script], "Installing torch")
    assert advice in str(error.value) and output in str(error.value)


def test_little_disk_space_is_said_before_the_download(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_venv, "installed_torch", lambda: "")
    monkeypatch.setattr(setup_venv.shutil, "disk_usage", lambda path: type("", (), {"free": 1_500_000_000}))
    with pytest.raises(setup_venv.SetupError, match=r"1\.5 GB free; the set-up needs 4 GB"):
        setup_venv.install_torch("2.13.0", gpu=False)


@pytest.mark.parametrize(
    ("have", "gpu", "reachable", "installed"),
    [
        ("", False, True, ["torch==2.13.0", "--index-url", "https://download.pytorch.org/whl/cpu"]),
        ("", False, False, ["torch==2.13.0"]),
        ("", True, True, ["torch===2.13.0"]),
        ("2.13.0+cpu", True, True, ["torch===2.13.0"]),
        ("2.13.0+cpu", False, True, None),
        ("2.13.0", False, True, None),
        ("2.12.1+cpu", False, False, ["torch==2.13.0"]),
    ],
)
def test_which_build_of_torch_is_installed(
    setup_venv: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    have: str,
    gpu: bool,
    reachable: bool,
    installed: list[str] | None,
) -> None:
    calls: list[list[str]] = []

    def pip(*arguments: str, what: str) -> None:
        calls.append(
            [argument for argument in arguments if argument not in ("--no-deps", "--force-reinstall")]
        )

    monkeypatch.setattr(setup_venv, "installed_torch", lambda: have)
    monkeypatch.setattr(setup_venv, "can_reach", lambda url: reachable)
    monkeypatch.setattr(setup_venv, "pip", pip)
    monkeypatch.setattr(setup_venv.shutil, "disk_usage", lambda path: type("", (), {"free": 10**12}))
    setup_venv.install_torch("2.13.0", gpu)
    assert calls == ([installed] if installed else [])


@pytest.mark.parametrize(
    ("stamp", "works", "kept"),
    [("unfinished", True, False), ("an older state", True, True), (None, True, True), (None, False, False)],
)
def test_a_half_made_or_broken_venv_is_made_anew_and_a_working_one_is_kept(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch, stamp: str | None, works: bool, kept: bool
) -> None:
    python = Path(setup_venv.venv_python())
    python.parent.mkdir(parents=True)
    python.touch()
    if stamp:
        setup_venv.STAMP.write_text(stamp)
    made: list[Any] = []
    monkeypatch.setattr(setup_venv, "succeeds", lambda *command: works)
    monkeypatch.setattr(setup_venv, "run", lambda command, what: made.append(command))
    setup_venv.make_venv("python3")
    assert python.exists() == kept
    assert bool(made) != kept
    assert setup_venv.STAMP.read_text() == "unfinished"


def test_the_state_changes_with_the_pins_and_the_gpu(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "requirements"
    copy.mkdir()
    (copy / "cpu.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(setup_venv, "__file__", str(copy / "setup_venv.py"))
    first = setup_venv.wanted_state(gpu=False)
    assert first == setup_venv.wanted_state(gpu=False)
    assert first != setup_venv.wanted_state(gpu=True)
    (copy / "cpu.txt").write_text("torch==2.14.0\n")
    assert first != setup_venv.wanted_state(gpu=False)
