"""LoRA through PEFT, and its file formats.

One published folder is right in three readers:

- The ACE-Step app gives it to PEFT with the original decoder: adapter_config.json says what goes where.
- ComfyUI (comfy/lora.py, ACEStep15) takes `base_model.model.<original path>`, reads no config, and
  scales by 1 where there is no `.alpha` tensor.
- diffusers' `load_lora_weights` reads no config either and takes alpha = rank for each module. It
  renames the app's keys, but only in a file where some key contains q_proj or k_proj: any other loads
  as nothing, with a warning. Such an adapter is published with one more pair of tensors, all zeros.

So alpha / rank is multiplied into lora_B, and the config says alpha = rank for every module.

PEFT's `bias` is always none: the layers that get an adapter have no biases, and of those of other layers
the app alone would take notice.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.other import get_pattern_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from sidestep.acestep.names import diffusers_name, original_name
from sidestep.adapters.adapter import Adapter, Rank, check_exact, draw, read_finite
from sidestep.adapters.targets import linear_modules, target_paths
from sidestep.config.targets import by_pattern, is_end_of, target_names
from sidestep.config.training import AdapterSpec
from sidestep.runtime.canonical import Parts, json_bytes, safetensors_parts
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.lean import without_bitsandbytes
from sidestep.runtime.parsing import Number, as_kind, parse_as, read_small

APP_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"

_APP_PREFIX = "base_model.model."
_DIFFUSERS_PREFIX = "transformer."
_PATTERNS_AT_MOST, _REPEATS_AT_MOST = 1000, 3
_NAME = "default"  # PEFT's name for the adapter
_KEY = re.compile(r"(?P<module>.+)\.lora_[AB]\.weight")


class _Size(NamedTuple):
    """One module's update is alpha / rank · B·A."""

    rank: int
    alpha: float


def _safe_patterns(patterns: dict[str, Any]) -> dict[str, Any]:
    """PEFT matches these against every module; a pattern may be written so that this takes for ever."""
    if len(patterns) > _PATTERNS_AT_MOST:
        raise ValueError(f"has {len(patterns)} patterns (at most {_PATTERNS_AT_MOST})")
    for pattern in patterns:
        if len(pattern) > 200 or re.search(r"\)[*+{]", pattern):
            raise ValueError(f"repeats a group, or is too long: {pattern[:40]!r}")
        if len(re.findall(r"[*+{]", pattern)) > _REPEATS_AT_MOST:
            raise ValueError(f"has more than {_REPEATS_AT_MOST} repeats: {pattern[:40]!r}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a pattern: {error}") from None
    return patterns


class _PeftConfig(BaseModel):
    """The options of an adapter_config.json that the update depends on, with PEFT's defaults.

    All others are in `model_extra`.
    """

    model_config = ConfigDict(extra="allow")
    peft_type: Literal["LORA"]
    r: Rank = 8
    lora_alpha: Number = 8
    rank_pattern: Annotated[dict[str, Rank], AfterValidator(_safe_patterns)] | None = None
    alpha_pattern: Annotated[dict[str, Number], AfterValidator(_safe_patterns)] | None = None
    use_rslora: bool = False
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0

    @model_validator(mode="before")
    @classmethod
    def _without_prefix(cls, options: Any) -> Any:
        """diffusers' header has the same options, each with the name of the pipeline's part before it."""
        if not isinstance(options, dict):
            return options
        return {name.removeprefix(_DIFFUSERS_PREFIX): value for name, value in options.items()}

    def size(self, module: str) -> _Size:
        """The size of a module by its path in the file. Patterns match as in PEFT."""
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        rank = ranks.get(get_pattern_key(list(ranks), module), self.r)
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.lora_alpha)
        return _Size(rank, alpha * math.sqrt(rank) if self.use_rslora else alpha)


# Options beside those of _PeftConfig that leave the function alone. Any other that is set changes what
# PEFT computes (DoRA, biases, a changed base), so a file with it is refused.
_HARMLESS = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "inference_mode"),
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version"),
}
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraAdapter(Adapter):
    """W + alpha / rank · B·A, with lora_A [rank, in] and lora_B [out, rank]."""

    kind = "lora"
    layers: Mapping[str, LoraLinear]

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{path}.{side}.weight": matrix
            for path, layer in sorted(self.layers.items())
            for side, matrix in _matrices(layer).items()
        }

    def set_dropout(self, modules: Mapping[str, nn.Module]) -> None:
        """PEFT's is on the input: W·x + alpha / rank · B·A·dropout(x)."""
        for path, module in modules.items():
            self.layers[path].lora_dropout[_NAME] = module

    def files(self) -> dict[str, Parts]:
        tensors: dict[str, Tensor] = {}
        for path, layer in self.layers.items():
            matrices = _matrices(layer)
            tensors[f"{_APP_PREFIX}{path}.lora_A.weight"] = matrices["lora_A"]
            tensors[f"{_APP_PREFIX}{path}.lora_B.weight"] = matrices["lora_B"] * layer.scaling[_NAME]
        targets = set(target_names(self.spec))
        if not any("q_proj" in path or "k_proj" in path for path in self.layers):
            marker = next(path for path in linear_modules(self.transformer) if is_end_of("q_proj", path))
            targets.add(marker)
            tensors |= self._zero_pair(marker)
        ranks = {path: layer.r[_NAME] for path, layer in self.layers.items()}
        others = {path: rank for path, rank in ranks.items() if rank != self.spec.rank}
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
            "use_dora": False,
            "use_rslora": False,
        }
        return {APP_FILE: safetensors_parts(tensors, {"format": "pt"}), CONFIG_FILE: (json_bytes(config),)}

    def _zero_pair(self, path: str) -> dict[str, Tensor]:
        """Adds nothing to the module at `path`; its name is what makes diffusers read the file."""
        linear = linear_modules(self.transformer)[path]
        return {
            f"{_APP_PREFIX}{path}.lora_A.weight": torch.zeros(self.spec.rank, linear.in_features),
            f"{_APP_PREFIX}{path}.lora_B.weight": torch.zeros(linear.out_features, self.spec.rank),
        }


def _matrices(layer: LoraLinear) -> dict[str, nn.Parameter]:
    return {side: getattr(layer, side)[_NAME].weight for side in ("lora_A", "lora_B")}


def inject(transformer: nn.Module, spec: AdapterSpec, seed: int) -> LoraAdapter:
    """A new LoRA: A random, B zero. See `sidestep.adapters.inject`."""
    paths = target_paths(transformer, target_names(spec))
    adapter = _attach(transformer, spec, _sizes(paths, spec))
    draw({name: p for name, p in adapter.parameters().items() if ".lora_A." in name}, seed)
    return adapter


def _sizes(paths: list[str], spec: AdapterSpec) -> dict[str, _Size]:
    """Each module's size by the spec and its patterns."""
    ranks = by_pattern(paths, spec.rank, spec.rank_pattern, "rank_pattern")
    alphas = by_pattern(paths, spec.alpha, spec.alpha_pattern, "alpha_pattern")
    return {path: _Size(ranks[path], alphas[path]) for path in paths}


def _attach(transformer: nn.Module, spec: AdapterSpec, sizes: Mapping[str, _Size]) -> LoraAdapter:
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
    adapter = LoraAdapter(spec, transformer, layers)
    adapter.make_trainable()
    return adapter


def load_app(transformer: nn.Module, folder: Path) -> LoraAdapter:
    """A PEFT folder with original names, as the ACE-Step app writes and reads it."""
    source = folder / CONFIG_FILE
    if not source.is_file():
        raise MissingInputError(f"{folder} has no {CONFIG_FILE}, without which {APP_FILE} cannot be scaled")
    tensors, _ = read_finite(folder / APP_FILE)
    config = _read_config(read_small(source), source)
    return _load(transformer, folder / APP_FILE, tensors, _APP_PREFIX, config)


def load_diffusers(transformer: nn.Module, folder: Path) -> LoraAdapter:
    """A file of diffusers' `save_lora_weights`. Without metadata in its header, alpha = rank."""
    path = folder / DIFFUSERS_FILE
    tensors, header = read_finite(path)
    if text := header.get("lora_adapter_metadata"):
        config = _read_config(text.encode(), path)
    else:
        ranks = {
            key.removeprefix(_DIFFUSERS_PREFIX).removesuffix(".lora_A.weight"): tensor.shape[0]
            for key, tensor in tensors.items()
            if key.endswith(".lora_A.weight") and tensor.ndim == 2
        }
        options = {"peft_type": "LORA", "rank_pattern": ranks, "alpha_pattern": ranks}
        config = as_kind(_PeftConfig, options, str(path))
    return _load(transformer, path, tensors, _DIFFUSERS_PREFIX, config)


def _read_config(text: bytes, source: Path) -> _PeftConfig:
    config = parse_as(_PeftConfig, text, str(source))
    defaults = LoraConfig().to_dict()
    unread = [
        f"{name} = {value!r}"
        for name, value in (config.model_extra or {}).items()
        if value
        and value != defaults.get(name)
        and name not in _HARMLESS
        and not (name == "init_lora_weights" and value in _HARMLESS_INITS)
    ]
    if unread:
        raise BadDataError(f"{source} asks for what is not supported: {', '.join(sorted(unread))}")
    return config


def _load(
    transformer: nn.Module, path: Path, tensors: Mapping[str, Tensor], prefix: str, config: _PeftConfig
) -> LoraAdapter:
    """Check `tensors`, whose keys start with `prefix`, against the model; then attach and fill the layers."""
    linears = linear_modules(transformer)
    matches = (_KEY.fullmatch(key.removeprefix(prefix)) for key in tensors if key.startswith(prefix))
    names = {match["module"] for match in matches if match}
    modules = {name: original_name(name) for name in sorted(names) if original_name(name) in linears}
    sizes = {path: config.size(name) for name, path in modules.items()}
    expected: dict[str, tuple[int, ...]] = {}
    for name, module in modules.items():
        rank, linear = sizes[module].rank, linears[module]
        expected[f"{prefix}{name}.lora_A.weight"] = (rank, linear.in_features)
        expected[f"{prefix}{name}.lora_B.weight"] = (linear.out_features, rank)
    check_exact(expected, tensors, path)
    common = Counter(sizes.values()).most_common(1)[0][0]
    spec = AdapterSpec.model_construct(  # as the file says; the spec's ranges are for new adapters
        type="lora",
        rank=common.rank,
        alpha=common.alpha,
        dropout=config.lora_dropout,
        target_modules=tuple(sorted(sizes)),
        rank_pattern={path: size.rank for path, size in sizes.items() if size.rank != common.rank},
        alpha_pattern={path: size.alpha for path, size in sizes.items() if size.alpha != common.alpha},
    )
    adapter = _attach(transformer, spec, sizes)
    with torch.no_grad():
        for name, module in modules.items():
            for side, matrix in _matrices(adapter.layers[module]).items():
                matrix.copy_(tensors[f"{prefix}{name}.{side}.weight"])
    return adapter
