"""Which modules get an adapter, in the users' names.

Module paths here and in every adapter file are the original checkpoint's
(`layers.3.self_attn.q_proj`); `sidestep.acestep.names` turns them into diffusers'.
"""

from collections.abc import Iterable

from torch import nn

from sidestep.acestep.names import original_name
from sidestep.runtime.errors import BadSpecError
from sidestep.spec.training import ATTENTION_MODULES, MLP_MODULES, AdapterSpec

_TARGETS = (*ATTENTION_MODULES, *MLP_MODULES)


def linear_modules(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer of diffusers' transformer by its original path, in the model's order."""
    return {
        original_name(name): module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }


def target_names(spec: AdapterSpec) -> tuple[str, ...]:
    """`spec`'s target_modules, with q_proj and its like narrowed to the attention that `spec` asks for."""
    if spec.attention == "both":
        return spec.target_modules
    return tuple(
        f"{spec.attention}_attn.{name}" if name in ATTENTION_MODULES else name for name in spec.target_modules
    )


def target_paths(transformer: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """The original paths that `target_modules` name, in the model's order.

    A name is a module's (`q_proj`, in every layer) or the end of a path (`layers.3.self_attn.q_proj`),
    which is also how PEFT reads `target_modules`. Raises BadSpecError for a name that names nothing.
    """
    targets = tuple(target_modules)
    paths = [path for path in linear_modules(transformer) if path.split(".")[-1] in _TARGETS]
    if unknown := [name for name in targets if not any(is_end_of(name, path) for path in paths)]:
        raise BadSpecError(
            f"target_modules: {', '.join(unknown)} names no module of this model. Allowed are "
            f"{' '.join(_TARGETS)} (in every layer), or the end of a module's path, from "
            f"{paths[0]} to {paths[-1]}."
        )
    return [path for path in paths if any(is_end_of(name, path) for name in targets)]


def is_end_of(name: str, path: str) -> bool:
    """Whether `name` is `path` or its last whole components: o_proj ends self_attn.o_proj."""
    return f".{path}".endswith(f".{name}")
