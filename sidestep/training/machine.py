"""Which device, which precision, and what makes them repeat themselves: chosen by capability, and logged."""

import logging
import os
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric

from sidestep.runtime.errors import MachineError
from sidestep.spec.schema import RuntimeSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """The resolved choices of a spec's `auto`s."""

    device: torch.device
    precision: str  # bf16 | fp32

    @property
    def dtype(self) -> torch.dtype:
        """In which the base weights are held; adapters are always fp32."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def fabric(self) -> Fabric:
        return Fabric(
            accelerator=self.device.type,
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
        )


def choose_machine(runtime: RuntimeSpec) -> Machine:
    """What this machine will use for `runtime`. Raises MachineError where it lacks what is asked for."""
    device = _device(runtime.device)
    precision = runtime.precision if runtime.precision != "auto" else _precision(device)
    log.info("Device %s, precision %s", _name(device), precision)
    if runtime.deterministic:
        _be_deterministic()
    return Machine(device, precision)


def _device(wish: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if wish == "auto":
        return torch.device("cuda:0" if has_gpu else "cpu")
    device = torch.device(wish)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"runtime.device is {wish}; torch {torch.__version__} sees {torch.cuda.device_count()} GPUs\n"
            "  check `nvidia-smi` and that this torch is a CUDA build, or set runtime.device to auto or cpu"
        )
    return torch.device("cuda:0") if device == torch.device("cuda") else device


def _precision(device: torch.device) -> str:
    """bf16 where a GPU computes it natively. A CPU emulates it, 23 times slower than fp32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "bf16"
    return "fp32"


def _name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def _be_deterministic() -> None:
    """Same inputs, same bits. cuBLAS reads its variable when CUDA starts, which is after this."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
