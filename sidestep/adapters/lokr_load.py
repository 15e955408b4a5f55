"""Reading LoKR files: the app's, LyCORIS' own, and those of other trainers.

Theirs have modules on the decoder's convolution proj_in, too, and on layers that were not trained: a module
whose update is exactly zero is left out.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from lycoris.modules.lokr import LokrModule
from torch import Tensor, nn

from sidestep.adapters.adapter import check_exact, read_finite
from sidestep.adapters.lokr import LokrAdapter, LokrConfig, attach, build, flat, is_full
from sidestep.adapters.targets import layers_of
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.words import out_of

log = logging.getLogger(__name__)


def load(transformer: nn.Module, path: Path) -> LokrAdapter:
    """The app's LoKR file; its header's lokr_config is required, as its readers go wrong without it."""
    tensors, header = read_finite(path)
    config = _read_config(header, path)
    _drop_zero_transposed(transformer, tensors, path)
    prefixes = {key.split(".")[0] for key in tensors}
    paths = [path for path in layers_of(transformer, nn.Linear, nn.Conv1d) if flat(path) in prefixes]
    layers = build(transformer, paths, config)
    expected = {
        f"{flat(module)}.{name}": tuple(tensor.shape)
        for module, layer in layers.items()
        for name, tensor in layer.state_dict().items()
    }
    check_exact(expected, tensors, path)
    layers = _effective(layers, tensors, path)
    with torch.no_grad():
        for module, layer in layers.items():
            _fill(layer, {name: tensors[f"{flat(module)}.{name}"] for name in layer.state_dict()}, path)
    spec = AdapterSpec.model_construct(  # as the file says; the spec's ranges are for new adapters
        type="lokr",
        rank=config.linear_dim,
        alpha=config.linear_alpha,
        dropout=0.0,
        target_modules=config.target_modules,
        factor=config.factor,
    )
    return attach(transformer, spec, config, layers)


def _read_config(header: dict[str, str], path: Path) -> LokrConfig:
    if header.get("algo", "lokr") != "lokr" or "lokr_config" not in header:
        raise BadDataError(f"{path} has no lokr_config in its header: its scale and shapes cannot be known")
    config = parse_as(LokrConfig, header["lokr_config"].encode(), f"{path}: its lokr_config")
    if config.rs_lora:
        raise BadDataError(f"{path} asks for rs_lora, which readers of LoKR take differently: not supported")
    return config


def _drop_zero_transposed(transformer: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Take the modules of transposed convolutions (proj_out) out of `tensors`: LoKR cannot adapt these."""
    for module in layers_of(transformer, nn.ConvTranspose1d):
        prefix = f"{flat(module)}."
        weights = {key: tensors.pop(key) for key in sorted(tensors) if key.startswith(prefix)}
        if weights and not _is_zero({key.removeprefix(prefix): weights[key] for key in weights}, None):
            raise BadDataError(
                f"{path} has an update of {module}, a transposed convolution, which LoKR cannot adapt: "
                f"{next(iter(weights))}\n  leave that module out when the adapter is trained"
            )


def _effective(
    layers: dict[str, LokrModule], tensors: Mapping[str, Tensor], path: Path
) -> dict[str, LokrModule]:
    """The layers whose update is not exactly zero; all of them where none has an effect."""
    kept = {
        module: layer
        for module, layer in layers.items()
        if not _is_zero({name: tensors[f"{flat(module)}.{name}"] for name in layer.state_dict()}, layer)
    }
    if kept and (zero := len(layers) - len(kept)):
        log.info(
            "%s: left out are %s, as their update is exactly zero", path, out_of(zero, len(layers), "modules")
        )
    return kept or layers


def _is_zero(weights: Mapping[str, Tensor], layer: LokrModule | None) -> bool:
    """Whether a module's tensors, by name, are an update of exactly zero; `layer` is not filled yet.

    With weight decomposition the lengths of the base's rows must be those that the file says, too.
    """
    factors = [tensor for name, tensor in weights.items() if name.startswith("lokr_")]
    if all(factor.any() for factor in factors):
        return False
    if "dora_scale" not in weights:
        return True
    return layer is not None and torch.allclose(
        weights["dora_scale"].to(layer.dora_scale), layer.dora_scale, rtol=1e-5, atol=0
    )


def _fill(layer: LokrModule, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy a file's tensors for one module; `scalar` is folded into them already."""
    alpha = tensors["alpha"].item()
    if alpha != layer.alpha.item() and not is_full(layer):
        raise BadDataError(
            f"{path}: alpha is {alpha:g} in {layer.lora_name} and {layer.alpha.item():g} in lokr_config: "
            "its readers would scale it differently"
        )
    for name, parameter in layer.named_parameters():
        if name == "scalar":
            parameter.fill_(1)
        else:
            parameter.copy_(tensors[name])
