"""The optimizer of a run, over the adapter's parameters in their sorted order."""

from collections.abc import Callable
from typing import Any

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from sidestep.adapters import Adapter
from sidestep.config.targets import rate_factors
from sidestep.config.training import TrainSpec
from sidestep.runtime.errors import MachineError
from sidestep.runtime.words import first_line

Group = dict[str, Any]
"""Of parameters, as torch's optimizers take them."""


def build_optimizer(adapter: Adapter, train: TrainSpec, *, fused: bool = False) -> Optimizer:
    """The optimizer of `train`; the schedule sets its rate before each step, times each group's `factor`.

    `fused` AdamW makes its step in one kernel, with other last bits; the others have no such kernel.
    """
    assert train.lr is not None, "resolved by the schema"
    if fused and train.optimizer_type == "adamw":
        return AdamW(_groups(adapter, train), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    return BUILD[train.optimizer_type](_groups(adapter, train), train.lr, train.weight_decay)


def _groups(adapter: Adapter, train: TrainSpec) -> list[Group]:
    """All parameters in one group; with `lr_groups`, one for each `factor` on the learning rate, rising."""
    parameters = adapter.parameters()
    if not train.lr_groups:
        return [{"params": list(parameters.values())}]
    factors = rate_factors(list(adapter.layers), train.lr_groups)
    by_factor: dict[float, list[Parameter]] = {factor: [] for factor in sorted(set(factors.values()))}
    for name, parameter in parameters.items():
        path = next(path for path in factors if name.startswith(f"{path}."))
        by_factor[factors[path]].append(parameter)
    return [{"params": own, "factor": factor} for factor, own in by_factor.items()]


def check_optimizer(train: TrainSpec) -> None:
    """Raise MachineError where the optimizer's package is not installed: asked before a model is pulled."""
    if train.optimizer_type == "adamw8bit":
        _adamw8bit_class()


def _adamw(groups: list[Group], lr: float, weight_decay: float) -> Optimizer:
    return AdamW(groups, lr=lr, weight_decay=weight_decay)


def _adamw8bit(groups: list[Group], lr: float, weight_decay: float) -> Optimizer:
    """State in 8 bits for tensors of 4096 elements or more; smaller ones keep 32 (bitsandbytes' default)."""
    return _adamw8bit_class()(groups, lr=lr, weight_decay=weight_decay)


def _adamw8bit_class() -> Callable[..., Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]  # exported, and not said so
    except Exception as error:  # whatever its own libraries fail with
        raise MachineError(
            f"train.optimizer_type is adamw8bit, but bitsandbytes cannot be imported: {first_line(error)}\n"
            "  pip install bitsandbytes, or choose adamw or adafactor"
        ) from error
    return AdamW8bit


def _adafactor(groups: list[Group], lr: float, weight_decay: float) -> Optimizer:
    """transformers' own: torch's scales each step by the parameter's size, and lora_B starts at zero."""
    from transformers import Adafactor

    optimizer: Optimizer = Adafactor(
        groups,
        lr=lr,
        weight_decay=weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )
    return optimizer


def _prodigy(groups: list[Group], lr: float, weight_decay: float) -> Optimizer:
    """Without bias correction, which takes a hundred steps more to find the rate."""
    from prodigyopt import Prodigy

    # The decay goes in with the group: as an argument, it makes Prodigy print a line.
    decayed = [group | {"weight_decay": weight_decay} for group in groups]
    optimizer: Optimizer = Prodigy(decayed, lr=lr, safeguard_warmup=True)
    return optimizer


BUILD: dict[str, Callable[[list[Group], float, float], Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "prodigy": _prodigy,
}
"""By the spec's names: (groups of parameters, learning rate, weight decay) → the optimizer."""
