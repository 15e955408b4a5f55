"""The optimizer of a run, over the adapter's parameters in their sorted order."""

from collections.abc import Callable

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from sidestep.adapters import Adapter
from sidestep.config.training import TrainSpec
from sidestep.runtime.errors import MachineError


def build_optimizer(adapter: Adapter, train: TrainSpec) -> Optimizer:
    """The optimizer of `train`; the schedule sets its rate before each step."""
    assert train.lr is not None, "resolved by the schema"
    return BUILD[train.optimizer_type](list(adapter.parameters().values()), train.lr, train.weight_decay)


def check_optimizer(train: TrainSpec) -> None:
    """Raise MachineError where the optimizer's package is not installed: asked before a model is pulled."""
    if train.optimizer_type == "adamw8bit":
        _adamw8bit_class()


def _adamw(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    return AdamW(parameters, lr=lr, weight_decay=weight_decay)


def _adamw8bit(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    """State in 8 bits for tensors of 4096 elements or more; smaller ones keep 32 (bitsandbytes' default)."""
    return _adamw8bit_class()(parameters, lr=lr, weight_decay=weight_decay)


def _adamw8bit_class() -> Callable[..., Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]  # exported, and not said so
    except ImportError as error:
        raise MachineError(
            f"train.optimizer_type is adamw8bit, but bitsandbytes cannot be imported: {error}\n"
            "  pip install bitsandbytes, or choose adamw or adafactor"
        ) from error
    return AdamW8bit


def _adafactor(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    """transformers' own: torch's scales each step by the parameter's size, and lora_B starts at zero."""
    from transformers import Adafactor

    optimizer: Optimizer = Adafactor(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )
    return optimizer


def _prodigy(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Without bias correction, which takes a hundred steps more to find the rate."""
    from prodigyopt import Prodigy

    # The decay goes in with the group: as an argument, it makes Prodigy print a line.
    groups = [{"params": parameters, "weight_decay": weight_decay}]
    optimizer: Optimizer = Prodigy(groups, lr=lr, safeguard_warmup=True)
    return optimizer


BUILD: dict[str, Callable[[list[Parameter], float, float], Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "prodigy": _prodigy,
}
"""By the spec's names: (parameters, learning rate, weight decay) → the optimizer."""
