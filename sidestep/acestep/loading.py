"""Loads the models of a checkpoint set into diffusers' and transformers' modules.

The original's own Python is never run: its weights fit diffusers' modules after renaming, with one
exception that is mended here (XL's timbre token).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3Model
from transformers.utils.logging import disable_progress_bar

from sidestep.acestep.attention import AttentionName, WindowedAttnProcessor
from sidestep.acestep.config import TextConfig, VaeConfig, read_config
from sidestep.acestep.headers import check_part
from sidestep.acestep.layout import SILENCE_FILE, find_text_encoder, find_vae, find_variant, open_checkpoints
from sidestep.acestep.names import diffusers_name
from sidestep.acestep.quantized import Quantizing
from sidestep.acestep.swap import swapped_layers
from sidestep.acestep.vae import build_vae
from sidestep.acestep.weights import check_finite, load_exactly, read_weights
from sidestep.config.memory import Quantization
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, SideStepError
from sidestep.runtime.parsing import parse_as, parse_json, read_small
from sidestep.runtime.tensorfiles import load_torch
from sidestep.storage.store import Store

TOKENIZER, TOKENIZER_CONFIG, ADAPTER_CONFIG = "tokenizer.json", "tokenizer_config.json", "adapter_config.json"

PARTS = ("transformer", "condition_encoder")


@dataclass
class AceStepModel:
    """A variant's modules. A part that was not asked for is absent, and asking for it is a bug."""

    parts: dict[str, nn.Module]
    config: dict[str, Any]
    variant: str

    @property
    def transformer(self) -> AceStepTransformer1DModel:
        """The decoder (DiT): latents [B, T, 64], conditions [B, L, D] → velocity [B, T, 64]."""
        return self.parts["transformer"]

    @property
    def condition_encoder(self) -> AceStepConditionEncoder:
        """Text, lyrics and timbre → conditions [B, L, D]."""
        return self.parts["condition_encoder"]

    @property
    def is_turbo(self) -> bool:
        return bool(self.config["is_turbo"])


@dataclass
class TextEncoder:
    """The Qwen3 embedding model and its tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    model: Qwen3Model


def load_model(
    checkpoint_dir: str | Path,
    variant: str = "base",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: tuple[str, ...] = PARTS,
    base_model: str | None = None,
    attention: AttentionName = "sdpa",
    quantize: Quantization = "none",
    swapped: int = 0,
) -> AceStepModel:
    """Load a variant from a local checkpoint folder, by alias (`base`) or by its folder's name.

    `base_model` is the release that a fine-tune was made from, for what its own config.json leaves out;
    `attention` is how the decoder computes it. Weights are cast to `dtype` one by one, as they are read;
    those of the decoder's layers are held as `quantize` says. So many of these layers as `swapped` says stay
    in the CPU's memory, for `acestep.swap`.

    Raises MissingInputError for an unknown variant or a missing file, BadDataError where the weights
    are not exactly those that config.json describes.
    """
    assert set(parts) <= set(PARTS), parts
    part = find_variant(_checkpoints(checkpoint_dir), variant)
    folder = Path(checkpoint_dir) / part.folder
    config = read_config(folder, base_model)
    loaders: dict[str, Callable[..., nn.Module]] = {
        "transformer": partial(_load_transformer, quantize=quantize, swapped=swapped),
        "condition_encoder": _load_condition_encoder,
    }
    modules = {part: loaders[part](folder, config, device, dtype).eval() for part in parts}
    model = AceStepModel(modules, config, part.folder)
    if "transformer" in modules:
        model.transformer.set_attn_processor(WindowedAttnProcessor(attention))
    return model


def _checkpoints(folder: str | Path) -> Store:
    return open_checkpoints(str(folder), StorageSpec())


def load_null_condition(checkpoint_dir: str | Path, folder: str) -> Tensor:
    """The condition token [1, 1, D] (fp32) of a sample without conditions, read without its encoder."""
    source = Path(checkpoint_dir) / folder
    weights = dict(read_weights(source, ("null_condition_emb",)))
    if weights.keys() != {"null_condition_emb"}:
        raise BadDataError(f"{source} has no null_condition_emb among its weights: download it again")
    return weights["null_condition_emb"].float()


def load_vae(
    checkpoint_dir: str | Path, device: str | torch.device, dtype: torch.dtype
) -> AutoencoderOobleck:
    """The audio autoencoder: 48 kHz stereo [B, 2, N] ↔ latents [B, 64, N / 1920]."""
    store = _checkpoints(checkpoint_dir)
    part = find_vae(store)
    check_part(store, part, "preprocess")  # sizes by the headers, before anything is built
    folder = Path(checkpoint_dir) / part.folder
    config = parse_as(VaeConfig, read_small(folder / "config.json"), f"{folder}/config.json")
    with torch.device("meta"):
        vae = build_vae(config.model_dump())
    load_exactly(vae, read_weights(folder), device, dtype, source=str(folder))
    return vae.eval().requires_grad_(False)


def load_text_encoder(
    checkpoint_dir: str | Path, device: str | torch.device, dtype: torch.dtype
) -> TextEncoder:
    """The stock Qwen3 embedding model with its tokenizer, from local files only. None of their code is run.

    Raises BadDataError where they are damaged, or not of such a model.
    """
    store = _checkpoints(checkpoint_dir)
    part = find_text_encoder(store)
    check_part(store, part, "preprocess")  # before the library makes what a config.json asks for
    folder = Path(checkpoint_dir) / part.folder
    if ADAPTER_CONFIG in part.names:  # the library would load it without a word
        raise BadDataError(f"{folder}/{ADAPTER_CONFIG} is an adapter beside the text encoder\n  move it away")
    disable_progress_bar()  # of transformers' own: the task shows its progress
    tokenizer = load_tokenizer(folder)
    with _foreign(folder):
        model, report = Qwen3Model.from_pretrained(
            folder,
            config=_text_config(folder),
            attn_implementation="sdpa",  # or a file could name one, to be downloaded
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    for name, tensor in model.state_dict().items():
        check_finite(tensor, f"{name} in {folder}")
    if wrong := {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}:
        raise BadDataError(f"{folder} does not fit its config.json: {wrong}")
    if (most := max(tokenizer.get_vocab().values(), default=0)) >= model.config.vocab_size:
        raise BadDataError(
            f"{folder}/tokenizer.json has a token {most}, and the model only {model.config.vocab_size}\n"
            "  download its folder again, whole"
        )
    return TextEncoder(tokenizer, model.to(device).eval().requires_grad_(False))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a text encoder's folder. Raises BadDataError where it is damaged."""
    settings = folder / TOKENIZER_CONFIG
    kind = parse_as(_TokenizerConfig, read_small(settings), str(settings)) if settings.exists() else None
    parse_json(read_small(folder / TOKENIZER), str(folder / TOKENIZER))
    with _foreign(folder / TOKENIZER):
        if kind and kind.auto_map:
            raise BadDataError(f"{settings} names code of its own, which is not run")
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=_text_config(folder), local_files_only=True, trust_remote_code=False
        )
        for most in ({}, {"truncation": True, "max_length": 8}):  # as texts will be read
            tokenizer("[verse]\na, \u00e4, \u97f3", **most)
    return tokenizer


class _TokenizerConfig(BaseModel):
    """What a tokenizer_config.json says of the class that is made, and of code."""

    tokenizer_class: (
        Literal["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"] | None
    ) = None
    auto_map: Any = None


def _text_config(folder: Path) -> Qwen3Config:
    path = folder / "config.json"
    fields = parse_as(TextConfig, read_small(path), str(path)).model_dump(exclude_none=True)
    with _foreign(path):
        return Qwen3Config(**fields)


@contextmanager
def _foreign(place: Path) -> Iterator[None]:
    """Turn what libraries raise over the content of a file into a BadDataError with its name."""
    try:
        yield
    except SideStepError:
        raise
    except BaseException as error:
        # What the tokenizer's Rust gives up on is no Exception; its class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BadDataError(
            f"{place} is damaged, or not of a Qwen3 embedding model: {type(error).__name__}: {error}\n"
            "  download its folder again, whole"
        ) from error


def build_transformer(config: dict[str, Any]) -> AceStepTransformer1DModel:
    """The decoder that an original config.json describes, with random weights."""
    return AceStepTransformer1DModel.from_config(_only_known(AceStepTransformer1DModel, config))


def shapes_alone(config: dict[str, Any]) -> nn.Module:
    """The decoder of an original config.json, its weights not set: enough to read an adapter's files."""
    with torch.device("meta"):
        transformer: nn.Module = build_transformer(config)
    return transformer.to_empty(device="cpu")  # memory that nothing writes to is never really taken


def build_condition_encoder(config: dict[str, Any]) -> AceStepConditionEncoder:
    """The condition encoder of a config.json. XL's has sizes of its own, the others' are the decoder's."""
    own = {
        name: config.get(f"encoder_{name}", config.get(name))
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    }
    settings = _only_known(AceStepConditionEncoder, config) | own | {"layer_types": None}
    return AceStepConditionEncoder.from_config(settings)


def _load_transformer(
    folder: Path,
    config: dict[str, Any],
    device: str | torch.device,
    dtype: torch.dtype,
    quantize: Quantization,
    swapped: int,
) -> nn.Module:
    with torch.device("meta"):
        transformer: nn.Module = build_transformer(config)
    weights = _renamed(read_weights(folder, ("decoder.",)), "decoder.")
    elsewhere = tuple(f"layers.{n}." for n in swapped_layers(config["num_hidden_layers"], swapped))
    load_exactly(
        *(transformer, weights, device, dtype),
        source=f"{folder} (decoder)",
        quantizing=None if quantize == "none" else Quantizing(quantize, dtype),
        is_elsewhere=lambda name: name.startswith(elsewhere),
    )
    return transformer.requires_grad_(False)


def _load_condition_encoder(
    folder: Path, config: dict[str, Any], device: str | torch.device, dtype: torch.dtype
) -> nn.Module:
    with torch.device("meta"):
        encoder: nn.Module = build_condition_encoder(config)
    weights = _renamed(read_weights(folder, ("encoder.", "null_condition_emb")), "encoder.")
    silence = [("silence_latent", read_silence(folder / SILENCE_FILE))]
    load_exactly(encoder, chain(weights, silence), device, dtype, source=f"{folder} (condition encoder)")
    if "encoder_hidden_size" in config:  # XL
        _prepend_timbre_token(encoder)
    return encoder.requires_grad_(False)


def _renamed(weights: Iterable[tuple[str, Tensor]], prefix: str) -> Iterable[tuple[str, Tensor]]:
    return ((diffusers_name(key.removeprefix(prefix)), tensor) for key, tensor in weights)


def read_silence(path: Path) -> Tensor:
    """The latents of silence, [1, 15000, 64] (stored as [1, 64, 15000])."""
    silence = load_torch(path, str(path))
    if not isinstance(silence, Tensor) or silence.ndim != 3 or silence.shape[:2] != (1, 64):
        raise BadDataError(f"{path} should hold one tensor [1, 64, frames]")
    check_finite(silence, str(path))
    return silence.transpose(1, 2).contiguous()


def _only_known(module: type, config: dict[str, Any]) -> dict[str, Any]:
    """The settings of an original config that the constructor of the diffusers class `module` takes."""
    return {name: config[name] for name in inspect.signature(module).parameters if name in config}


def _prepend_timbre_token(encoder: AceStepConditionEncoder) -> None:
    """XL reads its timbre from a learned token before the frames; diffusers' encoder lacks it.

    Without it the timbre embedding is off by more than its own size (3.1 to 3.9 at most, on random weights).
    """
    timbre = encoder.timbre_encoder

    def prepend(_module: nn.Module, _inputs: Any, frames: Tensor) -> Tensor:
        return torch.cat([timbre.special_token.expand(frames.shape[0], 1, -1), frames], dim=1)

    timbre.embed_tokens.register_forward_hook(prepend)
