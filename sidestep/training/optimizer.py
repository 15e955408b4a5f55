"""The optimizer of a run, over the adapter's parameters in their sorted order."""

import torch

from sidestep.adapters import Adapter
from sidestep.spec.schema import TrainSpec


def build_optimizer(adapter: Adapter, train: TrainSpec) -> torch.optim.Optimizer:
    """AdamW. Its learning rate is set before each step, from the schedule."""
    return torch.optim.AdamW(adapter.parameters().values(), lr=train.lr, weight_decay=train.weight_decay)
