"""A stand-in for NVIDIA's driver library, below pynvml: what ctypes would call, with what C would get.

with nvml(Device("GPU-1111", use=55), Device("GPU-2222")) as driver:
    driver.fails["nvmlDeviceGetUtilizationRates"] = LOST
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

NOT_SUPPORTED, NOT_FOUND, UNKNOWN = 3, 6, 999
LOST = 15


@dataclass
class Device:
    """One GPU. None: the driver says NVML_ERROR_NOT_SUPPORTED, as it does of a MIG device."""

    uuid: str
    name: str = "NVIDIA L4"
    use: int | None = 50  # percent
    used: int | None = 3 * 10**9
    total: int = 24 * 10**9
    heat: int | None = 61
    power: int | None = 65_500  # milliwatts


@dataclass
class Driver:
    """What there is, and what goes wrong: the code that a function answers with, or all of them if "*"."""

    devices: list[Device]
    mig: list[Device] = field(default_factory=list)  # found by UUID alone
    fails: dict[str, int] = field(default_factory=dict)
    fails_of: dict[str, int] = field(default_factory=dict)  # by a device's UUID
    hangs: threading.Event | None = None
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        if name == "nvmlErrorString":
            return _Function(lambda code: f"error {code}".encode())
        function: Callable[..., int] = globals()[f"_{name}"]

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if self.hangs:
                self.hangs.wait(30)
            if code := self.fails.get(name, self.fails.get("*", 0)):
                return code
            return function(self, *arguments)

        return call


class _Function:
    """With a place for what ctypes wants to know of a function."""

    restype: Any = None

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


@contextmanager
def nvml(*devices: Device, mig: Device | None = None) -> Iterator[Driver]:
    """While the block runs, this machine has such a driver."""
    driver = Driver(list(devices), [mig] if mig else [])

    def library(name: str) -> Driver:
        assert name == "libnvidia-ml.so.1"
        return driver

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidestep.runtime.gpus.CDLL", library)
        patch.setattr(pynvml, "CDLL", library)
        patch.setattr(pynvml, "nvmlLib", None)
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        yield driver


def _of(driver: Driver, handle: Any) -> Device:
    """Handles are addresses: here, the place in the list, from 1."""
    return [*driver.devices, *driver.mig][ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]


def _point(reference: Any, place: int) -> int:
    ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))[0] = place + 1
    return 0


def _nvmlInitWithFlags(driver: Driver, flags: int) -> int:
    return 0


def _nvmlDeviceGetCount_v2(driver: Driver, count: Any) -> int:
    count._obj.value = len(driver.devices)
    return 0


def _nvmlDeviceGetHandleByIndex_v2(driver: Driver, index: Any, handle: Any) -> int:
    return _point(handle, index.value)


def _nvmlDeviceGetHandleByUUID(driver: Driver, uuid: Any, handle: Any) -> int:
    for place, device in enumerate([*driver.devices, *driver.mig]):
        if device.uuid.encode() == uuid.value:
            return _point(handle, place)
    return NOT_FOUND


def _nvmlDeviceGetUUID(driver: Driver, handle: Any, text: Any, size: Any) -> int:
    text.value = _of(driver, handle).uuid.encode()
    return 0


def _nvmlDeviceGetName(driver: Driver, handle: Any, text: Any, size: Any) -> int:
    text.value = _of(driver, handle).name.encode()
    return 0


def _nvmlDeviceGetMemoryInfo(driver: Driver, handle: Any, memory: Any) -> int:
    device = _of(driver, handle)
    if code := driver.fails_of.get(device.uuid, 0):
        return code
    if device.used is None:
        return NOT_SUPPORTED
    memory._obj.used, memory._obj.total = device.used, device.total
    return 0


def _nvmlDeviceGetUtilizationRates(driver: Driver, handle: Any, rates: Any) -> int:
    if (use := _of(driver, handle).use) is None:
        return NOT_SUPPORTED
    rates._obj.gpu = use
    return 0


def _nvmlDeviceGetTemperature(driver: Driver, handle: Any, sensor: Any, heat: Any) -> int:
    if (degrees := _of(driver, handle).heat) is None:
        return NOT_SUPPORTED
    heat._obj.value = degrees
    return 0


def _nvmlDeviceGetPowerUsage(driver: Driver, handle: Any, milliwatts: Any) -> int:
    if (power := _of(driver, handle).power) is None:
        return NOT_SUPPORTED
    milliwatts._obj.value = power
    return 0
