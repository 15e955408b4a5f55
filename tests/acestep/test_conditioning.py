"""How much of a text and of a silence the model is told: as much as at inference, and no more."""

import copy
from pathlib import Path

import pytest
import torch

from sidestep.acestep.conditioning import embed_lyrics, encode_conditions, encode_text
from sidestep.acestep.loading import AceStepModel, TextEncoder, load_text_encoder


@pytest.fixture
def text_encoder(golden: Path) -> TextEncoder:
    return load_text_encoder(golden / "checkpoints", "cpu", torch.float32)


def test_a_long_text_is_cut_after_so_many_tokens(text_encoder: TextEncoder) -> None:
    long = "Rising up from the ashes tonight. " * 1000
    assert len(encode_text(text_encoder, long)) == 256
    lyrics = embed_lyrics(text_encoder, long)
    assert len(lyrics) == 2048
    assert torch.equal(embed_lyrics(text_encoder, long, limit=512), lyrics[:512])


@pytest.mark.parametrize(("frame", "matters"), [(0, True), (749, True), (750, False)])
def test_the_timbre_of_silence_is_of_its_first_thirty_seconds(
    golden_model: AceStepModel, frame: int, matters: bool
) -> None:
    width = golden_model.config["text_hidden_dim"]
    text, lyrics = torch.ones(2, width), torch.ones(3, width)
    before = encode_conditions(golden_model, text, lyrics)
    changed = copy.deepcopy(golden_model)
    changed.condition_encoder.silence_latent[:, frame] += 1
    assert torch.equal(encode_conditions(changed, text, lyrics), before) != matters
