"""The NVIDIA driver: which CUDA it runs, asked of the driver itself, without torch.

torch takes a driver that is too old for it for no GPU at all, and would train on the CPU.
"""

import ctypes
import re
from pathlib import Path

from sidestep.runtime.errors import MachineError

LIBRARY = "libcuda.so.1"
VERSION_FILE = Path("/proc/driver/nvidia/version")

OLDEST_DRIVER = {13: 580, 12: 525}
"""The first driver branch for each major version of CUDA: NVIDIA's CUDA compatibility guide, table 1."""


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that this machine's driver runs, such as (13, 0), or None where there is no driver."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def driver_version() -> str:
    """The driver's own version, such as "570.86.15", or "of unknown version" where the kernel says none."""
    try:
        found = re.search(r"Kernel Module\D*(\d+\.[\d.]+)", VERSION_FILE.read_text())
    except OSError:
        found = None
    return found[1] if found else "of unknown version"


def check_driver(needed: str) -> None:
    """Raise MachineError where there is a driver and it is too old for the CUDA `needed`, such as "13.0".

    Within one major version an older driver runs a newer CUDA, so only the major version counts.
    """
    runs, major = driver_cuda(), int(needed.split(".")[0])
    if runs and runs[0] < major:
        other = (
            f"the image whose tag ends with -cuda{runs[0]} (in a clone: make setup TORCH=cuda{runs[0]}), "
            if runs[0] in OLDEST_DRIVER
            else ""
        )
        raise MachineError(
            f"the NVIDIA driver is {driver_version()}, which runs CUDA up to {runs[0]}.{runs[1]}; this torch "
            f"is built for CUDA {needed}, which needs driver {OLDEST_DRIVER[major]} or newer\n"
            f"  take {other}a machine with a newer driver, or set runtime.device to cpu"
        )
