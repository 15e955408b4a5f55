"""A copy of a run's state in host memory, so that it can be saved while the training goes on.

The copy is a second adapter, a second optimizer and a second average, on the CPU, of which everything is
allocated before the first step: taking a snapshot is then a copy into memory that is there, which takes
milliseconds where fresh memory takes seconds. What saves the live ones saves the copy, too.
"""

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sidestep.adapters.adapter import Adapter
from sidestep.config.training import TrainSpec
from sidestep.data.card import Facts
from sidestep.data.index import FileRecord
from sidestep.data.sides import Sides
from sidestep.runtime.canonical import Parts
from sidestep.training.checkpoint import checkpoint_files
from sidestep.training.ema import Ema
from sidestep.training.numbers import Progress
from sidestep.training.optimizer import build_optimizer

log = logging.getLogger(__name__)


class Snapshot:
    """The state at the end of one step. `take` it between steps; `files` may be asked in another thread."""

    def __init__(
        self,
        adapter: Adapter,
        optimizer: torch.optim.Optimizer,
        train: TrainSpec,
        fingerprint: Mapping[str, Any],
        machine: Mapping[str, Any],
        dataset_files: Mapping[str, FileRecord] | None = None,
        sides: Sides | None = None,
        ema: Ema | None = None,
        card: Facts | None = None,
    ) -> None:
        """
        Args:
            train: what `optimizer` was made of; another one is made of it, over the copy.
            fingerprint: of the run, for the checkpoint's files.
            machine: the kind of machine that the run was begun on, for the same.
            dataset_files: the tensors that are trained on, likewise.
            sides: which songs are held out, likewise.
            ema: the average of `adapter`'s parameters, where one is kept.
            card: what the adapter says of itself, for the checkpoint's files.
        """
        self._live, self._live_optimizer = adapter, optimizer
        self._fingerprint, self._machine = dict(fingerprint), dict(machine)
        self._dataset_files, self._sides, self._card = dict(dataset_files or {}), sides, card
        self._pinned = next(iter(adapter.parameters().values())).is_cuda
        self._copy = _on_host(adapter, self._pinned)
        self._optimizer = build_optimizer(self._copy, train)
        self._live_ema = ema
        self._ema = replace(ema, adapter=self._copy, values=self._like(ema.values)) if ema else None
        self._buffers = self._rehearse()
        self._progress = Progress()

    @torch.no_grad()
    def take(self, progress: Progress) -> None:
        """Copy the state as it is now; a snapshot taken before is gone."""
        self._progress = replace(
            progress,
            losses=list(progress.losses),
            evaluations=dict(progress.evaluations),
            validations=dict(progress.validations),
        )
        shadows = self._copy.parameters()
        for name, parameter in self._live.parameters().items():
            shadows[name].copy_(parameter, non_blocking=True)
            state = self._live_optimizer.state.get(parameter, {})
            self._optimizer.state[shadows[name]] = {
                key: self._copied(f"{name}.{key}", value) for key, value in state.items()
            }
        for shadow, live in zip(self._optimizer.param_groups, self._live_optimizer.param_groups, strict=True):
            shadow.update({key: value for key, value in live.items() if key != "params"})
        if self._ema and self._live_ema:
            assert not self._live_ema.is_in_place, "a snapshot would take the average for what is trained"
            for name, value in self._live_ema.values.items():
                self._ema.values[name].copy_(value, non_blocking=True)
        if self._pinned:
            torch.cuda.synchronize()

    @torch.no_grad()
    def files(self) -> dict[str, Parts]:
        """The checkpoint's files. Their parts are this copy's memory: good until the next `take`."""
        return checkpoint_files(
            *(self._copy, self._optimizer, self._progress, self._fingerprint, self._machine),
            *(self._dataset_files, self._sides, self._ema, self._card),
        )

    def _copied(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.copy(value)
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
            log.debug("No memory was set aside for the optimizer's %s", name)
            buffer = self._buffers[name] = self._allocated(torch.empty_like(value, device="cpu"))
        return buffer.copy_(value, non_blocking=True)

    def _rehearse(self) -> dict[str, Tensor]:
        """The optimizer's state has its shapes only after a step: let the copy make one, with no gradient."""
        for parameter in self._copy.parameters().values():
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {
            f"{name}.{key}": self._allocated(value)
            for name, parameter in self._copy.parameters().items()
            for key, value in self._optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }

    def _like(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: self._allocated(torch.empty_like(value, device="cpu")) for name, value in values.items()
        }

    def _allocated(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._pinned else tensor


def _on_host(adapter: Adapter, pinned: bool) -> Adapter:
    """A copy of the adapter's own modules on the CPU; the frozen layers that they adapt are not copied."""
    own = {id(parameter) for parameter in adapter.parameters().values()}
    shared = {id(m): m for m in adapter.transformer.modules() if own.isdisjoint(map(id, m.parameters()))}
    layers: dict[str, nn.Module] = copy.deepcopy(dict(adapter.layers), memo=dict(shared))
    host = replace(adapter, layers=layers)
    for parameter in host.parameters().values():
        values = torch.empty_like(parameter, device="cpu").copy_(parameter.detach())
        parameter.data = values.pin_memory() if pinned else values
    for module in (module for layer in layers.values() for module in layer.modules()):
        if id(module) not in shared:  # LyCORIS keeps alpha and its scalar in buffers
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(name, buffer.cpu())
    return host
