"""LoKR through LyCORIS, and its file formats.

The update of a weight [out, in] is scale · kron(w1, w2), where w2 = w2_a @ w2_b if the rank is small
enough (as w1, with decompose_both), and scale = alpha / rank, or 1 where both factors are full. New
adapters are on linear layers; a file that is loaded may adapt the decoder's convolution, too.

LyCORIS' modules are built here one by one. Its `create_lycoris` chooses modules by presets that are
global to the class and reach further than their names say, and drops options that it does not know.

Readers of `lokr_weights.safetensors`: the ACE-Step app rebuilds the network from the header's
lokr_config and takes the scale from there; ComfyUI and LyCORIS take it from each module's alpha tensor;
LyCORIS 4.1's own merging applies it twice. So the scale is multiplied into the first factor and alpha is
the rank everywhere. diffusers' `load_lora_weights` refuses any LoKR (it wants "lora" in every name), but
`pipe.transformer.load_lora_adapter` reads PEFT's LoKR: it gets a file of its own.
"""

import copy
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from lycoris.functional import factorization
from lycoris.functional.general import rebuild_tucker
from lycoris.modules.lokr import LokrModule
from peft.tuners.lokr.layer import factorization as peft_factorization
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sidestep.acestep.names import diffusers_name
from sidestep.adapters.adapter import Adapter, Rank, draw
from sidestep.adapters.targets import layers_of, target_paths
from sidestep.adapters.updates import Resized, resized_kronecker
from sidestep.config.adapter import ATTENTION_MODULES, AdapterSpec
from sidestep.config.adapter_files import APP_LOKR, DIFFUSERS_LOKR
from sidestep.config.targets import target_names
from sidestep.runtime.canonical import Parts, safetensors_parts
from sidestep.runtime.parsing import Number
from sidestep.runtime.words import out_of

log = logging.getLogger(__name__)

# LyCORIS prints to stdout; what a user needs of it is said here. Its compiled kernels are chosen by what a
# machine happens to have: torch's own operations keep a resumed run equal to an uninterrupted one.
logging.getLogger("LyCORIS").setLevel(logging.ERROR)
os.environ.setdefault("LYCORIS_KERNEL_BACKEND", "torch")

APP_FILE, DIFFUSERS_FILE = APP_LOKR, DIFFUSERS_LOKR
_OPTIONS = {"factor", "decompose_both", "use_scalar", "weight_decompose"}  # as we and LyCORIS call them


def _not_zero(factor: int) -> int:
    if factor == 0:
        raise ValueError("should be -1 or from 1 on")
    return factor


class LokrConfig(BaseModel):
    """The app's lokr_config, with the app's defaults. What it does not list matters in training alone."""

    model_config = ConfigDict(frozen=True)
    linear_dim: Rank = 64
    linear_alpha: Number = 128
    factor: Annotated[int, Field(ge=-1, le=2**20), AfterValidator(_not_zero)] = -1
    decompose_both: bool = False
    use_tucker: bool = False  # for convolutions wider than 1; nothing to a linear layer
    use_scalar: bool = False
    weight_decompose: bool = False
    target_modules: tuple[str, ...] = ATTENTION_MODULES
    full_matrix: bool = False
    bypass_mode: bool = False  # how the update is computed, not what it is
    rs_lora: bool = False
    unbalanced_factorization: bool = False


@dataclass(frozen=True)
class LokrAdapter(Adapter):
    """W + scale · kron(w1, w2), by LyCORIS modules that stand in for the layers' forward."""

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

    def update(self, path: str) -> Tensor:
        layer = self.layers[path]
        with torch.no_grad():
            made: Tensor = layer.get_weight(layer.shape) * layer.scalar
        return made

    @property
    def is_decomposed(self) -> bool:
        return self.config.weight_decompose

    def adapted(self, path: str, weight: Tensor) -> Tensor:
        layer, summed = self.layers[path], weight + self.update(path)
        with torch.no_grad():
            made: Tensor = layer.apply_weight_decompose(summed) if layer.wd else summed
        return made

    def resized(self, path: str, rank: int) -> Resized:
        """The nearest LoRA to the update of the linear layer at `path`."""
        weights = _folded(self.layers[path])
        first, second = (_whole(weights, name) for name in ("lokr_w1", "lokr_w2"))
        return resized_kronecker(first, second, rank)

    def ranks(self) -> dict[str, int]:
        return dict.fromkeys(self.layers, self.config.linear_dim)

    def set_dropout(self, modules: Mapping[str, nn.Module]) -> None:
        """LyCORIS' is on the update's output: W·x + dropout(ΔW·x)."""
        for path, module in modules.items():
            layer = self.layers[path]
            layer.drop = module
            if layer.wd:  # LyCORIS leaves dropout out where it builds the adapted weight
                layer.op = _dropped(layer.op, module)

    def set_strength(self, strength: float) -> None:
        for layer in self.layers.values():
            layer.strength = strength

    def remove(self) -> None:
        for layer in self.layers.values():
            layer.restore()
            del layer.org_module[0].forward  # which was put over the class's own
        del self.transformer.lokr

    def files(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Parts]:
        layers = {path: _with(values, path, layer) for path, layer in self.layers.items()}
        folded = {path: _folded(layer) for path, layer in layers.items()}
        files = {APP_FILE: self._app_file(folded)}
        if self.fits_peft:
            of_peft = folded.keys() - self.left_out_by_peft
            files[DIFFUSERS_FILE] = self._diffusers_file({path: folded[path] for path in sorted(of_peft)})
        return files

    def comfyui_file(self) -> Parts:
        """The app's file with a convolution's second factor as a matrix: all else ComfyUI computes wrong.

        With a w2 [c, d, width] its Kronecker product mixes up the axes; of Tucker's it applies nothing.
        """
        folded = {path: _folded(layer) for path, layer in self.layers.items()}
        for path, layer in self.layers.items():
            if len(layer.shape) > 2:
                folded[path] = _with_matrix(folded[path])
        return self._app_file(folded)

    @property
    def fits_peft(self) -> bool:
        """PEFT knows fewer options, and splits a dimension otherwise where the factor is above its root."""
        config = self.config
        return not (config.weight_decompose or config.full_matrix or config.unbalanced_factorization) and all(
            peft_factorization(size, config.factor) == factorization(size, config.factor)
            for layer in self.layers.values()
            for size in layer.shape[:2]
        )

    @property
    def left_out_by_peft(self) -> list[str]:
        """The modules that the file for diffusers lacks, as PEFT would compute another update.

        That is a convolution whose w2 is no product of two matrices. PEFT has another form of Tucker's core,
        and its Kronecker product mixes up the axes of a w2 [c, d, width].
        """
        return sorted(
            path
            for path, layer in self.layers.items()
            if len(layer.shape) > 2 and (layer.use_w2 or layer.tucker)
        )

    def _app_file(self, folded: dict[str, dict[str, Tensor]]) -> Parts:
        # Off is what the weights hold already, as `_folded` says.
        settled = {"linear_alpha": self.config.linear_dim, "use_scalar": False, "bypass_mode": False}
        config = self.config.model_dump() | settled
        config["target_modules"] = sorted(config["target_modules"])
        tensors = {
            f"{flat(path)}.{name}": tensor
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
    layers = build(transformer, target_paths(transformer, names), config)
    adapter = attach(transformer, spec, config, layers)
    zero = () if config.use_scalar else (".lokr_w2", ".lokr_w2_b")
    factors = {name: p for name, p in adapter.parameters().items() if ".lokr_" in name}
    draw({name: p for name, p in factors.items() if not name.endswith(zero)}, seed)
    _log_ineffective(spec, layers)
    if not adapter.fits_peft:
        log.info("%s is not written: PEFT's LoKR, which diffusers reads, has none like this", DIFFUSERS_FILE)
    return adapter


def _log_ineffective(spec: AdapterSpec, layers: Mapping[str, LokrModule]) -> None:
    """Log which options have no effect, or another one than their names say."""
    full = sum(is_full(layer) for layer in layers.values())
    if full and spec.alpha != spec.rank:
        log.info(
            "alpha has no effect on %s: at rank %d both their factors are full "
            "matrices, and the update is not scaled. A smaller rank or another factor makes w2 low-rank.",
            *(out_of(full, len(layers), "LoKR modules"), spec.rank),
        )
    if spec.use_tucker:
        log.info(
            "use_tucker has no effect: Tucker decomposition is for convolutions, and all modules are linear"
        )
    split = sum(not layer.use_w1 for layer in layers.values())
    if spec.decompose_both and split < len(layers):
        log.info(
            "decompose_both has no effect on %s: rank %d is not below half their first factor's size",
            *(out_of(len(layers) - split, len(layers), "LoKR modules"), spec.rank),
        )
    if spec.weight_decompose:
        log.info(
            "weight_decompose: ComfyUI divides by the lengths of the base's rows, the ACE-Step app and "
            "LyCORIS by those of the adapted ones: in ComfyUI it would not be the adapter that is "
            "trained, and none is exported for it"
        )


class _Lokr(LokrModule):  # type: ignore[misc]  # LyCORIS has no types
    """LyCORIS' module, with W + update added up in float32 where weight decomposition needs the sum.

    It would be added up in the base's dtype, where bfloat16 swallows the small update of early training.
    And with a strength: LyCORIS' own multiplier is none where weights are decomposed, as at 0 it leaves the
    update in and its lengths out.
    """

    strength = 1.0

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapted: Tensor = super().forward(x, *args, **kwargs)
        if self.strength == 1.0:
            return adapted
        base: Tensor = self.org_forward(x, *args, **kwargs)
        return base + self.strength * (adapted - base)

    def _current_weight(self) -> Tensor:
        weight: Tensor = super()._current_weight()
        return weight.float()


def build(transformer: nn.Module, paths: list[str], config: LokrConfig) -> dict[str, LokrModule]:
    """A LyCORIS module for each path, on its layer's device, in float32; not yet in effect."""
    bases = layers_of(transformer, nn.Linear, nn.Conv1d)
    layers = {}
    for path in paths:
        layer = _Lokr(
            flat(path),
            bases[path],
            lora_dim=config.linear_dim,
            alpha=config.linear_alpha,
            **config.model_dump(include={*_OPTIONS, "use_tucker", "full_matrix", "unbalanced_factorization"}),
            # The factors are applied to the activations; the other way builds a whole [out, in] matrix.
            # Weight decomposition needs that matrix' norms, and LyCORIS leaves it out in this mode.
            bypass_mode=not config.weight_decompose,
        )
        layers[path] = layer.to(bases[path].weight.device, torch.float32)
    return layers


def attach(
    transformer: nn.Module, spec: AdapterSpec, config: LokrConfig, layers: dict[str, LokrModule]
) -> LokrAdapter:
    for layer in layers.values():
        layer.apply_to()
    # A part of the transformer, so that it follows .to() and .train().
    transformer.lokr = nn.ModuleDict({flat(path): layer for path, layer in layers.items()})
    adapter = LokrAdapter(spec, transformer, layers, config)
    adapter.make_trainable()
    return adapter


def _with(values: Mapping[str, Tensor] | None, path: str, layer: LokrModule) -> LokrModule:
    """A module that is `layer` in all but its parameters, which are those of `values`, if any are given."""
    if values is None:
        return layer
    other = copy.copy(layer)
    other._parameters = {name: values[f"{path}.{name}"] for name, _ in layer.named_parameters()}
    return other


def _folded(layer: LokrModule) -> dict[str, Tensor]:
    """The module's tensors for a file: its scale and its scalar in the first factor, alpha = rank."""
    weights: dict[str, Tensor] = layer.state_dict()
    first = "lokr_w1" if "lokr_w1" in weights else "lokr_w1_a"
    return weights | {first: weights[first] * layer.scale, "alpha": torch.tensor(float(layer.lora_dim))}


def _whole(weights: Mapping[str, Tensor], factor: str) -> Tensor:
    """A Kronecker factor as one matrix, whether it is stored so or as a product of two."""
    return weights[factor] if factor in weights else weights[f"{factor}_a"] @ weights[f"{factor}_b"]


def _with_matrix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A convolution's tensors with its second factor as one matrix [c, d · width]."""
    if "lokr_t2" in weights:
        w2 = rebuild_tucker(weights["lokr_t2"], weights["lokr_w2_a"], weights["lokr_w2_b"])
    elif "lokr_w2" in weights:
        w2 = weights["lokr_w2"]
    else:
        return weights  # w2_a @ w2_b is one already
    others = {name: weights[name] for name in weights if not name.startswith(("lokr_w2", "lokr_t2"))}
    return others | {"lokr_w2": w2.flatten(1)}


def _dropped(operation: Callable[..., Tensor], dropout: nn.Module) -> Callable[..., Tensor]:
    return lambda *inputs, **options: dropout(operation(*inputs, **options))


def is_full(layer: LokrModule) -> bool:
    return bool(layer.use_w1 and layer.use_w2)


def flat(path: str) -> str:
    """A module's name in the file: layers.0.self_attn.q_proj → lycoris_layers_0_self_attn_q_proj."""
    return "lycoris_" + path.replace(".", "_")
