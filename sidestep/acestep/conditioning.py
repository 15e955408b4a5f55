"""Condition tokens [L, D] of a song, from its prompt, lyrics and timbre."""

from typing import Literal

import torch
from torch import Tensor

from sidestep.acestep.loading import AceStepModel, TextEncoder

PROMPT_TOKENS = 256
LYRICS_TOKENS = 2048
RAW_LYRICS_TOKENS = 512  # of trainers that fed lyrics without the template

Timbre = Literal["silence", "zero"]


@torch.inference_mode()
def encode_text(text_encoder: TextEncoder, prompt: str) -> Tensor:
    """The prompt's last hidden states [L, D] (fp32, on the CPU), L ≤ 256."""
    ids = _token_ids(text_encoder, prompt, PROMPT_TOKENS)
    states: Tensor = text_encoder.model(input_ids=ids).last_hidden_state[0]
    return states.float().cpu()


@torch.inference_mode()
def embed_lyrics(text_encoder: TextEncoder, lyrics: str, limit: int = LYRICS_TOKENS) -> Tensor:
    """The lyrics' token embeddings [L, D] (fp32, on the CPU), L ≤ limit; the original runs no transformer."""
    ids = _token_ids(text_encoder, lyrics, limit)
    embeddings: Tensor = text_encoder.model.get_input_embeddings()(ids)[0]
    return embeddings.float().cpu()


@torch.inference_mode()
def encode_conditions(
    model: AceStepModel, text_states: Tensor, lyric_embeddings: Tensor, timbre: Timbre = "silence"
) -> Tensor:
    """Condition tokens [L, D] (fp32, on the CPU) from [Lt, Dt] and [Ll, Dt]: lyrics, timbre, text.

    `silence` feeds the timbre encoder what inference without a reference feeds it; `zero` is the one
    zero frame of other trainers. No token is padding.
    """
    encoder = model.condition_encoder
    if timbre == "silence":
        reference = encoder.silence_latent[:, : model.config["timbre_fix_frame"]]
    else:
        reference = torch.zeros_like(encoder.silence_latent[:, :1])
    device, dtype = encoder.device, encoder.dtype
    text, lyrics = (x[None].to(device, dtype) for x in (text_states, lyric_embeddings))
    conditions, mask = encoder(
        text_hidden_states=text,
        text_attention_mask=torch.ones(text.shape[:2], device=device),
        lyric_hidden_states=lyrics,
        lyric_attention_mask=torch.ones(lyrics.shape[:2], device=device),
        refer_audio_acoustic_hidden_states_packed=reference,
        refer_audio_order_mask=torch.zeros(1, dtype=torch.long, device=device),
    )
    valid: Tensor = conditions[0][mask[0].bool()]
    return valid.float().cpu()


def count_tokens(text_encoder: TextEncoder, text: str) -> int:
    """The tokens of a text, also of one that is longer than what is used of it."""
    return len(text_encoder.tokenizer(text)["input_ids"])


def _token_ids(text_encoder: TextEncoder, text: str, limit: int) -> Tensor:
    tokens = text_encoder.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
    ids: Tensor = tokens["input_ids"]
    return ids.to(text_encoder.model.device)
