"""Common to LoRA and LoKR: the interface, initial values, and reading files exactly."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sidestep.adapters.updates import Resized
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.canonical import Parts
from sidestep.runtime.errors import BadDataError, UsageError
from sidestep.runtime.tensorfiles import read_metadata, read_tensors
from sidestep.runtime.words import out_of

Rank = Annotated[int, Field(ge=1, le=2**20, strict=True)]  # of an adapter's file

SHOWN = 5  # names of each kind that an error message lists


@dataclass(frozen=True)
class Adapter(ABC):
    """An adapter on a frozen transformer. Its own tensors are float32, whatever the base's dtype."""

    kind: ClassVar[Literal["lora", "lokr"]]
    spec: AdapterSpec
    transformer: nn.Module
    layers: Mapping[str, nn.Module]
    """The modules with the adapter's tensors, by the original path of the linear layer each adapts."""

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The raw trainables, sorted by name (`layers.0.self_attn.q_proj.lora_A.weight`, `….lokr_w1`).

        They are the adapter's whole state: with the same spec and these values it is the same adapter,
        bit for bit. Published files need not give them back, as they fold scales into the weights.
        """

    @abstractmethod
    def files(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Parts]:
        """The published files: name → canonical content, in parts.

        `values`, by the parameters' names, stand in for the parameters themselves, which stay as they are.
        """

    @abstractmethod
    def update(self, path: str) -> Tensor:
        """What is added to the weight of the layer at `path`, in its shape, float32.

        Where `is_decomposed`, the lengths of the sum's rows are changed then: see `adapted`.
        """

    @abstractmethod
    def resized(self, path: str, rank: int) -> Resized:
        """The nearest LoRA of `rank` to the update of the linear layer at `path`."""

    @abstractmethod
    def ranks(self) -> dict[str, int]:
        """The rank of each layer, by its path: for a LoKR that of its second factor, where that has one."""

    @property
    @abstractmethod
    def is_decomposed(self) -> bool:
        """Whether its effect is no sum of the weight and an update, but `adapted`."""

    @abstractmethod
    def adapted(self, path: str, weight: Tensor) -> Tensor:
        """The weight that the layer at `path` has in the place of `weight`, in float32."""

    @abstractmethod
    def set_dropout(self, modules: Mapping[str, nn.Module]) -> None:
        """Put `modules` in the place of the dropouts of the layers of their names."""

    @abstractmethod
    def set_strength(self, strength: float) -> None:
        """Let the model compute with `strength` times the update, to hear it: 1 is the adapter as it is.

        What is published meanwhile would be scaled, too.
        """

    @abstractmethod
    def remove(self) -> None:
        """Take the adapter out of the transformer, which is as bare as before, and may carry another one."""

    def make_trainable(self) -> None:
        """Freeze the base, train the adapter, and bring the new modules into the base's mode."""
        self.transformer.requires_grad_(False)
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)
        self.transformer.train(self.transformer.training)


def publish(adapter: Adapter) -> dict[str, bytes]:
    """The adapter's files for the ACE-Step app, ComfyUI and diffusers: {file name: canonical bytes}."""
    return {name: b"".join(parts) for name, parts in adapter.files().items()}


def check_bare(transformer: nn.Module) -> None:
    """Raise UsageError where an adapter is in place: two would train and publish each other's effect."""
    if hasattr(transformer, "peft_config") or hasattr(transformer, "lokr"):
        raise UsageError("this model already carries an adapter: load the model again for another one")


@torch.no_grad()
def draw(parameters: Mapping[str, nn.Parameter], seed: int) -> None:
    """Draw initial values as PEFT and LyCORIS do: Kaiming-uniform with a = √5, i.e. U(±1/√fan_in).

    Each has a generator of its own, keyed by the seed and its name, so neither the global random state,
    nor the device, nor the choice of the other modules plays a part.
    """
    for name, parameter in parameters.items():
        key = hashlib.sha256(f"{seed}/init/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little"))
        values = torch.empty(parameter.shape)
        nn.init.kaiming_uniform_(values, a=5**0.5, generator=generator)
        parameter.copy_(values)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors and its header's metadata. Raises BadDataError where it is not safetensors."""
    return dict(read_tensors(path)), read_metadata(path)


def read_finite(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`read_safetensors`, for an adapter. Raises BadDataError where a value is no finite number, too."""
    tensors, metadata = read_safetensors(path)
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if bad := {name for name, tensor in floats.items() if not tensor.float().isfinite().all()}:
        raise BadDataError(
            f"{path}: {out_of(len(bad), len(tensors), 'tensors')} with NaN or infinite values: {_some(bad)}\n"
            "  the training that made them diverged, or the file is damaged: take an earlier checkpoint"
        )
    return tensors, metadata


def check_exact(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise one BadDataError unless `tensors` are exactly those expected, by name, shape and kind."""
    if not tensors:
        raise BadDataError(f"{path} holds no tensors")
    shared = expected.keys() & tensors.keys()
    problems = {
        "missing": expected.keys() - shared,
        "left over": tensors.keys() - shared,
        "of the wrong shape": {
            f"{name} {list(tensors[name].shape)}, not {list(expected[name])}"
            for name in shared
            if tensors[name].shape != expected[name]
        },
        "not floating-point": {name for name in shared if not tensors[name].is_floating_point()},
    }
    lines = [f"  {len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]
    if lines:
        raise BadDataError(
            "\n".join([f"{path} does not fit this model, or is damaged:", *lines])
            + "\nLoad it with the model variant that it was trained on."
        )


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")
