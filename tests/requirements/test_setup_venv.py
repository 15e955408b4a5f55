"""The set-up's decisions and messages; that it works as a whole is shown by every fresh clone."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
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
    wanted = [
        (text, pins("common.txt", torch))
        for text in project["dependencies"]
        for torch in ("cpu.txt", "cuda12.txt", "cuda13.txt")
    ]
    wanted += [(text, pins("dev.txt")) for text in project["optional-dependencies"]["dev"]]
    for text, pinned in wanted:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}, but {version} is pinned"


def test_what_running_needs_is_pinned_without_the_developers_packages() -> None:
    """`make setup` installs cpu.txt alone, with common.txt: all that the dependencies ask for, no more."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = all_needed(map(Requirement, project["dependencies"]))
    pinned = set(pins("common.txt", "cpu.txt"))
    assert needed - set(pins("cuda13.txt")) <= pinned
    if sys.version_info[:2] == (3, 11):  # for which the pins are made; newer ones need less
        assert pinned <= needed
    assert not set(pins("dev.txt")) & pinned


def all_needed(requirements: Iterable[Requirement]) -> set[str]:
    """The names of what these ask for, and of what those ask for in their turn, as installed here."""
    left = [(requirement, "") for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for part in {"", *requirement.extras} - {part for known, part in seen if known == name}:
            seen.add((name, part))
            further = importlib.metadata.requires(name) or []
            left += [(Requirement(line), part) for line in further]
    return {name for name, _ in seen}


def test_the_pins_are_complete_and_fit_each_other() -> None:
    """They are installed without resolution, so nothing else would notice a missing one."""
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_no_pin_file_names_an_index_or_a_path() -> None:
    for file in REQUIREMENTS.glob("*.txt"):
        for line in file.read_text().splitlines():
            assert re.fullmatch(r"#.*|-r common\.txt|[\w.-]+==[\w.]+", line), f"{file.name}: {line}"


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
        setup_venv.install_torch("auto", None)


CPU_INDEX = ["--index-url", "https://download.pytorch.org/whl/cpu"]


@pytest.mark.parametrize(
    ("have", "choice", "driver", "reachable", "installed"),
    [
        ("", "auto", None, True, ["torch==2.13.0", *CPU_INDEX]),
        ("", "auto", None, False, ["torch==2.13.0"]),
        ("", "auto", "13", True, ["torch===2.13.0"]),
        ("2.13.0+cpu", "auto", "13", True, ["torch===2.13.0"]),
        ("2.13.0+cpu", "auto", None, True, None),
        ("2.13.0", "auto", None, True, None),
        ("2.12.1+cpu", "auto", None, False, ["torch==2.13.0"]),
        # a driver that is too old for CUDA 13
        ("", "auto", "12", True, ["torch===2.10.0"]),
        ("2.13.0", "auto", "12", True, ["torch===2.10.0"]),
        ("2.10.0", "auto", "12", True, None),
        ("2.10.0", "auto", "13", True, ["torch===2.13.0"]),
        # what somebody installed by hand stays
        ("2.13.0+rocm7.0", "auto", None, True, None),
        ("2.13.0+cu126", "auto", "13", True, None),
        ("2.13.0+cu126", "cuda", "13", True, None),
        ("2.13.0+cu126", "auto", "12", True, None),
        ("2.9.0+cu126", "auto", "12", True, ["torch===2.10.0"]),
        # what was asked for counts more than what the machine has
        ("", "cpu", "13", True, ["torch==2.13.0+cpu", *CPU_INDEX]),
        ("2.13.0+cpu", "cpu", "13", True, None),
        ("2.13.0", "cpu", "13", False, ["torch==2.13.0+cpu"]),
        ("", "cuda", None, True, ["torch===2.13.0"]),
        ("", "cuda", "12", True, ["torch===2.10.0"]),
        ("2.13.0+cpu", "cuda", None, True, ["torch===2.13.0"]),
        ("", "cuda12", "13", True, ["torch===2.10.0"]),
        ("", "cuda13", "12", True, ["torch===2.13.0"]),
    ],
)
def test_which_build_of_torch_is_installed(
    setup_venv: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    have: str,
    choice: str,
    driver: str | None,
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
    setup_venv.install_torch(choice, driver)
    assert calls == ([installed] if installed else [])


@pytest.mark.parametrize(
    ("torch", "pins"),
    [
        ("2.13.0", "cuda13.txt"),
        ("2.10.0", "cuda12.txt"),
        ("2.13.0+cpu", "common.txt"),
        ("2.13.0+cu126", "common.txt"),
    ],
)
def test_the_packages_beside_torch_are_those_of_its_build(
    setup_venv: ModuleType, torch: str, pins: str
) -> None:
    assert setup_venv.pins_beside(torch) == pins


@pytest.mark.parametrize(
    ("nvidia_smi", "cuda"),
    [
        ("echo 580.65.06", "13"),
        ("echo 570.172.08; echo 570.172.08", "12"),  # two GPUs
        ("echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9", None),
        ("echo No devices were found", None),
    ],
)
def test_the_driver_says_which_cuda(
    setup_venv: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    nvidia_smi: str,
    cuda: str | None,
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    program.chmod(0o755)
    monkeypatch.setattr(setup_venv.shutil, "which", lambda name: str(program))
    assert setup_venv.driver_cuda() == cuda
    monkeypatch.setattr(setup_venv.shutil, "which", lambda name: None)
    assert setup_venv.driver_cuda() is None


@pytest.mark.parametrize(
    ("stamp", "works", "kept"),
    [
        ('{"run": "unfinished"}', True, False),
        ('{"run": "an older state"}', True, True),
        ('{"run": "its state", "dev": "unfinished"}', True, True),
        ("a stamp of older kind", True, True),
        (None, True, True),
        (None, False, False),
    ],
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
    setup_venv.make_venv("python3", "cpu")
    assert python.exists() == kept
    assert bool(made) != kept
    if not kept:
        assert setup_venv.read_stamp() == {"torch": "cpu", "run": "unfinished"}


class Machine:
    """A machine whose installs are only noted, and may be interrupted, in place of pip."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = module
        self.installed: list[str] = []
        self.interrupted_in = ""
        monkeypatch.setattr(module, "driver_cuda", lambda: None)
        monkeypatch.setattr(module, "find_python", lambda: "python3")
        monkeypatch.setattr(module, "succeeds", lambda *command: True)
        monkeypatch.setattr(module, "run", lambda command, what: Path(command[-1], "bin").mkdir())
        monkeypatch.setattr(module, "install_run", lambda torch, driver: self.install(f"run, torch {torch}"))
        monkeypatch.setattr(
            module, "install_added", lambda part, again: self.install(part + ", again" * again)
        )

    def install(self, what: str) -> None:
        Path(self.module.venv_python()).touch()
        if what.split(",")[0] == self.interrupted_in:
            raise KeyboardInterrupt
        self.installed.append(what)

    def set_up(self, *parts: str, torch: str | None = None) -> list[str]:
        """What this one command installs."""
        self.installed = []
        self.module.set_up([*parts], torch)
        return self.installed


@pytest.fixture
def machine(setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(setup_venv, monkeypatch)


def test_each_target_installs_what_it_adds_and_once(machine: Machine) -> None:
    assert machine.set_up() == ["run, torch auto"]
    assert machine.set_up("dev") == ["dev"]
    assert machine.set_up("dev", "tools") == ["tools"]
    for parts in ([], ["dev"], ["dev", "tools"]):
        assert machine.set_up(*parts) == []


def test_an_empty_machine_gets_all_at_once(machine: Machine) -> None:
    assert machine.set_up("dev", "tools") == ["run, torch auto", "dev", "tools"]


def test_the_build_of_torch_that_was_asked_for_is_remembered(machine: Machine) -> None:
    assert machine.set_up(torch="cpu") == ["run, torch cpu"]
    assert machine.set_up("dev") == ["dev"]
    assert machine.set_up() == []
    assert machine.set_up("dev", torch="cuda") == ["run, torch cuda"]


def test_new_pins_are_installed_over_the_old_ones(
    machine: Machine, setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(REQUIREMENTS, tmp_path / "copy")
    monkeypatch.setattr(setup_venv, "__file__", str(tmp_path / "copy" / "setup_venv.py"))
    machine.set_up("dev", torch="cpu")
    (tmp_path / "copy" / "cpu.txt").write_text("torch==2.14.0\n")
    assert machine.set_up() == ["run, torch cpu"]
    (tmp_path / "copy" / "dev.txt").write_text("ruff==0.18.0\n")
    assert machine.set_up() == []
    assert machine.set_up("dev") == ["dev"]


def test_an_interrupted_set_up_is_begun_anew_with_the_same_choice(machine: Machine) -> None:
    machine.interrupted_in = "run"
    with pytest.raises(KeyboardInterrupt):
        machine.set_up("dev", torch="cpu")
    machine.interrupted_in = ""
    assert machine.set_up("dev") == ["run, torch cpu", "dev"]


def test_what_was_interrupted_after_torch_does_not_cost_torch_again(machine: Machine) -> None:
    machine.set_up()
    machine.interrupted_in = "dev"
    with pytest.raises(KeyboardInterrupt):
        machine.set_up("dev")
    machine.interrupted_in = ""
    assert machine.set_up() == []
    assert machine.set_up("dev") == ["dev, again"]


def test_another_machine_s_gpu_is_noticed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.set_up("dev")
    monkeypatch.setattr(machine.module, "driver_cuda", lambda: "12")
    assert machine.set_up("dev") == ["run, torch auto"]
