"""What the decoder attends to of each prompt: made once by the encoders, and kept beside the sounds.

A run that is sampled again and again, by many attempts, reads its prompts once. Whoever finds them kept needs
no encoder: neither its gigabytes on the disk, nor its memory.
"""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from sidestep.acestep.conditioning import embed_lyrics, encode_conditions, encode_text
from sidestep.acestep.layout import find_text_encoder, find_variant, pull_part
from sidestep.acestep.loading import load_model, load_text_encoder
from sidestep.data.encode import free_memory
from sidestep.data.keys import PulledModel
from sidestep.data.prompts import caption_prompt, templated_lyrics
from sidestep.runtime.canonical import safetensors_bytes
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.tensorfiles import read_metadata, read_tensors
from sidestep.runtime.workspace import Workspace
from sidestep.sampling.takes import Prompt
from sidestep.storage.store import Store
from sidestep.storage.transfer import copy_of, pull, using_copies

FILE = "conditions.safetensors"
_KEY = "asked"  # in its header


def encode_prompts(
    prompts: Sequence[Prompt],
    seconds: float,
    checkpoints: Store,
    pulled: PulledModel,
    device: torch.device,
    workspace: Workspace,
    base_model: str | None,
) -> list[Tensor]:
    """The conditions [L, D] (fp32, on the CPU) of each prompt, for sounds of so many seconds.

    In fp32, as preprocessing makes them. The text encoder is pulled for it, and gone before the condition
    encoder is loaded. Torch's random state is as before.
    """
    model, texts = find_variant(checkpoints, pulled.folder), find_text_encoder(checkpoints)
    root = pull_part(checkpoints, texts, workspace, "Pulling the text encoder")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        with using_copies(checkpoints, texts.files, workspace):
            reader = load_text_encoder(root, device, torch.float32)
        read = []
        for prompt in prompts:
            sign_of_life()
            said = caption_prompt(prompt.caption, prompt.bpm, prompt.timesignature, prompt.keyscale, seconds)
            lyrics = templated_lyrics(prompt.lyrics, prompt.language)
            read.append((encode_text(reader, said), embed_lyrics(reader, lyrics)))
        del reader
        free_memory()
        with using_copies(checkpoints, model.files, workspace):
            encoder = load_model(
                *(pulled.root, pulled.folder, device, torch.float32),
                parts=("condition_encoder",),
                base_model=base_model,
            )
        made = []
        for states in read:
            sign_of_life()
            made.append(encode_conditions(encoder, *states))
        del encoder
        free_memory()
    return made


def kept_bytes(conditions: Sequence[Tensor], asked: str) -> bytes:
    """The content of conditions.safetensors, of prompts that are `asked` like that: see `asked_of`."""
    named = {f"{number:04}": tensor for number, tensor in enumerate(conditions)}
    return safetensors_bytes(named, {_KEY: asked})


def read_kept(store: Store, asked: str, workspace: Workspace) -> list[Tensor] | None:
    """The conditions that are kept in a place; None where there are none, or of something else."""
    file = store.stat(FILE)
    if file is None:
        return None
    path = copy_of(store, pull(store, [file], workspace, "Pulling the prompts"), FILE)
    try:
        if read_metadata(path).get(_KEY) != asked:
            return None
        return [tensor for _, tensor in sorted(read_tensors(path))]
    except BadDataError:  # it is made again
        return None


def asked_of(prompts: Sequence[Prompt], seconds: float, weights: str) -> str:
    """A digest of what conditions follow from: the prompts as the model hears them, and its weights."""
    content = [[prompt.asked() for prompt in prompts], seconds, weights]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
