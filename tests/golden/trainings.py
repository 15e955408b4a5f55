"""Sixteen short trainings under each law of draws, with the curves, adapter and file digests of each.

They are run through what users have alone: `JobSpec.load`, `run`, and the files of the output.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import sidestep
from sidestep.data.card import HEADER
from sidestep.training.numbers import Progress
from tests.golden.machine import machine_kind

FOLDER = Path(__file__).parent / "runs"
STEPS = 6
TARGETS = ("layers.0.self_attn.q_proj", "layers.1.cross_attn.v_proj")
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 32, "alpha": 48},
    "lokr": {"rank": 64, "factor": 2},
}
# Gradients are clipped to so little that the optimizer's epsilon (1e-8) counts. Without it, an element whose
# gradient is next to nothing is moved by a whole step, in the direction of some processor's rounding errors.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-2, "max_grad_norm": 1e-6},
    "adamw8bit": {"lr": 1e-2, "max_grad_norm": 1e-6},
    "adafactor": {"lr": 1e-2, "max_grad_norm": 1e-6},
    "prodigy": {"lr": 10, "max_grad_norm": 1e-5, "scheduler": "cosine"},
}
MODES: dict[str, dict[str, Any]] = {
    "corrected": {"cfg_dropout": 0.4, "chunk_duration": 1},
    "vanilla": {},
}
LAWS = {"": 1, "law2-": 2}  # of random draws, by how the names of its runs begin
RUNS = tuple(law + "-".join(parts) for law, *parts in product(LAWS, ADAPTERS, OPTIMIZERS, MODES))
PUBLISHED = {"lora": "adapter_model.safetensors", "lokr": "lokr_weights.safetensors"}
CURVES = ("loss/train", "loss/eval", "lr", "grad_norm/")


@dataclass(frozen=True)
class GoldenRun:
    """What a run came to."""

    machine: dict[str, Any]  # where its bits are to be had again
    curves: dict[str, Tensor]  # TensorBoard's tag → its values, by step
    digests: dict[str, str]  # file of the output → sha256
    adapter: dict[str, Tensor]  # as it is published


class Difference(NamedTuple):
    """Where a quantity is farthest from what it was."""

    quantity: str
    old: str
    new: str
    relative: float  # to the largest that it was; infinity where it was not there, or is not there now

    def __str__(self) -> str:
        return f"{self.quantity}: {self.old} → {self.new} ({self.relative:.1e})"


def tolerance(name: str) -> float:
    """How far off a run may be on any CPU (1.2e-5 was seen). A rounding error may tip an 8-bit value over to
    the next one."""
    return 1e-3 if "8bit" in name else 3e-5


def train(name: str, inputs: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Train the run called `name` into `output`, with other `changes` of its settings; its settings."""
    *later, adapter, optimizer, mode = name.split("-")
    law = 2 if later else 1
    dropout = {"dropout": 0.5} if adapter == "lora" or law == 2 else {}
    settings: dict[str, Any] = {
        "mode": mode,
        "adapter": {"type": adapter, "target_modules": TARGETS, **ADAPTERS[adapter], **dropout},
        "optimizer_type": optimizer,
        "epochs": 2,
        "accumulation": 2,  # of five songs: an epoch's last step has one
        "weight_decay": 0.1,
        "log_heavy_every": 1,
        **OPTIMIZERS[optimizer],
        **MODES[mode],
        **changes,
    }
    spec = sidestep.JobSpec.load(
        None,
        task="train",
        checkpoint_dir=str(inputs / "checkpoints"),
        dataset_dir=str(inputs / "tensors"),
        output_dir=str(output),
        train=settings,
        runtime={"device": "cpu", "workspace": str(inputs / "workspace")},
    )
    with patch("sidestep.tasks.train.Progress", partial(Progress, law=law)):
        sidestep.run(spec)
    return settings


def read_output(name: str, output: Path) -> GoldenRun:
    """What the run called `name` has left in its output."""
    state = training_state(output)
    files = sorted([*(output / "adapter").glob("*.safetensors"), state])
    events = EventAccumulator(str(output / "runs")).Reload()
    return GoldenRun(
        machine=machine_kind(),
        curves={
            tag: _curve(event.value for event in events.Scalars(tag))
            for tag in sorted(events.Tags()["scalars"])
            if tag.startswith(CURVES)
        },
        digests={file.relative_to(output).as_posix(): sha256(file) for file in files},
        adapter=load_file(output / "adapter" / PUBLISHED[name.removeprefix("law2-").partition("-")[0]]),
    )


def training_state(output: Path) -> Path:
    """The tensors of the output's one checkpoint."""
    [state] = output.glob("checkpoints/*/training_state.safetensors")
    return state


def sha256(path: Path) -> str:
    """Of a file, but for what an adapter says of itself in its header: that is no number of the run."""
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    if header.get("__metadata__", {}).pop(HEADER, None):
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        data = len(text).to_bytes(8, "little") + text + data[size:]
    return hashlib.sha256(data).hexdigest()


def read_recorded(name: str) -> GoldenRun:
    content = json.loads((FOLDER / f"{name}.json").read_text())
    content["curves"] = {tag: _curve(values) for tag, values in content["curves"].items()}
    return GoldenRun(adapter=load_file(FOLDER / f"{name}.safetensors"), **content)


def write_recorded(name: str, run: GoldenRun) -> None:
    FOLDER.mkdir(exist_ok=True)
    curves = {tag: values.tolist() for tag, values in run.curves.items()}
    content = {"machine": run.machine, "curves": curves, "digests": run.digests}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    save_file(run.adapter, FOLDER / f"{name}.safetensors")


def moved(name: str, old: GoldenRun, new: GoldenRun) -> Iterator[Difference]:
    """What is not the same to the last bit in two recordings of the run called `name`: curves and adapter."""
    yield from _moved(old.curves, new.curves)
    # A step of 8-bit state is some percent of the largest value that shares its scale. So what it moves is
    # measured by the largest of the adapter, else by the largest of the tensor itself.
    largest = max(_largest(values) for values in old.adapter.values()) if "8bit" in name else None
    yield from _moved(old.adapter, new.adapter, largest)


def largest_difference(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> float:
    """How far off tensors are, by the largest value of each; infinity where one is missing."""
    return max((difference.relative for difference in _moved(old, new)), default=0.0)


def moved_files(old: GoldenRun, new: GoldenRun) -> list[str]:
    """The files whose digests are other ones than they were."""
    files = sorted(old.digests.keys() | new.digests.keys())
    return [file for file in files if old.digests.get(file) != new.digests.get(file)]


def _moved(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], largest: float | None = None
) -> Iterator[Difference]:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if before is None or now is None or before.shape != now.shape:
            yield Difference(name, _shape(before), _shape(now), math.inf)
        elif not torch.equal(before, now):
            distance = (now.double() - before.double()).abs().nan_to_num(math.inf)
            place = int(distance.argmax())
            index = [int(part) for part in torch.unravel_index(torch.tensor(place), before.shape)]
            there, here = (f"{float(tensor.flatten()[place]):.9g}" for tensor in (before, now))
            # Beside nothing but zeros, every difference is infinite.
            relative = float(distance.max()) / (largest or _largest(before) or math.ulp(0.0))
            yield Difference(f"{name}{index}", there, here, relative)


def _curve(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(list(tensor.shape))


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
