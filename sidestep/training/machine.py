"""Which device, precision and attention, and what makes them repeat themselves: by capability, and logged."""

import logging
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from sidestep.acestep.attention import AttentionName, why_no_flash
from sidestep.config.schema import RuntimeSpec
from sidestep.runtime.driver import check_driver
from sidestep.runtime.errors import MachineError
from sidestep.runtime.versions import version_of
from sidestep.training.numbers import NUMERICS

log = logging.getLogger(__name__)

logging.getLogger(
    "lightning_fabric"
).handlers.clear()  # it prints its precision beside our log, which says it too

_PACKAGES = ("torch", "diffusers", "peft", "lycoris-lora", "transformers")
_FABRIC_PRECISION: dict[str, Literal["bf16-mixed", "16-mixed", "32-true"]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}


@dataclass(frozen=True)
class Machine:
    """The resolved choices of a spec's `auto`s."""

    device: torch.device
    precision: str  # bf16 | fp16 | fp32
    attention: AttentionName = "sdpa"
    threads: int = 1  # that compute on a CPU
    deterministic: bool = True
    kernels: Literal["plain", "fused"] = "plain"  # of the norms and AdamW: in pieces, or one kernel each
    compile: Literal["off", "blocks"] = "off"  # of the decoder's blocks: see `training.compiled`

    def chosen(self) -> dict[str, Any]:
        """What `auto` became, for later attempts: numbers depend on it, in their last bits."""
        return {"precision": self.precision, "attention": self.attention, "threads": self.threads}

    def kind(self, batch_size: int = 1, reduced_by: int = 1, packages: Iterable[str] = ()) -> dict[str, Any]:
        """The hardware, the versions and the settings on which equal runs give equal bits.

        `batch_size` is how many samples are computed at once, `reduced_by` how many ranks add up gradients in
        another order than one does. One is not written: older versions had no more. Nor are plain kernels,
        and that nothing is compiled: there was nothing else. `packages` are those that not all runs use.
        """
        versions = {name: version_of(name) for name in (*_PACKAGES, *packages)}
        if torch.version.cuda:
            versions["cuda"] = torch.version.cuda
        return {
            **self.chosen(),
            **({"batch_size": batch_size} if batch_size > 1 else {}),
            **({"kernels": self.kernels} if self.kernels != "plain" else {}),
            **({"compile": self.compile} if self.compile != "off" else {}),
            **({"reduced_by": reduced_by} if reduced_by > 1 else {}),
            "deterministic": self.deterministic,
            "numerics": {self.precision: NUMERICS[self.precision]},
            "processor": _processor(self.device),
            "versions": versions,
        }

    @property
    def dtype(self) -> torch.dtype:
        """In which the base weights are held; adapters are always fp32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.precision]

    @property
    def fuses_optimizer(self) -> bool:
        """Not in fp16: a fused optimizer unscales gradients by itself, and they are clipped before."""
        return self.kernels == "fused" and self.precision != "fp16"

    @property
    def memory(self) -> int | None:
        """The GPU's, in bytes, whatever else runs on it; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.get_device_properties(self.device).total_memory

    def fabric(self) -> Fabric:
        """Lightning's Fabric for it. With fp16 its precision has a gradient scaler."""
        return Fabric(
            accelerator=self.device.type,
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            precision=_FABRIC_PRECISION[self.precision],
            plugins=[LightningEnvironment()],  # Slurm's or torchrun's would have it start processes
        )


def of_local_rank(runtime: RuntimeSpec, number: int) -> RuntimeSpec:
    """`runtime` for the process of that number on its machine: each has a GPU of its own, where any are."""
    if number and runtime.device != "cpu" and torch.cuda.is_available():
        return runtime.model_copy(update={"device": f"cuda:{number}"})
    return runtime


def choose_machine(runtime: RuntimeSpec, chosen: Mapping[str, Any] | None = None) -> Machine:
    """What this machine will use for `runtime`. Raises MachineError where it lacks what is asked for.

    `chosen` is what the run's first attempt made of each `auto`; where this machine can, it does the same.
    """
    if chosen:
        runtime = _as_before(runtime, chosen)
    device = _device(runtime.device)
    precision, because = _precision(runtime.precision, device)
    log.info("Device %s, precision %s (%s)", _name(device), precision, because)
    attention, because = _attention(runtime.attention, device, precision)
    log.info("Attention %s (%s)", attention, because)
    if runtime.deterministic:
        _be_deterministic()
    before = chosen if chosen and device.type == "cpu" else {}
    threads: int = before.get("threads", torch.get_num_threads())
    torch.set_num_threads(threads)
    began_plain = chosen and chosen.get("kernels", "plain") == "plain"
    kernels: Literal["plain", "fused"] = "fused" if device.type == "cuda" and not began_plain else "plain"
    return Machine(*(device, precision, attention, threads, runtime.deterministic), kernels, runtime.compile)


def _as_before(runtime: RuntimeSpec, chosen: Mapping[str, Any]) -> RuntimeSpec:
    """`runtime` with each `auto` as the first attempt resolved it, as far as this machine can do that."""
    device = _device(runtime.device)
    choices = {
        field: chosen[field]
        for field in ("precision", "attention")
        if getattr(runtime, field) == "auto" and field in chosen
    }
    if choices.get("precision") == "fp16" and device.type == "cpu":
        log.warning("The run began in fp16, which a CPU cannot train in: it continues in fp32")
        choices["precision"] = "fp32"
    precision = choices.get("precision", runtime.precision)
    if choices.get("attention") == "flash" and (obstacle := _why_no_flash(device, precision)):
        log.warning("The run began with flash-attn, but %s: it continues with torch's attention", obstacle)
        choices["attention"] = "sdpa"
    return runtime.model_copy(update=choices)


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _device(wish: str) -> torch.device:
    if wish != "cpu" and torch.version.cuda:
        check_driver(torch.version.cuda)
    has_gpu = torch.cuda.is_available()
    if wish == "auto":
        return torch.device("cuda:0" if has_gpu else "cpu")
    device = torch.device(wish)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"runtime.device is {wish}, but torch {torch.__version__} sees {torch.cuda.device_count()} GPUs\n"
            "  check `nvidia-smi` and that this torch is a CUDA build, or set runtime.device to auto or cpu"
        )
    return torch.device("cuda:0") if device == torch.device("cuda") else device


def _precision(wish: str, device: torch.device) -> tuple[str, str]:
    """bf16 where a GPU computes it natively, unless something else is wished; and why."""
    if wish == "fp16" and device.type == "cpu":
        raise MachineError(
            "runtime.precision is fp16, but the device is a CPU: fp16 training needs a GPU\n"
            "  set runtime.precision to auto, which is fp32 here, or runtime.device to cuda"
        )
    if wish != "auto":
        return wish, "as the spec says"
    if device.type == "cpu":
        return "fp32", "most CPUs emulate bf16, many times slower"
    if _is_ampere(device):
        return "bf16", "native on this GPU"
    return "fp32", "this GPU has no native bf16; fp16 would take half the memory"


def _attention(wish: str, device: torch.device, precision: str) -> tuple[AttentionName, str]:
    """flash-attn where it is installed and runs, unless something else is wished; and why."""
    if wish == "sdpa":
        return "sdpa", "as the spec says"
    obstacle = _why_no_flash(device, precision)
    if obstacle is None:
        return "flash", "flash-attn, with a window in the sliding layers"
    if wish == "flash":
        raise MachineError(
            f"runtime.attention is flash, but {obstacle}\n"
            "  set it to auto or sdpa: torch's own attention computes the same, somewhat slower"
        )
    return "sdpa", f"torch's own, banded in the sliding layers; {obstacle}"


def _why_no_flash(device: torch.device, precision: str) -> str | None:
    if device.type != "cuda":
        return "flash-attn needs a GPU"
    if not _is_ampere(device):
        return "flash-attn needs a GPU of compute capability 8.0 (Ampere) or newer"
    if precision == "fp32":
        return "flash-attn computes in half precision only"
    return why_no_flash()


def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def _be_deterministic() -> None:
    """Same inputs, same bits. cuBLAS reads its variable when CUDA starts, which is after this.

    torch would also fill each new tensor, 200 a layer and step, lest anything be read that was never written:
    nothing is, as the bytes of a run are the same with it and without.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
