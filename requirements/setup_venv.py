"""Makes the project's virtual environment, .venv, or brings it up to date. `make setup` runs this.

    python3 requirements/setup_venv.py                  what running Side-Step needs
    python3 requirements/setup_venv.py dev              and what tests, lint and type check need
    python3 requirements/setup_venv.py dev tools        and what lints and tests the image and the chart
    python3 requirements/setup_venv.py --torch cpu      torch's CPU build, on a machine with a GPU too
    python3 requirements/setup_venv.py --torch cuda12   the one for drivers from 525 on

Packages are installed at the exact versions of the files beside this one, without dependency resolution,
which takes minutes where this takes one. torch comes first and alone: its CPU build where there is no
NVIDIA GPU and an index offers one, else the one for the CUDA that the driver runs. What is asked for by
--torch is remembered in .venv, and a build of the right version that was put there by hand stays. A stamp
in .venv makes the next run a matter of milliseconds; what was interrupted is begun anew. Runs on any
Python 3, to be able to ask for a newer one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
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
PINS = ("cpu.txt", "cuda12.txt", "cuda13.txt")  # each with a torch
ADDED = {"dev": "dev.txt", "tools": "tools.txt"}  # what is installed beside what running needs
PYTHONS = ["python3.11", "python3.12", "python3.13", "python3.14"]  # those that the pins have wheels for
BUILDS = ["auto", "cpu", "cuda", "cuda12", "cuda13"]  # of torch; cuda is the one for the driver here
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GIGABYTE = 10**9
CUDA13_DRIVER = 580  # the first for CUDA 13; an older one gets the torch for CUDA 12

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


def driver_cuda() -> str | None:
    """Which CUDA's pins suit the NVIDIA driver, "12" or "13"; None where there is no GPU."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return None
    ask = [nvidia_smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = re.match(r"(\d+)\.", asked.stdout)
    if asked.returncode or found is None:
        return None
    return "13" if int(found[1]) >= CUDA13_DRIVER else "12"


def pins_for(choice: str, driver: str | None) -> str:
    """The file that has the torch to install, for a choice among auto, cpu, cuda, cuda12 and cuda13."""
    if choice == "cuda" or (choice == "auto" and driver):
        return f"cuda{driver or 13}.txt"
    return "cpu.txt" if choice == "auto" else f"{choice}.txt"


def torch_of(pins: str) -> str:
    """The version of torch in one of the files."""
    text = Path(__file__).with_name(pins).read_text()
    version = re.search(r"^torch==(\S+)$", text, re.MULTILINE)
    assert version, f"requirements/{pins} pins torch"
    return version[1]


def read_stamp() -> dict[str, str]:
    """Which build of torch was asked for, and of each part what it was made from, or UNFINISHED."""
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_stamp(stamp: dict[str, str]) -> None:
    STAMP.write_text(json.dumps(stamp))


def digest_of(*inputs: str | Path) -> str:
    digest = hashlib.sha256()
    for given in inputs:
        content = given.read_bytes() if isinstance(given, Path) else given.encode()
        digest.update(content + b"\0")
    return digest.hexdigest()


def wanted_state(parts: list[str], torch: str, driver: str | None) -> dict[str, str]:
    """The stamp of a .venv that has all it should have."""
    here = Path(__file__).resolve()
    run = [ROOT / "pyproject.toml", here, *(here.with_name(name) for name in ("common.txt", *PINS))]
    stamp = {"torch": torch, "run": digest_of(str(ROOT), torch, str(driver), *run)}
    return {**stamp, **{part: digest_of(here.with_name(ADDED[part])) for part in parts}}


def make_venv(python: str, torch: str) -> None:
    """Keep a .venv that works; make a new one in place of none, of a broken or half-made one."""
    check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))"
    works = Path(venv_python()).exists() and succeeds(venv_python(), "-c", check)
    if works and read_stamp().get("run") != UNFINISHED:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    write_stamp({"torch": torch, "run": UNFINISHED})
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


def install_torch(choice: str, driver: str | None) -> None:
    """torch alone: it decides which other packages are needed, and is most of the download.

    A build that is there stays if it is of the version that is wanted or, where somebody put it there by
    hand (2.13.0+cu126), of any that is pinned; unless it is not the one asked for, or the CPU's beside a GPU.
    """
    pins = pins_for(choice, driver)
    version, cuda = torch_of(pins), pins != "cpu.txt"
    there, _, build = installed_torch().partition("+")
    is_cpu = build == "cpu"
    fits = there == version or (build and not is_cpu and there in map(torch_of, PINS))
    if fits and not (cuda and is_cpu) and not (choice == "cpu" and not is_cpu):
        return
    needed = (12 if cuda else 4) * GIGABYTE
    free = shutil.disk_usage(ROOT).free
    if free < needed:
        raise SetupError(
            f"{ROOT} is on a disk with {free / GIGABYTE:.1f} GB free; "
            f"the set-up needs {needed / GIGABYTE:.0f} GB. Free some space, then run the same command again."
        )
    # === takes PyPI's CUDA build even where an index also offers 2.13.0+cpu, which == would prefer
    arguments = [f"torch==={version}" if cuda else f"torch=={version}" + ("+cpu" if choice == "cpu" else "")]
    if not cuda and can_reach(f"{TORCH_CPU_INDEX}/torch/"):
        arguments += ["--index-url", TORCH_CPU_INDEX]
    with step(f"torch {version}" + (f" for CUDA {pins[4:6]}" if cuda else "")):
        pip("--no-deps", "--force-reinstall", *arguments, what="Installing torch")


def install_run(torch: str, driver: str | None) -> None:
    """What running Side-Step needs, and Side-Step itself, as a link to this folder."""
    install_torch(torch, driver)
    pins = pins_beside(installed_torch())
    with step(f"the packages of requirements/{pins}"):
        pip("--no-deps", "-r", str(Path(__file__).with_name(pins)), what="Installing the packages")
    with step("Side-Step itself, and a first import"):
        pip("--no-deps", "--editable", str(ROOT), what="Installing Side-Step")
        imports = "import sidestep, transformers, diffusers, peft"
        run([venv_python(), "-W", "ignore", "-c", imports], "Importing what was installed")


def pins_beside(torch: str) -> str:
    """The packages that an installed torch needs. Builds with a local part (+cpu, +cu126, +rocm7.0) brought
    their own libraries, or need none; PyPI's need those of their CUDA."""
    if "+" in torch:
        return "common.txt"
    return next(pins for pins in PINS if pins != "cpu.txt" and torch_of(pins) == torch)


def install_added(part: str, again: bool) -> None:
    """The packages of one file. `again`: also those that seem to be there, after an interrupted install."""
    arguments = ["--no-deps", *(["--force-reinstall"] if again else [])]
    with step(f"the packages of requirements/{ADDED[part]}"):
        pip(*arguments, "-r", str(Path(__file__).with_name(ADDED[part])), what="Installing the packages")


def set_up(parts: list[str], torch: str | None) -> None:
    """Install what running needs and `parts`, as far as .venv lacks it.

    `torch` is one of BUILDS, or None for what was asked for the last time, auto at first.
    """
    stamp, driver = read_stamp(), driver_cuda()
    torch = torch or stamp.get("torch", "auto")
    wanted = wanted_state(parts, torch, driver)
    if all(stamp.get(name) == state for name, state in wanted.items()):
        return
    if stamp.get("run", UNFINISHED) == UNFINISHED:
        print("Making Side-Step's virtual environment, .venv. This takes a few minutes, once.", flush=True)
    else:
        print("Bringing .venv up to date.", flush=True)
    start = time.monotonic()
    make_venv(find_python(), torch)
    stamp = read_stamp()  # of a .venv that was made anew, nothing but the build
    if stamp.get("run") != wanted["run"]:
        write_stamp({**stamp, "torch": torch, "run": UNFINISHED})
        install_run(torch, driver)
        stamp = {**stamp, "torch": torch, "run": wanted["run"]}
    for part in (part for part in parts if stamp.get(part) != wanted[part]):
        write_stamp({**stamp, part: UNFINISHED})
        install_added(part, again=stamp.get(part) == UNFINISHED)
        stamp = {**stamp, part: wanted[part]}
    write_stamp(stamp)
    print(f"Ready after {time.monotonic() - start:.0f} s: .venv/bin/sidestep --help", flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Makes .venv, or brings it up to date.")
    arguments.add_argument("parts", nargs="*", metavar="dev|tools", help="what is wanted beside running")
    arguments.add_argument("--torch", choices=BUILDS, help="which build of torch")
    given = arguments.parse_args()
    unknown = set(given.parts) - set(ADDED)
    if unknown:
        arguments.error(f"there is no part {', '.join(sorted(unknown))}: {', '.join(ADDED)}")
    try:
        set_up(given.parts, given.torch)
    except SetupError as problem:
        sys.exit(f"Set-up: {problem}")
    except KeyboardInterrupt:
        sys.exit("Set-up: interrupted. The next run begins it anew.")
