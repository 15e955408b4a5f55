"""On which machines equal runs give equal bits."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CPUINFO = Path("/proc/cpuinfo")
PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping")
PACKAGES = (
    *("torch", "transformers", "diffusers", "peft", "lycoris-lora"),
    *("bitsandbytes", "prodigyopt"),
)


def machine_kind() -> dict[str, Any]:
    """The hardware and the versions that decide the last bits: of the same kind, of the same bits."""
    first = CPUINFO.read_text(errors="replace").partition("\n\n")[0] if CPUINFO.exists() else ""
    facts = dict(line.split(":", 1) for line in first.splitlines())
    said = {name.strip(): value.strip() for name, value in facts.items()}
    return {
        "processor": {
            "machine": platform.machine(),
            **{name: said[name] for name in PROCESSOR if name in said},
        },
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        # Fabric came with all of lightning when the runs were recorded: the same code, and the same number.
        "versions": {name: version(name) for name in PACKAGES} | {"lightning": version("lightning-fabric")},
    }
