"""LoKR through LyCORIS, and its file formats.

The update of a weight [out, in] is scale · kron(w1, w2), where w2 = w2_a @ w2_b if the rank is small
enough (as w1, with decompose_both), and scale = alpha / rank, or 1 where both factors are full.

LyCORIS' modules are built here one by one. Its `create_lycoris` chooses modules by presets that are
global to the class and reach further than their names say, and drops options that it does not know.

Readers of `lokr_weights.safetensors`: the ACE-Step app rebuilds the network from the header's
lokr_config and takes the scale from there; ComfyUI and LyCORIS take it from each module's alpha tensor;
LyCORIS 4.1's own merging applies it twice. So the scale is multiplied into the first factor and alpha is
the rank everywhere. diffusers' `load_lora_weights` refuses any LoKR (it wants "lora" in every name), but
`pipe.transformer.load_lora_adapter` reads PEFT's LoKR: it gets a file of its own.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lycoris.functional import factorization
from lycoris.modules.lokr import LokrModule
from peft.tuners.lokr.layer import factorization as peft_factorization
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from sidestep.acestep.names import diffusers_name
from sidestep.adapters.adapter import Adapter, check_exact, draw, read_safetensors
from sidestep.adapters.targets import linear_modules, target_paths
from sidestep.config.targets import target_names
from sidestep.config.training import ATTENTION_MODULES, AdapterSpec
from sidestep.runtime.canonical import Parts, safetensors_parts
from sidestep.runtime.errors import BadDataError

log = logging.getLogger(__name__)

# LyCORIS prints to stdout; what a user needs of it is said here. Its compiled kernels are chosen by what a
# machine happens to have: torch's own operations keep a resumed run equal to an uninterrupted one.
logging.getLogger("LyCORIS").setLevel(logging.ERROR)
os.environ.setdefault("LYCORIS_KERNEL_BACKEND", "torch")

APP_FILE = "lokr_weights.safetensors"
DIFFUSERS_FILE = "diffusers_lokr_weights.safetensors"
_OPTIONS = {"factor", "decompose_both", "use_scalar", "weight_decompose"}  # as we and LyCORIS call them


class LokrConfig(BaseModel):
    """The app's lokr_config, with the app's defaults. What it does not list matters in training alone."""

    model_config = ConfigDict(frozen=True)
    linear_dim: int = 64
    linear_alpha: float = 128
    factor: int = -1
    decompose_both: bool = False
    use_tucker: bool = False  # for convolutions; nothing to a linear layer
    use_scalar: bool = False
    weight_decompose: bool = False
    target_modules: tuple[str, ...] = ATTENTION_MODULES
    full_matrix: bool = False
    bypass_mode: bool = False  # how the update is computed, not what it is
    rs_lora: bool = False
    unbalanced_factorization: bool = False


@dataclass(frozen=True)
class LokrAdapter(Adapter):
    """W + scale · kron(w1, w2), by LyCORIS modules that stand in for the linear layers' forward."""

    kind = "lokr"
    layers: Mapping[str, LokrModule]
    config: LokrConfig

    def parameters(self) -> dict[str, nn.Parameter]:
        named = {
            f"{path}.{name}": parameter
            for path, layer in self.layers.items()
            for name, parameter in layer.named_parameters()
        }
        return dict(sorted(named.items()))

    def files(self) -> dict[str, Parts]:
        folded = {path: _folded(layer) for path, layer in self.layers.items()}
        files = {APP_FILE: self._app_file(folded)}
        if self.fits_peft:
            files[DIFFUSERS_FILE] = self._diffusers_file(folded)
        return files

    @property
    def fits_peft(self) -> bool:
        """PEFT knows fewer options, and splits a dimension otherwise where the factor is above its root."""
        config = self.config
        return not (config.weight_decompose or config.full_matrix or config.unbalanced_factorization) and all(
            peft_factorization(size, config.factor) == factorization(size, config.factor)
            for layer in self.layers.values()
            for size in layer.shape
        )

    def _app_file(self, folded: dict[str, dict[str, Tensor]]) -> Parts:
        # Off is what the weights hold already, as `_folded` says.
        settled = {"linear_alpha": self.config.linear_dim, "use_scalar": False, "bypass_mode": False}
        config = self.config.model_dump() | settled
        config["target_modules"] = sorted(config["target_modules"])
        tensors = {
            f"{_flat(path)}.{name}": tensor
            for path, weights in folded.items()
            for name, tensor in weights.items()
        }
        header = {"algo": "lokr", "format": "lycoris", "lokr_config": json.dumps(config, sort_keys=True)}
        return safetensors_parts(tensors, header)

    def _diffusers_file(self, folded: dict[str, dict[str, Tensor]]) -> Parts:
        """PEFT's LoKR: no alpha tensors, and a config in the header."""
        names = {path: diffusers_name(path) for path in folded}
        config = {
            "transformer.r": self.config.linear_dim,
            "transformer.alpha": self.config.linear_dim,
            "transformer.decompose_both": self.config.decompose_both,
            "transformer.decompose_factor": self.config.factor,
            "transformer.target_modules": sorted(names.values()),
        }
        tensors = {
            f"transformer.{names[path]}.{name}": tensor
            for path, weights in folded.items()
            for name, tensor in weights.items()
            if name != "alpha"
        }
        header = {"format": "pt", "lora_adapter_metadata": json.dumps(config, sort_keys=True)}
        return safetensors_parts(tensors, header)


def inject(transformer: nn.Module, spec: AdapterSpec, seed: int) -> LokrAdapter:
    """A new LoKR: w2 zero (or its scalar), the other factors random. See `sidestep.adapters.inject`."""
    names = target_names(spec)
    config = LokrConfig(
        linear_dim=spec.rank,
        linear_alpha=spec.alpha,
        target_modules=names,
        **spec.model_dump(include={*_OPTIONS, "use_tucker"}),
    )
    layers = _build(transformer, target_paths(transformer, names), config)
    adapter = _attach(transformer, spec, config, layers)
    zero = () if config.use_scalar else (".lokr_w2", ".lokr_w2_b")
    factors = {name: p for name, p in adapter.parameters().items() if ".lokr_" in name}
    draw({name: p for name, p in factors.items() if not name.endswith(zero)}, seed)
    _log_ineffective(spec, layers)
    if not adapter.fits_peft:
        log.info("%s is not written: PEFT's LoKR, which diffusers reads, has none like this", DIFFUSERS_FILE)
    return adapter


def _log_ineffective(spec: AdapterSpec, layers: Mapping[str, LokrModule]) -> None:
    """Log which options have no effect, or another one than their names say."""
    full = sum(_is_full(layer) for layer in layers.values())
    if full and spec.alpha != spec.rank:
        log.info(
            "alpha has no effect on %d of %d LoKR modules: at rank %d both their factors are full "
            "matrices, and the update is not scaled. A smaller rank or another factor makes w2 low-rank.",
            *(full, len(layers), spec.rank),
        )
    if spec.use_tucker:
        log.info(
            "use_tucker has no effect: Tucker decomposition is for convolutions, and all modules are linear"
        )
    split = sum(not layer.use_w1 for layer in layers.values())
    if spec.decompose_both and split < len(layers):
        log.info(
            "decompose_both has no effect on %d of %d LoKR modules: rank %d is not below half their first "
            "factor's size",
            *(len(layers) - split, len(layers), spec.rank),
        )
    if spec.weight_decompose:
        log.info(
            "weight_decompose: ComfyUI divides by the lengths of the base's rows, the ACE-Step app and "
            "LyCORIS by those of the adapted ones: in ComfyUI it would not be the adapter that is "
            "trained, and none is exported for it"
        )


def load(transformer: nn.Module, folder: Path) -> LokrAdapter:
    """The app's LoKR file; its header's lokr_config is required, as its readers go wrong without it."""
    path = folder / APP_FILE
    tensors, header = read_safetensors(path)
    config = _read_config(header, path)
    prefixes = {key.split(".")[0] for key in tensors}
    paths = [path for path in linear_modules(transformer) if _flat(path) in prefixes]
    layers = _build(transformer, paths, config)
    expected = {
        f"{_flat(module)}.{name}": tuple(tensor.shape)
        for module, layer in layers.items()
        for name, tensor in layer.state_dict().items()
    }
    check_exact(expected, tensors, path)
    with torch.no_grad():
        for module, layer in layers.items():
            _fill(layer, {name: tensors[f"{_flat(module)}.{name}"] for name in layer.state_dict()}, path)
    spec = AdapterSpec.model_construct(  # as the file says; the spec's ranges are for new adapters
        type="lokr",
        rank=config.linear_dim,
        alpha=config.linear_alpha,
        dropout=0.0,
        target_modules=config.target_modules,
        factor=config.factor,
    )
    return _attach(transformer, spec, config, layers)


class _Lokr(LokrModule):  # type: ignore[misc]  # LyCORIS has no types
    """LyCORIS' module, with W + update added up in float32 where weight decomposition needs the sum.

    It would be added up in the base's dtype, where bfloat16 swallows the small update of early training.
    """

    def _current_weight(self) -> Tensor:
        weight: Tensor = super()._current_weight()
        return weight.float()


def _read_config(header: dict[str, str], path: Path) -> LokrConfig:
    if header.get("algo", "lokr") != "lokr" or "lokr_config" not in header:
        raise BadDataError(f"{path} has no lokr_config in its header: its scale and shapes cannot be known")
    try:
        config = LokrConfig.model_validate_json(header["lokr_config"])
    except ValidationError as error:
        raise BadDataError(f"{path}: its lokr_config is damaged: {error}") from error
    if config.rs_lora:
        raise BadDataError(f"{path} asks for rs_lora, which readers of LoKR take differently: not supported")
    return config


def _build(transformer: nn.Module, paths: list[str], config: LokrConfig) -> dict[str, LokrModule]:
    """A LyCORIS module for each path, on its linear's device, in float32; not yet in effect."""
    linears = linear_modules(transformer)
    layers = {}
    for path in paths:
        layer = _Lokr(
            _flat(path),
            linears[path],
            lora_dim=config.linear_dim,
            alpha=config.linear_alpha,
            **config.model_dump(include={*_OPTIONS, "full_matrix", "unbalanced_factorization"}),
            # The factors are applied to the activations; the other way builds a whole [out, in] matrix.
            # Weight decomposition needs that matrix' norms, and LyCORIS leaves it out in this mode.
            bypass_mode=not config.weight_decompose,
        )
        layers[path] = layer.to(linears[path].weight.device, torch.float32)
    return layers


def _attach(
    transformer: nn.Module, spec: AdapterSpec, config: LokrConfig, layers: dict[str, LokrModule]
) -> LokrAdapter:
    for layer in layers.values():
        layer.apply_to()
    # A part of the transformer, so that it follows .to() and .train().
    transformer.lokr = nn.ModuleDict({_flat(path): layer for path, layer in layers.items()})
    adapter = LokrAdapter(spec, transformer, layers, config)
    adapter.make_trainable()
    return adapter


def _fill(layer: LokrModule, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy a file's tensors for one module; `scalar` is folded into them already."""
    alpha = tensors["alpha"].item()
    if alpha != layer.alpha.item() and not _is_full(layer):
        raise BadDataError(
            f"{path}: alpha is {alpha:g} in {layer.lora_name} and {layer.alpha.item():g} in lokr_config: "
            "its readers would scale it differently"
        )
    for name, parameter in layer.named_parameters():
        if name == "scalar":
            parameter.fill_(1)
        else:
            parameter.copy_(tensors[name])


def _folded(layer: LokrModule) -> dict[str, Tensor]:
    """The module's tensors for a file: its scale and its scalar in the first factor, alpha = rank."""
    weights: dict[str, Tensor] = layer.state_dict()
    first = "lokr_w1" if "lokr_w1" in weights else "lokr_w1_a"
    return weights | {first: weights[first] * layer.scale, "alpha": torch.tensor(float(layer.lora_dim))}


def _is_full(layer: LokrModule) -> bool:
    return bool(layer.use_w1 and layer.use_w2)


def _flat(path: str) -> str:
    """A module's name in the file: layers.0.self_attn.q_proj → lycoris_layers_0_self_attn_q_proj."""
    return "lycoris_" + path.replace(".", "_")
