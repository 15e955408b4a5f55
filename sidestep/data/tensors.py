"""The preprocessed tensors, one `.pt` per song: the format that all trainers for this model share.

| key                    | shape    |                                                         |
|------------------------|----------|---------------------------------------------------------|
| target_latents         | [T, 64]  | the song's VAE latents, 25 per second                   |
| attention_mask         | [T]      | which of them are the song                              |
| encoder_hidden_states  | [L, D]   | condition tokens: lyrics, timbre, text                  |
| encoder_attention_mask | [L]      | which of them are valid; other trainers pad up to 769   |
| context_latents        | [T, 128] | latents of silence ++ ones                              |
| metadata               | dict     | where the song is from, and what the prompts say of it  |

Where other prompts of the song are encoded, too, their conditions are there as `encoder_hidden_states_genre`
and `encoder_attention_mask_genre`, as upstream Side-Step has them, and in the same way under `_trigger`.

The decoder takes no masks and would see every pad: 40 pads on 25 tokens change its output by a fifth. So
reading trims them away. In memory a sample has no masks, and in the files written here they are all ones.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sidestep.config.training import Alternate
from sidestep.data.checked import Checked, Context
from sidestep.runtime.canonical import torch_bytes
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.tensorfiles import load_torch

AUDIO = "audio_sha256"
"""In the metadata: the digest of the file that the song was read from. Since 0.2."""

LATENT_CHANNELS = 64
CONTEXT_CHANNELS = 2 * LATENT_CHANNELS


@dataclass(frozen=True)
class Sample:
    """A song as it is trained on: float32 on the CPU, finite, and nothing of it is padding."""

    target_latents: Tensor  # [T, 64]
    encoder_hidden_states: Tensor  # [L, D]
    context_latents: Tensor  # [T, 128]
    metadata: dict[str, Any]
    alternates: dict[Alternate, Tensor] = field(default_factory=dict)  # conditions [L, D] of other prompts


def silent_context(silence_latent: Tensor, frames: int) -> Tensor:
    """Context [frames, 128] of a song that is to be made whole: silence, from [1, 15000, 64], ++ ones."""
    assert frames <= silence_latent.shape[1], "the limit of max_duration is the length of the silence"
    silence = silence_latent[0, :frames].float().cpu()
    return torch.cat([silence, torch.ones_like(silence)], dim=1)


SAME = 0.01  # of the latents' deviation: half precision moves each by less


def context_kind(sample: Sample, silence_latent: Tensor) -> Context:
    """What a sample's context holds: silence, as in whole songs; the song's own latents; or something else.

    Its own latents are the answer: a model that sees them learns to copy. The ACE-Step app's
    `preprocess_mode: lokr` writes such files. A song that is silence itself has silence.
    `silence_latent` [1, 15000, 64] is the model's.
    """
    latents, mask = sample.context_latents.split(LATENT_CHANNELS, dim=1)
    silence = silence_latent[0, : len(latents)].float().cpu()
    if len(silence) == len(latents) and (mask == 1).all() and _is_same(latents, silence):
        return "silence"
    return "answer" if _is_same(latents, sample.target_latents) else "other"


class Silence(NamedTuple):
    """A model's latents of silence [1, 15000, 64], and their digest, which takes longer than a song's."""

    latents: Tensor
    digest: str

    @classmethod
    def of(cls, latents: Tensor) -> "Silence":
        return cls(latents, digest_of(latents))


def checked_of(
    sample: Sample, size: int, asked: Collection[Alternate], silence: Silence | None = None
) -> Checked:
    """What is known of a file of `size` bytes, by what `read_sample` has read, `asked` for these prompts.

    `silence` is the model's; without, nothing is said of the context.
    """

    def said(key: str) -> str:
        text = sample.metadata.get(key)
        return text.encode(errors="replace").decode() if isinstance(text, str) else ""

    return Checked(
        size,
        frames=len(sample.target_latents),
        width=sample.encoder_hidden_states.shape[1],
        latents=digest_of(sample.target_latents),
        context=context_kind(sample, silence.latents) if silence else None,
        silence=silence.digest if silence else "",
        asked=tuple(sorted(asked)),
        alternates=tuple(sorted(sample.alternates)),
        filename=said("filename"),
        caption=said("caption"),
        trigger=said("custom_tag"),
        audio=said(AUDIO),
    )


def digest_of(tensor: Tensor) -> str:
    """The sha256 of a tensor's values as fp32."""
    return sha256(tensor.detach().float().cpu().contiguous().numpy().data).hexdigest()


def _is_same(latents: Tensor, other: Tensor) -> bool:
    difference = (latents - other).square().mean().sqrt()
    return bool(difference <= SAME * other.std(correction=0))


def sample_bytes(sample: Sample) -> bytes:
    """The `.pt` file of a sample: the same sample gives the same bytes."""
    return torch_bytes(
        {
            "target_latents": sample.target_latents,
            "attention_mask": torch.ones(len(sample.target_latents)),
            "encoder_hidden_states": sample.encoder_hidden_states,
            "encoder_attention_mask": torch.ones(len(sample.encoder_hidden_states)),
            "context_latents": sample.context_latents,
            "metadata": sample.metadata,
        }
        | {
            key: tensor
            for name, conditions in sorted(sample.alternates.items())
            for key, tensor in (
                (f"encoder_hidden_states_{name}", conditions),
                (f"encoder_attention_mask_{name}", torch.ones(len(conditions))),
            )
        }
    )


def read_sample(
    source: Path | bytes,
    name: str = "",
    alternates: Collection[Alternate] = (),
    *,
    is_sound: bool = False,
) -> Sample:
    """Read a `.pt` file, of this trainer or another one, of any float type and padded or not.

    `name` is what messages call it, where its content is given; `alternates` are the other prompts whose
    conditions are read, where the file has them: nothing is asked of those that nobody trains on. `is_sound`:
    its digest is that of a file all of whose values are finite, so that they need not be looked at again.

    Raises MissingInputError where there is no such file, and BadDataError where it is not plain tensors (a
    pickle that would run code is refused, not run), or they are not of the shapes above or not finite.
    """
    name = name or ("these tensors" if isinstance(source, bytes) else str(source))
    try:
        return _checked(load_torch(source, name), alternates, is_sound)
    except BadDataError as error:
        raise BadDataError(f"{error}\n  preprocess this song again, or take the file out") from error
    except ValueError as error:
        raise BadDataError(f"{name} is not a preprocessed song: {error}") from error


def _checked(data: Any, alternates: Collection[Alternate], is_sound: bool) -> Sample:
    """The sample in what a file held. Raises ValueError with what is wrong."""
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, not a dict")
    latents = _matrix(data, "target_latents", LATENT_CHANNELS)
    context = _matrix(data, "context_latents", CONTEXT_CHANNELS)
    conditions = _conditions(data, "")
    others = {name: _conditions(data, f"_{name}") for name in alternates if _has(data, name)}
    if len(context) != len(latents):
        raise ValueError(f"context_latents has {len(context)} frames, target_latents {len(latents)}")
    latents, context = _trimmed(data, "attention_mask", latents, context)
    for name, other in others.items():
        if other.shape[1] != conditions.shape[1]:
            raise ValueError(
                f"encoder_hidden_states_{name} are {other.shape[1]} wide, the song's {conditions.shape[1]}"
            )
    if not is_sound:
        _refuse_nan("target_latents", latents)
        _refuse_nan("context_latents", context)
        _refuse_nan("encoder_hidden_states", conditions)
        for name, other in others.items():
            _refuse_nan(f"encoder_hidden_states_{name}", other)
    return Sample(latents, conditions, context, _plain(data.get("metadata")), others)


def _has(data: dict[Any, Any], alternate: Alternate) -> bool:
    return data.get(f"encoder_hidden_states_{alternate}") is not None


def _conditions(data: dict[Any, Any], ending: str) -> Tensor:
    """The valid tokens [L, D] under the keys that end so."""
    key = f"encoder_hidden_states{ending}"
    (conditions,) = _trimmed(data, f"encoder_attention_mask{ending}", _matrix(data, key, None))
    return conditions


def _refuse_nan(key: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise ValueError(f"{key} has values that are not numbers (NaN or infinite)")


def _plain(metadata: Any) -> dict[str, Any]:
    """Texts and numbers by name, also in groups, as our levels are. Other trainers may have put
    anything there, such as lists in lists without end."""
    plain = _values(metadata)
    groups = {key: _values(value) for key, value in _items(metadata) if isinstance(value, dict)}
    return plain | groups


def _values(metadata: Any) -> dict[str, Any]:
    return {key: value for key, value in _items(metadata) if isinstance(value, str | int | float | None)}


def _items(metadata: Any) -> list[tuple[str, Any]]:
    found = metadata.items() if isinstance(metadata, dict) else ()
    return [(key, value) for key, value in found if isinstance(key, str)]


def _matrix(data: dict[Any, Any], key: str, columns: int | None) -> Tensor:
    tensor = _dense(data, key)
    wanted = f"[n, {columns or 'm'}]"
    if not tensor.is_floating_point() or tensor.ndim != 2 or (columns and tensor.shape[1] != columns):
        raise ValueError(f"{key} should be floats {wanted}, but is {tensor.dtype} {list(tensor.shape)}")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # a few bytes, repeated, could fill any memory
        raise ValueError(f"{key} claims to be {list(tensor.shape)}, but the file holds less")
    return tensor.float()


def _trimmed(data: dict[Any, Any], key: str, *padded: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one length without what a mask calls padding; where that is nothing, they themselves."""
    mask = _mask(data, key, padded[0])
    return tuple(tensor.contiguous() for tensor in padded) if mask.all() else tuple(t[mask] for t in padded)


def _mask(data: dict[Any, Any], key: str, of: Tensor) -> Tensor:
    """A mask of any type as bool [n]; zero is padding."""
    mask = _dense(data, key)
    if mask.shape != of.shape[:1]:
        raise ValueError(f"{key} should be a mask [{len(of)}], but is {list(mask.shape)}")
    if not mask.any():
        raise ValueError(f"{key} leaves nothing: all of it is padding")
    return mask.bool()


def _dense(data: dict[Any, Any], key: str) -> Tensor:
    tensor = data.get(key)
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"it has no tensor {key}" if tensor is None else f"{key} is not a plain tensor")
    return tensor.detach()
