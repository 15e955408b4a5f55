"""How busy, full and hot the GPUs of a job are, as NVIDIA's driver says (NVML).

A thread of its own asks, as a driver may hang. Nothing is asked where there is no driver, a failure is told
once, and none of it ends anything.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from ctypes import CDLL
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from sidestep.runtime.parsing import Amount, Count, Number

log = logging.getLogger(__name__)

LIBRARY = "libnvidia-ml.so.1"
EVERY_SECONDS = 15.0
FRESH_SECONDS = 4 * EVERY_SECONDS  # what is older says nothing of now: the driver hangs

Figure = TypeVar("Figure")


class Gpu(BaseModel):
    """One GPU at one moment. None: the driver does not say that of it, as of a part of a GPU (MIG)."""

    model_config = ConfigDict(extra="ignore")

    index: Count  # among those that the job sees, as CUDA counts them
    name: str | None = None
    utilization: Amount | None = None  # percent of the time in which it computed
    memory_used: Count | None = None  # bytes
    memory_total: Count | None = None  # bytes
    temperature: Number | None = None  # degrees Celsius
    power: Amount | None = None  # watts


class GpuWatch:
    """Reads the GPUs that the job sees every few seconds, from `start` to `stop`."""

    def __init__(
        self,
        device: str,
        environ: Mapping[str, str] = os.environ,
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            device: as `runtime.device` has it: of `cpu` none is read, of `cuda:1` that one, otherwise all.
            environ: whose CUDA_VISIBLE_DEVICES says which GPUs there are.
            every: seconds between two readings.
        """
        self._device, self._environ, self._every, self._clock = device, environ, every, clock
        self._read_at, self._gpus = clock(), tuple[Gpu, ...]()
        self._over = threading.Event()
        self._is_open, self._has_failed = False, False

    def start(self) -> None:
        """Read from now on."""
        if self._device != "cpu":
            threading.Thread(target=self._run, name="gpus", daemon=True).start()

    def stop(self) -> None:
        """Read no more; nobody waits for a driver that hangs."""
        self._over.set()

    def latest(self) -> tuple[Gpu, ...]:
        """What was read last; nothing where that is long ago, or where there is no driver."""
        gpus, read_at = self._gpus, self._read_at
        return gpus if self._clock() - read_at < FRESH_SECONDS else ()

    def _run(self) -> None:
        try:
            CDLL(LIBRARY)
        except OSError:
            return  # no driver
        while not self._over.is_set():
            try:
                gpus = self._read()
            except Exception as error:  # noqa: BLE001 - whatever a driver does, the job goes on
                self._tell(error)
                gpus, self._is_open = (), False
            self._gpus, self._read_at = gpus, self._clock()
            self._over.wait(self._every)

    def _read(self) -> tuple[Gpu, ...]:
        import pynvml

        if not self._is_open:
            pynvml.nvmlInit()
            self._is_open = True
        handles = list(enumerate(_visible(self._environ.get("CUDA_VISIBLE_DEVICES"))))
        if number := re.fullmatch(r"cuda:(\d+)", self._device):
            handles = [one for one in handles if one[0] == int(number[1])]
        return tuple(gpu for index, handle in handles if (gpu := self._figures(index, handle)))

    def _figures(self, index: int, handle: Any) -> Gpu | None:
        """What one GPU says; None where it fails, which says nothing of the others."""
        import pynvml

        try:
            memory = _figure(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
            use = _figure(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
            heat = _figure(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
            milliwatts = _figure(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
            return Gpu(
                index=index,
                name=_figure(lambda: pynvml.nvmlDeviceGetName(handle)),
                utilization=None if use is None else float(use.gpu),
                memory_used=None if memory is None else int(memory.used),
                memory_total=None if memory is None else int(memory.total),
                temperature=None if heat is None else float(heat),
                power=None if milliwatts is None else milliwatts / 1000,
            )
        except Exception as error:  # noqa: BLE001
            self._tell(error)
            return None

    def _tell(self, error: Exception) -> None:
        if not self._has_failed:
            log.warning(
                "The NVIDIA driver does not say how the GPUs are; it is asked again every %g seconds, and "
                "the job goes on: %s",
                *(self._every, error),
            )
        self._has_failed = True


def count_gpus(environ: Mapping[str, str]) -> int:
    """How many GPUs CUDA shows a process of `environ`, as far as there is a driver that says it; else 0."""
    import pynvml

    try:
        CDLL(LIBRARY)
        pynvml.nvmlInit()
        return len(list(_visible(environ.get("CUDA_VISIBLE_DEVICES"))))
    except (OSError, pynvml.NVMLError) as error:
        log.debug("No GPU can be counted: %s", error)
        return 0


def _visible(words: str | None) -> Iterator[Any]:
    """The handles of the GPUs that CUDA shows a process for these words of CUDA_VISIBLE_DEVICES; None: all.

    As CUDA reads them: numbers, or beginnings of UUIDs; from the first that names no GPU on, none counts.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars
    """
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
    if words is None:
        yield from handles
        return
    for word in map(str.strip, words.split(",")):
        if word.startswith("MIG-"):
            try:
                named = [pynvml.nvmlDeviceGetHandleByUUID(word)]
            except pynvml.NVMLError:
                named = []
        elif word.startswith("GPU-"):
            named = [one for one in handles if pynvml.nvmlDeviceGetUUID(one).startswith(word)]
        else:
            named = handles[int(word) :][:1] if re.fullmatch(r"\d{1,4}", word, re.ASCII) else []
        if len(named) != 1:
            return
        yield named[0]


def _figure(ask: Callable[[], Figure]) -> Figure | None:
    """What the driver answers; None where it has no such figure of this GPU, or not for this user."""
    import pynvml

    try:
        return ask()
    except pynvml.NVMLError as error:
        if error.value in (
            pynvml.NVML_ERROR_NOT_SUPPORTED,
            pynvml.NVML_ERROR_NO_PERMISSION,
            pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            pynvml.NVML_ERROR_INVALID_ARGUMENT,  # of a MIG device, some drivers
        ):
            return None
        raise
