"""Makes the project's virtual environment, .venv, or brings it up to date; `make setup` runs this.

    python3 requirements/setup_venv.py

Packages are installed at the exact versions of the files beside this one, without dependency
resolution, which takes minutes where this takes one. torch comes first and alone: its CPU build where
there is no NVIDIA GPU and an index offers one. A stamp in .venv makes the next run a matter of
milliseconds; an interrupted run is begun anew. Runs on any Python 3, to be able to ask for a newer one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "side-step-setup"
UNFINISHED = "unfinished"
PYTHONS = ["python3.11", "python3.12", "python3.13", "python3.14"]  # those that the pins have wheels for
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GIGABYTE = 10**9

ADVICE = [
    ("No space left on device", "The disk is full. Free some space, then run the same command again."),
    (
        r"NameResolutionError|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Connection(Reset)?Error",
        "The package index cannot be reached. Check the network, the proxy and pip's configuration "
        "(pip config list), then run the same command again.",
    ),
    (
        "No matching distribution found",
        "No index that pip knows has this package for this Python and platform. Side-Step is made for "
        "Python 3.11 to 3.14 on Linux x86-64.",
    ),
]


class SetupError(Exception):
    """What went wrong and what to do, in one message for the user."""


def run(command: list[str], what: str) -> str:
    """Run quietly; return the output, or raise SetupError with the advice that fits it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = "\n".join("    " + line for line in done.stdout.strip().splitlines()[-12:])
        advice = next((text for pattern, text in ADVICE if re.search(pattern, done.stdout)), "")
        raise SetupError(f"{what} failed.{' ' + advice if advice else ''}\n{tail}")
    return done.stdout


def succeeds(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def pip(*arguments: str, what: str) -> None:
    run([venv_python(), "-m", "pip", "--disable-pip-version-check", "install", "-q", *arguments], what)


def venv_python() -> str:
    return str(VENV / "bin" / "python")


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is being done, and then how long it took."""
    print("  " + text + " …", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def find_python() -> str:
    """This Python where it will do, else the first on PATH that does; it must be able to make a venv."""
    here = getattr(sys, "_base_executable", sys.executable)  # not that of a .venv which may be remade
    candidates = [here] if (3, 11) <= sys.version_info[:2] <= (3, 14) else []
    candidates += [found for found in map(shutil.which, PYTHONS) if found]
    if not candidates:
        raise SetupError(
            f"Side-Step needs Python 3.11 to 3.14; python3 is {sys.version.split()[0]} and there is no other "
            "on PATH. Install one (on Debian and Ubuntu: apt install python3.11 python3.11-venv)."
        )
    for python in candidates:
        if succeeds(python, "-c", "import venv, ensurepip"):
            return python
    raise SetupError(
        f"{candidates[0]} has no venv module, so it cannot make a virtual environment. "
        "Install it (on Debian and Ubuntu: apt install python3-venv)."
    )


def has_gpu() -> bool:
    nvidia_smi = shutil.which("nvidia-smi")
    return nvidia_smi is not None and succeeds(nvidia_smi, "-L")


def wanted_state(gpu: bool) -> str:
    """A digest of all that decides what .venv contains."""
    digest = hashlib.sha256(f"{ROOT} {gpu}".encode())
    for file in [ROOT / "pyproject.toml", *sorted(Path(__file__).parent.iterdir())]:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def make_venv(python: str) -> None:
    """Keep a .venv that works; make a new one in place of none, of a broken or half-made one."""
    check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))"
    works = Path(venv_python()).exists() and succeeds(venv_python(), "-c", check)
    if works and not (STAMP.exists() and STAMP.read_text() == UNFINISHED):
        STAMP.write_text(UNFINISHED)
        return
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    STAMP.write_text(UNFINISHED)
    with step("a virtual environment in .venv"):
        run([python, "-m", "venv", str(VENV)], "Making the virtual environment")


def installed_torch() -> str:
    """torch's version, with the local part that names its build, or "" where there is none."""
    command = "import importlib.metadata as m; print(*(d.version for d in m.distributions(name='torch')))"
    return run([venv_python(), "-c", command], "Looking for torch").strip()


def can_reach(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=4):
            return True
    except OSError:
        return False


def install_torch(version: str, gpu: bool) -> None:
    """torch alone: it decides which other packages are needed, and is most of the download."""
    have = installed_torch()
    if have == version or (have == f"{version}+cpu" and not gpu):
        return
    needed = (12 if gpu else 4) * GIGABYTE
    free = shutil.disk_usage(ROOT).free
    if free < needed:
        raise SetupError(
            f"{ROOT} is on a disk with {free / GIGABYTE:.1f} GB free; "
            f"the set-up needs {needed / GIGABYTE:.0f} GB. Free some space, then run the same command again."
        )
    # === takes PyPI's CUDA build even where an index also offers 2.13.0+cpu, which == would prefer
    arguments = [f"torch==={version}" if gpu else f"torch=={version}"]
    if not gpu and can_reach(f"{TORCH_CPU_INDEX}/torch/"):
        arguments += ["--index-url", TORCH_CPU_INDEX]
    with step(f"torch {version}" + (" for CUDA" if gpu else "")):
        pip("--no-deps", "--force-reinstall", *arguments, what="Installing torch")


def let_torchaudio_import() -> None:
    """Remove torchaudio's compiled extension where it cannot load beside this torch.

    The wheel's extension is built for CUDA. Without the files torchaudio takes itself for built without
    an extension, and its Python part (all that is used) works; with them it, and with it transformers,
    diffusers and peft, would fail to import.
    """
    if succeeds(venv_python(), "-c", "import torchaudio"):
        return
    where = "import importlib.util as u; print(u.find_spec('torchaudio').origin)"
    package = Path(run([venv_python(), "-c", where], "Looking for torchaudio").strip()).parent
    for file in (package / "lib").glob("*.so"):
        file.unlink()


def set_up() -> None:
    gpu = has_gpu()
    state = wanted_state(gpu)
    if STAMP.exists() and STAMP.read_text() == state:
        return
    python = find_python()
    if STAMP.exists() and STAMP.read_text() != UNFINISHED:
        print("Bringing .venv up to date.", flush=True)
    else:
        print(
            "Setting up Side-Step's virtual environment, .venv. This takes a few minutes, once.", flush=True
        )
    start = time.monotonic()
    make_venv(python)
    requirements = Path(__file__).parent
    torch = re.search(r"^torch==(\S+)$", (requirements / "cpu.txt").read_text(), re.MULTILINE)
    assert torch, "requirements/cpu.txt pins torch"
    install_torch(torch[1], gpu)
    pins = "cpu.txt" if installed_torch().endswith("+cpu") else "cuda.txt"
    files = [str(requirements / pins), str(requirements / "dev.txt")]
    with step(f"the packages of requirements/{pins} and dev.txt"):
        pip("--no-deps", "-r", files[0], "-r", files[1], what="Installing the packages")
    with step("Side-Step itself, and a first import"):
        pip("--no-deps", "--editable", str(ROOT), what="Installing Side-Step")
        let_torchaudio_import()
        imports = "import sidestep, torchaudio, transformers, diffusers, peft"
        run([venv_python(), "-W", "ignore", "-c", imports], "Importing what was installed")
    STAMP.write_text(state)
    print(f"Ready after {time.monotonic() - start:.0f} s: .venv/bin/sidestep --help", flush=True)


if __name__ == "__main__":
    try:
        set_up()
    except SetupError as problem:
        sys.exit(f"Set-up: {problem}")
    except KeyboardInterrupt:
        sys.exit("Set-up: interrupted. The next run begins it anew.")
