"""Side-Step: trains LoRA and LoKR adapters for the ACE-Step 1.5 music model as unattended batch jobs.

    spec = sidestep.JobSpec.load("job.yaml", train={"epochs": 2})
    sidestep.run(spec)  # progress=False, or a function that is called with each Progress
    model = sidestep.acestep.load_model("checkpoints", "base", device="cpu", dtype=torch.float32)
    sidestep.adapters.load(model, "runs/my-lora/adapter")

What is used is imported on use: `import sidestep` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidestep import acestep, adapters
    from sidestep.config.job import JobSpec
    from sidestep.runtime.progress import Progress
    from sidestep.tasks import run

__all__ = ["JobSpec", "Progress", "acestep", "adapters", "run"]

_WHERE = {
    "JobSpec": "sidestep.config.job",
    "Progress": "sidestep.runtime.progress",
    "run": "sidestep.tasks",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in __all__:
        return import_module(f"sidestep.{name}")
    raise AttributeError(f"module 'sidestep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
