"""The optimizer of a run, over the adapter's parameters in their sorted order."""

from collections.abc import Callable

import torch

from sidestep.adapters import Adapter
from sidestep.config.training import TrainSpec
from sidestep.runtime.errors import MachineError


def build_optimizer(adapter: Adapter, train: TrainSpec) -> torch.optim.Optimizer:
    """The optimizer of `train`; the schedule sets its rate before each step."""
    parameters = list(adapter.parameters().values())
    rate, decay = train.lr, train.weight_decay
    assert rate is not None, "resolved by the schema"
    match train.optimizer_type:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case "adamw8bit":
            # State in 8 bits for tensors of 4096 elements or more; smaller ones keep 32 (its default).
            return _adamw8bit()(parameters, lr=rate, weight_decay=decay)
        case "adafactor":
            # torch.optim.Adafactor scales each step by the parameter's size: lora_B starts at zero and stays.
            from transformers import Adafactor

            return Adafactor(
                parameters,
                lr=rate,
                weight_decay=decay,
                scale_parameter=False,
                relative_step=False,
                warmup_init=False,
            )
        case "prodigy":
            from prodigyopt import Prodigy  # type: ignore[import-untyped]

            # Without bias correction, which takes a hundred steps more to find the rate. The decay goes in
            # with the group: as an argument, it makes Prodigy print a line.
            groups = [{"params": parameters, "weight_decay": decay}]
            return Prodigy(groups, lr=rate, safeguard_warmup=True)


def check_optimizer(train: TrainSpec) -> None:
    """Raise MachineError where the optimizer's package is not installed: asked before a model is pulled."""
    if train.optimizer_type == "adamw8bit":
        _adamw8bit()


def _adamw8bit() -> Callable[..., torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MachineError(
            f"train.optimizer_type is adamw8bit, and bitsandbytes cannot be imported: {error}\n"
            "  pip install bitsandbytes, or choose adamw or adafactor"
        ) from error
    return AdamW8bit
