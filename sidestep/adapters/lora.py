"""LoRA through PEFT, and its file formats.

One published folder is right in three readers:

- The ACE-Step app gives it to PEFT with the original decoder: adapter_config.json says what goes where.
- ComfyUI (comfy/lora.py, ACEStep15) takes `base_model.model.<original path>`, reads no config, and
  scales by 1 where there is no `.alpha` tensor.
- diffusers' `load_lora_weights` reads no config either and takes alpha = rank for each module. It
  renames the app's keys, but only in a file where some key contains q_proj or k_proj: any other loads
  as nothing, with a warning. Such an adapter is published with one more pair of tensors, all zeros.

So alpha / rank is multiplied into lora_B, and the config says alpha = rank for every module.

Of a DoRA the app and diffusers read `lora_magnitude_vector`, and ComfyUI reads `dora_scale`, which is another
number: a file has both. diffusers takes no notice of the latter but a warning. See `adapters.dora`.

PEFT's `bias` is always none: the layers that get an adapter have no biases, and of those of other layers
the app alone would take notice.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from sidestep.acestep.names import diffusers_name
from sidestep.acestep.quantized import weight_of
from sidestep.adapters import dora
from sidestep.adapters.adapter import Adapter, draw
from sidestep.adapters.targets import linear_modules, target_paths
from sidestep.adapters.updates import LowRank, Resized, resized
from sidestep.config.adapter import AdapterSpec
from sidestep.config.adapter_files import APP_LORA, APP_LORA_CONFIG, DIFFUSERS_LORA
from sidestep.config.targets import by_pattern, is_end_of, target_names
from sidestep.runtime.canonical import Parts, json_bytes, safetensors_parts
from sidestep.runtime.lean import without_bitsandbytes

APP_FILE, CONFIG_FILE, DIFFUSERS_FILE = APP_LORA, APP_LORA_CONFIG, DIFFUSERS_LORA

APP_PREFIX = "base_model.model."
_NAME = "default"  # PEFT's name for the adapter


class Size(NamedTuple):
    """One module's update is alpha / rank · B·A."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class LoraAdapter(Adapter):
    """W + alpha / rank · B·A, with lora_A [rank, in] and lora_B [out, rank]; or a DoRA: see `dora`."""

    kind = "lora"
    layers: Mapping[str, LoraLinear]
    lengths: Mapping[str, Tensor] | None = None
    """ComfyUI's of a DoRA that was read from a file, as far as that has them. None: a new adapter, of which
    they follow from the base, as there is one with weights."""

    def parameters(self) -> dict[str, nn.Parameter]:
        own: dict[str, nn.Parameter] = {}
        for path, layer in sorted(self.layers.items()):
            own |= {f"{path}.{side}.weight": matrix for side, matrix in matrices(layer).items()}
            if self.is_decomposed:
                own[f"{path}.{dora.KEY}"] = _dora(layer).weight
        return own

    @property
    def is_decomposed(self) -> bool:
        return self.spec.weight_decompose

    def scale(self, path: str) -> float:
        """alpha / rank of the layer at `path`."""
        return float(self.layers[path].scaling[_NAME])

    def low_rank(self, path: str) -> LowRank:
        """The update of the layer at `path` as it is trained, its scale in the first factor."""
        layer = self.layers[path]
        own = matrices(layer)
        return LowRank(own["lora_B"].detach() * self.scale(path), own["lora_A"].detach())

    def update(self, path: str) -> Tensor:
        return self.low_rank(path).dense()

    def adapted(self, path: str, weight: Tensor) -> Tensor:
        if not self.is_decomposed:
            return weight + self.update(path)
        layer = self.layers[path]
        summed = weight.float() + self.update(path).to(weight.device)
        gain: Tensor = lengths(layer).detach().to(weight.device) / torch.linalg.vector_norm(summed, dim=1)
        return gain[:, None] * summed

    def resized(self, path: str, rank: int) -> Resized:
        return resized(self.low_rank(path), rank)

    def ranks(self) -> dict[str, int]:
        return {path: layer.r[_NAME] for path, layer in self.layers.items()}

    def set_dropout(self, modules: Mapping[str, nn.Module]) -> None:
        """PEFT's is on the input: W·x + alpha / rank · B·A·dropout(x)."""
        for path, module in modules.items():
            self.layers[path].lora_dropout[_NAME] = module

    def set_strength(self, strength: float) -> None:
        for layer in self.layers.values():
            if self.is_decomposed:
                _dora(layer).strength = strength
            else:
                layer.set_scale(_NAME, strength)

    def remove(self) -> None:
        for path, layer in self.layers.items():
            above, _, name = diffusers_name(path).rpartition(".")
            setattr(self.transformer.get_submodule(above), name, layer.base_layer)
        del self.transformer.peft_config

    def files(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Parts]:
        raw: Mapping[str, Tensor] = self.parameters() if values is None else values
        tensors: dict[str, Tensor] = {}
        for path, layer in self.layers.items():
            tensors[f"{APP_PREFIX}{path}.lora_A.weight"] = raw[f"{path}.lora_A.weight"]
            tensors[f"{APP_PREFIX}{path}.lora_B.weight"] = raw[f"{path}.lora_B.weight"] * layer.scaling[_NAME]
            if self.is_decomposed:
                tensors |= self._lengths_in_files(path, raw)
        targets = set(target_names(self.spec))
        are_known = not self.is_decomposed or self.lengths is None  # the lengths of any of the base's rows
        if are_known and not any("q_proj" in path or "k_proj" in path for path in self.layers):
            marker = next(path for path in linear_modules(self.transformer) if is_end_of("q_proj", path))
            targets.add(marker)
            tensors |= self._zero_pair(marker)
        others = {path: rank for path, rank in self.ranks().items() if rank != self.spec.rank}
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": "",
            "inference_mode": True,
            "r": self.spec.rank,
            "lora_alpha": self.spec.rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "lora_dropout": self.spec.dropout,
            "target_modules": sorted(targets),
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "use_dora": self.is_decomposed,
            "use_rslora": False,
        }
        return {APP_FILE: safetensors_parts(tensors, {"format": "pt"}), CONFIG_FILE: (json_bytes(config),)}

    def _zero_pair(self, path: str) -> dict[str, Tensor]:
        """Adds nothing to the module at `path`; its name is what makes diffusers read the file."""
        linear = linear_modules(self.transformer)[path]
        pair = {
            f"{APP_PREFIX}{path}.lora_A.weight": torch.zeros(self.spec.rank, linear.in_features),
            f"{APP_PREFIX}{path}.lora_B.weight": torch.zeros(linear.out_features, self.spec.rank),
        }
        if self.is_decomposed:
            lengths = dora.Dora(linear).weight.detach().cpu()
            pair[f"{APP_PREFIX}{path}.{dora.KEY}"] = lengths
            pair[f"{APP_PREFIX}{path}.{dora.COMFYUI_KEY}"] = lengths[:, None]
        return pair

    def _lengths_in_files(self, path: str, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the layer at `path`, for PEFT, and for ComfyUI where they are known."""
        own = raw[f"{path}.{dora.KEY}"]
        found = {f"{APP_PREFIX}{path}.{dora.KEY}": own}
        if self.lengths is None:
            parts = (raw[f"{path}.lora_B.weight"], raw[f"{path}.lora_A.weight"], self.scale(path))
            weight = weight_of(cast(nn.Linear, self.layers[path].get_base_layer()))
            found[f"{APP_PREFIX}{path}.{dora.COMFYUI_KEY}"] = dora.comfyui_lengths(own, weight, *parts)
        elif path in self.lengths:
            found[f"{APP_PREFIX}{path}.{dora.COMFYUI_KEY}"] = self.lengths[path]
        return found


def matrices(layer: LoraLinear) -> dict[str, nn.Parameter]:
    """lora_A [rank, in] and lora_B [out, rank] of a layer, by these names."""
    return {side: getattr(layer, side)[_NAME].weight for side in ("lora_A", "lora_B")}


def lengths(layer: LoraLinear) -> nn.Parameter:
    """The lengths [out] of a DoRA's layer."""
    return _dora(layer).weight


def _dora(layer: LoraLinear) -> dora.Dora:
    return cast(dora.Dora, layer.lora_variant[_NAME])


def inject(transformer: nn.Module, spec: AdapterSpec, seed: int) -> LoraAdapter:
    """A new LoRA: A random, B zero. See `sidestep.adapters.inject`."""
    paths = target_paths(transformer, target_names(spec))
    adapter = _attach(transformer, spec, _sizes(paths, spec))
    draw({name: p for name, p in adapter.parameters().items() if ".lora_A." in name}, seed)
    return adapter


def _sizes(paths: list[str], spec: AdapterSpec) -> dict[str, Size]:
    """Each module's size by the spec and its patterns."""
    ranks = by_pattern(paths, spec.rank, spec.rank_pattern, "rank_pattern")
    alphas = by_pattern(paths, spec.alpha, spec.alpha_pattern, "alpha_pattern")
    return {path: Size(ranks[path], alphas[path]) for path in paths}


def _attach(transformer: nn.Module, spec: AdapterSpec, sizes: Mapping[str, Size]) -> LoraAdapter:
    """Put PEFT's LoRA layers at the paths of `sizes`, in float32, with lora_B at zero."""
    modules = {diffusers_name(path): size for path, size in sizes.items()}
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(modules),
        rank_pattern={name: size.rank for name, size in modules.items() if size.rank != spec.rank},
        alpha_pattern={name: size.alpha for name, size in modules.items() if size.alpha != spec.alpha},
    )
    with without_bitsandbytes():
        inject_adapter_in_model(config, transformer, _NAME)
    layers = {path: cast(LoraLinear, transformer.get_submodule(diffusers_name(path))) for path in sizes}
    for layer in layers.values():
        # PEFT takes the base's dtype; in bfloat16 an optimizer's small steps would be rounded away.
        layer.lora_A.float()
        layer.lora_B.float()
        if spec.weight_decompose:
            # Not PEFT's own, whose lengths are in the base's dtype: see `adapters.dora` for its other ways.
            layer.lora_magnitude_vector[_NAME] = layer.lora_variant[_NAME] = dora.Dora(
                cast(nn.Linear, layer.get_base_layer())
            )
    adapter = LoraAdapter(spec, transformer, layers)
    adapter.make_trainable()
    return adapter


def of_updates(transformer: nn.Module, updates: Mapping[str, LowRank], dropout: float = 0) -> LoraAdapter:
    """A LoRA with the given update at each path, of alpha = rank."""
    sizes = {path: Size(update.rank, update.rank) for path, update in updates.items()}
    adapter = of_sizes(transformer, sizes, dropout)
    with torch.no_grad():
        for path, update in updates.items():
            own = matrices(adapter.layers[path])
            own["lora_A"].copy_(update.down)
            own["lora_B"].copy_(update.up)
    return adapter


def of_sizes(
    transformer: nn.Module, sizes: Mapping[str, Size], dropout: float, *, is_decomposed: bool = False
) -> LoraAdapter:
    """A LoRA for what a file holds; the spec's ranges are for new adapters."""
    common = Counter(sizes.values()).most_common(1)[0][0]
    spec = AdapterSpec.model_construct(
        type="lora",
        rank=common.rank,
        alpha=common.alpha,
        dropout=dropout,
        weight_decompose=is_decomposed,
        target_modules=tuple(sorted(sizes)),
        rank_pattern={path: size.rank for path, size in sizes.items() if size.rank != common.rank},
        alpha_pattern={path: size.alpha for path, size in sizes.items() if size.alpha != common.alpha},
    )
    return _attach(transformer, spec, sizes)
