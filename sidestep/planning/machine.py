"""Does this machine fit a job? Asked without torch, which takes seconds to import."""

import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from sidestep.runtime.errors import MachineError
from sidestep.spec.schema import JobSpec

OLDEST_DRIVER = 580
"""The first driver branch for CUDA 13, of which torch's wheels are made."""

QUERY = ("--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits")
QUERY_SECONDS = 20  # a driver that nobody uses may take some seconds to wake up


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it."""

    name: str
    gigabytes: float
    driver: str
    capability: tuple[int, int]


def find_gpus() -> list[Gpu]:
    """The GPUs of this machine, by `nvidia-smi`; none where there is no driver.

    Raises MachineError where there is a driver that does not answer.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        asked = subprocess.run(
            ["nvidia-smi", *QUERY], capture_output=True, text=True, check=True, timeout=QUERY_SECONDS
        )
        return [_parsed(line) for line in asked.stdout.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stdout", "") or error).strip().splitlines()
        raise MachineError(
            f"nvidia-smi does not say which GPUs there are: {' '.join(said[:1])}. The driver may be broken, "
            "or of another version than its kernel module: restart the machine, or take another one."
        ) from error


def _parsed(line: str) -> Gpu:
    name, megabytes, driver, capability = (part.strip() for part in line.split(","))
    major, minor = capability.split(".")
    return Gpu(name, float(megabytes) / 1024, driver, (int(major), int(minor)))


def look_for_device(spec: JobSpec, gpus: list[Gpu]) -> str:
    """Is the device there that the spec asks for, and will torch be able to use it?"""
    wish = spec.runtime.device
    index = int(wish.partition(":")[2] or 0)
    if wish == "cpu" or (wish == "auto" and not gpus):
        if spec.runtime.precision == "fp16":
            raise MachineError("runtime.precision is fp16, which needs a GPU: set it to auto or fp32")
        return "the CPU, as the spec says" if wish == "cpu" else "the CPU: this machine has no NVIDIA GPU"
    if index >= len(gpus):
        raise MachineError(
            f"runtime.device is {wish}, and this machine has {len(gpus)} NVIDIA GPUs. In a container, check "
            "that it was started with them (--gpus all); else set runtime.device to auto or cpu."
        )
    gpu = gpus[index]
    if _torch_version().endswith("+cpu"):
        raise MachineError(
            f"there is a {gpu.name}, and torch {_torch_version()} is built for CPUs alone. Install the CUDA "
            "build, or set runtime.device to cpu."
        )
    return f"{gpu.name}, {gpu.gigabytes:.0f} GiB"


def look_for_driver(gpus: list[Gpu]) -> str:
    """Is the driver new enough for the CUDA that torch brings along?"""
    driver = gpus[0].driver
    if int(driver.split(".")[0]) < OLDEST_DRIVER:
        raise MachineError(
            f"the NVIDIA driver is {driver}, and torch {_torch_version()} needs {OLDEST_DRIVER} or newer "
            "(CUDA 13). Update the driver, or take a machine with a newer one."
        )
    return f"{driver} ({OLDEST_DRIVER} or newer is needed)"


def look_for_packages(spec: JobSpec) -> str:
    """Are the packages installed that this spec alone needs?"""
    wanted = {
        "bitsandbytes": spec.train.optimizer_type == "adamw8bit" and "train.optimizer_type: adamw8bit",
        "flash_attn": spec.runtime.attention == "flash" and "runtime.attention: flash",
    }
    missing = [f"{name} (for {why})" for name, why in wanted.items() if why and find_spec(name) is None]
    if missing:
        raise MachineError(f"not installed: {', '.join(missing)}. Install it, or choose something else.")
    return f"torch {_torch_version()}" + "".join(f", {name}" for name, why in wanted.items() if why)


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError as error:
        raise MachineError("torch is not installed: `pip install side-step` brings it") from error
