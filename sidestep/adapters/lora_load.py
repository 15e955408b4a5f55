"""Reading the LoRA and DoRA files of PEFT, of the ACE-Step app and of diffusers."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from sidestep.acestep.names import original_name
from sidestep.adapters import dora
from sidestep.adapters.adapter import Rank, check_exact, read_finite
from sidestep.adapters.lora import (
    APP_FILE,
    APP_PREFIX,
    CONFIG_FILE,
    LoraAdapter,
    Size,
    lengths,
    matrices,
    of_sizes,
)
from sidestep.adapters.targets import linear_modules
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import Number, as_kind, parse_as, read_small

DIFFUSERS_PREFIX = "transformer."
DIFFUSERS_HEADER = "lora_adapter_metadata"
_PATTERNS_AT_MOST, _REPEATS_AT_MOST = 1000, 3
_KEY = re.compile(r"(?P<module>.+)\.lora_[AB]\.weight")


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


class PeftConfig(BaseModel):
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
    use_dora: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_prefix(cls, options: Any) -> Any:
        """diffusers' header has the same options, each with the name of the pipeline's part before it."""
        if not isinstance(options, dict):
            return options
        return {name.removeprefix(DIFFUSERS_PREFIX): value for name, value in options.items()}

    def size(self, module: str) -> Size:
        """The size of a module by its path in the file. Patterns match as in PEFT."""
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        rank = ranks.get(get_pattern_key(list(ranks), module), self.r)
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.lora_alpha)
        return Size(rank, alpha * math.sqrt(rank) if self.use_rslora else alpha)


# Options beside those of PeftConfig that leave the function alone. Any other that is set changes what
# PEFT computes (DoRA, biases, a changed base), so a file with it is refused.
_HARMLESS = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "inference_mode"),
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version"),
}
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal")


def load_app(transformer: nn.Module, path: Path) -> LoraAdapter:
    """A PEFT folder's weights with original names, as the ACE-Step app writes and reads it."""
    source = path.with_name(CONFIG_FILE)
    if not source.is_file():
        raise MissingInputError(
            f"{path.parent} has no {CONFIG_FILE}, without which {APP_FILE} cannot be scaled"
        )
    tensors, _ = read_finite(path)
    config = read_config(read_small(source), source)
    return fill(transformer, path, tensors, APP_PREFIX, config)


def load_diffusers(transformer: nn.Module, path: Path) -> LoraAdapter:
    """A file of diffusers' `save_lora_weights`. Without metadata in its header, alpha = rank."""
    tensors, header = read_finite(path)
    if text := header.get(DIFFUSERS_HEADER):
        config = read_config(text.encode(), path)
    else:
        config = config_of_ranks(tensors, DIFFUSERS_PREFIX, path)
    return fill(transformer, path, tensors, DIFFUSERS_PREFIX, config)


def config_of_ranks(
    tensors: Mapping[str, Tensor], prefix: str, path: Path, alphas: Mapping[str, float] | None = None
) -> PeftConfig:
    """The config of a file that has none, ranks by its shapes; what `alphas` lacks is scaled by 1."""
    ranks = {
        key.removeprefix(prefix).removesuffix(".lora_A.weight"): tensor.shape[0]
        for key, tensor in tensors.items()
        if key.endswith(".lora_A.weight") and tensor.ndim == 2
    }
    options = {
        "peft_type": "LORA",
        "rank_pattern": ranks,
        "alpha_pattern": {**ranks, **(alphas or {})},
        "use_dora": any(key.endswith(f".{dora.KEY}") for key in tensors),
    }
    return as_kind(PeftConfig, options, str(path))


def read_config(text: bytes, source: Path) -> PeftConfig:
    config = parse_as(PeftConfig, text, str(source))
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


def fill(
    transformer: nn.Module, path: Path, tensors: Mapping[str, Tensor], prefix: str, config: PeftConfig
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
        if config.use_dora:
            expected[f"{prefix}{name}.{dora.KEY}"] = (linear.out_features,)
            if (key := f"{prefix}{name}.{dora.COMFYUI_KEY}") in tensors:
                expected[key] = (linear.out_features, 1)
    check_exact(expected, tensors, path)
    adapter = of_sizes(transformer, sizes, config.lora_dropout, is_decomposed=config.use_dora)
    found = {}
    with torch.no_grad():
        for name, module in modules.items():
            layer = adapter.layers[module]
            for side, matrix in matrices(layer).items():
                matrix.copy_(tensors[f"{prefix}{name}.{side}.weight"])
            if config.use_dora:
                lengths(layer).copy_(tensors[f"{prefix}{name}.{dora.KEY}"])
            if (key := f"{prefix}{name}.{dora.COMFYUI_KEY}") in tensors:
                found[module] = tensors[key].float()
    return replace(adapter, lengths=found) if config.use_dora else adapter
