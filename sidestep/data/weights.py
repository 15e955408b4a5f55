"""Which encoders a dataset's tensors were made with, and whether the model to be trained goes with them.

A decoder that is trained on latents or conditions of other encoders than it will be given learns to undo the
difference. So the index keeps a digest of each: of the VAE, of the text encoder, and of the condition encoder
with its silence, never of the decoder. Digests are of tensors, by name: the same weights in other files, or
in shards, are the same.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestep.acestep.headers import read_part_shapes, sample_of_part
from sidestep.acestep.layout import (
    ALIASES,
    SILENCE_FILE,
    Part,
    find_text_encoder,
    find_vae,
    pull_part,
)
from sidestep.acestep.shapes import Shapes
from sidestep.config.job import JobSpec
from sidestep.data.index import Index, MadeWith
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadSpecError, MissingInputError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor

ENCODER = ("encoder.", "null_condition_emb")
NAMES = {"vae": "VAE", "text_encoder": "text encoder", "condition_encoder": "condition encoder"}


def digest_of_part(root: Path, part: Part, prefixes: tuple[str, ...] = ("",)) -> str:
    """A digest of a part's tensors under `prefixes`, on this machine; of a variant, of its silence, too.

    Raises BadDataError for a weight that is NaN or infinite.
    """
    from sidestep.acestep.loading import read_silence
    from sidestep.acestep.weights import read_weights

    folder = root / part.folder

    def tensors() -> Iterator[tuple[str, "Tensor"]]:
        yield from read_weights(folder, prefixes)
        if SILENCE_FILE in part.names:
            yield SILENCE_FILE, read_silence(folder / SILENCE_FILE)

    return _digest({name: _tensor_digest(tensor) for name, tensor in tensors()})


def digest_of_headers(store: Store, part: Part, prefixes: tuple[str, ...] = ("",)) -> str:
    """A digest of the names and shapes of the same tensors, for which no content is read."""
    shapes: Shapes = read_part_shapes(store, part)
    return _digest({name: shape for name, shape in shapes.items() if name.startswith(prefixes)})


def digest_of_sample(store: Store, part: Part, prefixes: tuple[str, ...] = ("",)) -> str:
    """A digest of some of the same tensors' bytes."""
    return _digest(sample_of_part(store, part, prefixes))


def made_with(store: Store, workspace: Workspace, vae: Part, text_encoder: Part, model: Part) -> MadeWith:
    """What tensors are made with, by the files of a checkpoint set. All of its encoders are read."""
    digests, headers, samples = {}, {}, {}
    for name, (part, prefixes) in _parts(vae, text_encoder, model).items():
        root = pull_part(store, part, workspace, f"Pulling {part.folder}")
        digests[name] = digest_of_part(root, part, prefixes)
        headers[name] = digest_of_headers(store, part, prefixes)
        samples[name] = digest_of_sample(store, part, prefixes)
    return MadeWith(model.folder, digests, headers, samples)


def check_content(
    spec: JobSpec, store: Store, workspace: Workspace, model: Part, index: Index | None
) -> list[str]:
    """Compare the encoders of a checkpoint set with those that tensors were made with, by content.

    Files that the index knows, by place, size and version, are not read for it. Encoders that the set lacks
    are not compared: training does not need them. Returns warnings.

    Raises BadSpecError where they differ and the spec does not say that they may.
    """
    if index is None or index.weights is None:
        return []
    made, different = index.weights, []
    for name, (part, prefixes) in _there(store, model).items():
        if name not in made.digests or all(index.sha256(store, file) for file in part.files):
            continue
        root = pull_part(store, part, workspace, f"Pulling {part.folder}")
        if digest_of_part(root, part, prefixes) != made.digests[name]:
            different.append(name)
    return _judged(spec, model, made, different)


def check_headers(spec: JobSpec, store: Store, model: Part, made: MadeWith) -> list[str]:
    """The same by names, shapes and a sample of the bytes, for a plan: gigabytes are not read."""
    different = [
        name
        for name, (part, prefixes) in _there(store, model).items()
        if (name in made.headers and digest_of_headers(store, part, prefixes) != made.headers[name])
        or (name in made.samples and digest_of_sample(store, part, prefixes) != made.samples[name])
    ]
    return _judged(spec, model, made, different)


def _judged(spec: JobSpec, model: Part, made: MadeWith, different: list[str]) -> list[str]:
    if not different:
        return []
    what = ", another ".join(NAMES[name] for name in different)
    said = f"the tensors were made with {made.variant}, and {model.folder} comes with another {what}"
    is_fine_tune = bool(spec.base_model) and ALIASES.get(str(spec.base_model)) == made.variant
    if is_fine_tune and different == ["condition_encoder"]:
        return [f"{said}: taken, as base_model says that it was made from {spec.base_model}"]
    if spec.train.accept_other_weights:
        return [f"{said}: taken, as train.accept_other_weights is set"]
    raise BadSpecError(
        f"{said}\n"
        f"  preprocess the songs with model_variant {model.folder}, or train the model that made them\n"
        "  for a fine-tune of that model, set base_model to it; train.accept_other_weights takes any"
    )


def _parts(vae: Part, text_encoder: Part, model: Part) -> dict[str, tuple[Part, tuple[str, ...]]]:
    every = ("",)
    return {"vae": (vae, every), "text_encoder": (text_encoder, every), "condition_encoder": (model, ENCODER)}


def _there(store: Store, model: Part) -> dict[str, tuple[Part, tuple[str, ...]]]:
    """The parts of a set that are there: one that only trains may lack the encoders."""
    found: dict[str, tuple[Part, tuple[str, ...]]] = {"condition_encoder": (model, ENCODER)}
    for name, find in {"vae": find_vae, "text_encoder": find_text_encoder}.items():
        try:
            found[name] = (find(store), ("",))
        except MissingInputError:
            continue
    return found


def _tensor_digest(tensor: "Tensor") -> list[object]:
    import torch

    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return [str(tensor.dtype), list(tensor.shape), sha256(data).hexdigest()]


def _digest(content: Mapping[str, object]) -> str:
    return sha256(json_bytes(dict(content))).hexdigest()
