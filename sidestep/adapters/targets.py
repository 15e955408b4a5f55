"""The modules of a model in memory that can get an adapter, by their original paths.

Module paths here and in every adapter file are the original checkpoint's
(`layers.3.self_attn.q_proj`); `sidestep.acestep.names` turns them into diffusers'.
"""

from collections.abc import Iterable

from torch import nn

from sidestep.acestep.names import original_name
from sidestep.config.adapter import ATTENTION_MODULES, MLP_MODULES
from sidestep.config.targets import chosen


def linear_modules(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer of diffusers' transformer by its original path, in the model's order."""
    return {
        original_name(name): module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }


def layers_of(transformer: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """Every layer of one of `kinds` by its original path, in the model's order."""
    return {
        original_name(name): module
        for name, module in transformer.named_modules()
        if isinstance(module, kinds)
    }


def target_paths(transformer: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """The original paths that `target_modules` name, in the model's order: see `sidestep.config.targets`.

    Raises BadSpecError for a name that names nothing.
    """
    adaptable = (*ATTENTION_MODULES, *MLP_MODULES)
    paths = [path for path in linear_modules(transformer) if path.split(".")[-1] in adaptable]
    return chosen(paths, target_modules)
