"""Checks whether this machine fits a job, by its driver and installed packages. torch is not imported."""

import ctypes
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.filesize import decimal

from sidestep.config.job import JobSpec
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.lifecycle.trackers import check_trackers
from sidestep.preflight.checks import Check, Finding, run_checks, skipped
from sidestep.runtime import driver
from sidestep.runtime.errors import MachineError
from sidestep.runtime.words import counted
from sidestep.runtime.workspace import open_workspace

log = logging.getLogger(__name__)

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: a driver, and no GPU that this process may see


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it."""

    name: str
    memory: int  # bytes


@dataclass(frozen=True)
class Torch:
    """The installed torch."""

    version: str
    cuda: str | None  # that it is built for, such as 13.0


MACHINE = ("workspace", "device", "packages")
"""What is looked at on every machine; where it has a GPU, its driver too."""


def check_machine(spec: JobSpec) -> list[Finding]:
    """Look at its disk, its GPU with the driver, and the packages that `spec` needs."""
    checks = [Check("workspace", partial(_check_workspace, spec))]
    try:
        gpus = find_gpus()
    except MachineError as error:
        rest = skipped(("driver", "packages"), "the driver does not start")
        return [*run_checks(checks), Finding("device", str(error), error), *rest]
    checks.append(Check("device", partial(_check_device, spec, gpus)))
    if gpus and spec.runtime.device != "cpu":
        checks.append(Check("driver", _check_driver))
    checks.append(Check("packages", partial(_check_packages, spec)))
    return run_checks(checks)


def find_gpus() -> list[Gpu]:
    """The GPUs that this process may use, as torch will count them; none where there is no driver.

    Raises MachineError where there is a driver that does not work.
    """
    try:
        library = ctypes.CDLL(driver.LIBRARY)
    except OSError:
        return []
    code = library.cuInit(0)
    if code == NO_DEVICE:
        return []
    if code:
        raise MachineError(
            f"the NVIDIA driver ({driver.driver_version()}) does not start: CUDA error {code}. It may be of "
            "another version than its kernel module: restart the machine, or take another one."
        )
    count, number, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetCount(ctypes.byref(count))
    gpus = []
    for index in range(count.value):
        library.cuDeviceGet(ctypes.byref(number), index)
        library.cuDeviceGetName(name, len(name), number)
        library.cuDeviceTotalMem_v2(ctypes.byref(memory), number)
        gpus.append(Gpu(name.value.decode(errors="replace"), memory.value))
    return gpus


def _check_device(spec: JobSpec, gpus: list[Gpu]) -> str:
    """The device that the job will use. Raises MachineError if it is not there, or torch cannot use it."""
    wish = spec.runtime.device
    index = int(wish.partition(":")[2] or 0)
    if wish == "cpu" or (wish == "auto" and not gpus):
        if spec.runtime.precision == "fp16":
            raise MachineError("runtime.precision is fp16, which needs a GPU: set it to auto or fp32")
        return "the CPU, as the spec says" if wish == "cpu" else "the CPU: this machine has no NVIDIA GPU"
    if index >= len(gpus):
        raise MachineError(
            f"runtime.device is {wish}, and this machine has {counted(len(gpus), 'NVIDIA GPUs')}. In "
            "a container, check that it was started with them (--gpus all); else set runtime.device to auto "
            "or cpu."
        )
    torch = installed_torch()
    if torch.cuda is None:
        raise MachineError(
            f"there is a {gpus[index].name}, and torch {torch.version} is built for CPUs alone. Install the "
            "CUDA build, or set runtime.device to cpu."
        )
    return f"{gpus[index].name}, {gpus[index].memory / 2**30:.1f} GiB"


def _check_driver() -> str:
    """The driver's version. Raises MachineError if it is too old for the CUDA that torch is built for."""
    torch = installed_torch()
    if torch.cuda:
        driver.check_driver(torch.cuda)
    return f"{driver.driver_version()}, for torch {torch.version} with CUDA {torch.cuda}"


def _check_packages(spec: JobSpec) -> str:
    """The packages that only some specs need.

    Raises MachineError for those that are not installed, BadSpecError for those of trackers.
    """
    check_trackers(spec)
    wanted = {"flash_attn": "runtime.attention: flash"} if spec.runtime.attention == "flash" else {}
    if package := OPTIMIZERS[spec.train.optimizer_type].package:
        wanted = {package: f"train.optimizer_type: {spec.train.optimizer_type}", **wanted}
    if spec.train.quantize == "nf4":
        wanted = {"bitsandbytes": "train.quantize: nf4", **wanted}
    missing = [f"{name} (for {why})" for name, why in wanted.items() if find_spec(name) is None]
    if missing:
        raise MachineError(f"not installed: {', '.join(missing)}. Install it, or choose something else.")
    for name, why in wanted.items():
        if problem := why_not_imported(name):
            raise MachineError(
                f"{name} (for {why}) is installed, but cannot be imported: {problem}. Install one that is "
                "built for this torch, or choose something else."
            )
    found = ", ".join([f"torch {installed_torch().version}", *wanted, *spec.runtime.trackers])
    if obstacle := _why_not_compiled(spec):
        log.warning("runtime.compile is %s, but %s: the run would train without", *obstacle)
        return f"{found}; no blocks are compiled, as {obstacle[1]}"
    return found


def why_not_imported(package: str) -> str:
    """Why it cannot be imported; "" where it can. In a process of its own, as it loads torch, or crashes."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {package}"], capture_output=True, text=True, errors="replace"
    )
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or [f"Python ended with {done.returncode}"])[-1]


def _why_not_compiled(spec: JobSpec) -> tuple[str, str] | None:
    """`runtime.compile`, and why no block can be compiled, where that is so: torch calls a compiler."""
    runtime = spec.runtime
    if runtime.compile == "off" or spec.task not in ("train", "pipeline"):
        return None
    is_cpu = runtime.device == "cpu" or not find_gpus()
    wish, usual = ("CXX", ("g++",)) if is_cpu else ("CC", ("gcc", "clang"))
    named = shlex.split(os.environ.get(wish, ""))[:1] or usual
    if any(map(shutil.which, named)):
        return None
    return runtime.compile, f"there is no compiler here: {' or '.join(named)} ({wish} names another)"


def installed_torch() -> Torch:
    """The installed torch, by its version.py, read as text. Raises MachineError if there is none."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        raise MachineError("torch is not installed: `pip install side-step` brings it")
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = '(.+)'", text, re.M)
    cuda = re.search(r"^cuda.* = '([\d.]+)'", text, re.M)
    return Torch(version[1] if version else "of unknown version", cuda[1] if cuda else None)


def _check_workspace(spec: JobSpec) -> str:
    root = open_workspace(spec.runtime.workspace).root
    return f"{root}, with {decimal(shutil.disk_usage(root).free)} free"
