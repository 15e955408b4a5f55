"""The project's own loader and attention against what the original modelling code computed."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sidestep.acestep import AceStepModel, load_model, load_text_encoder, load_vae
from sidestep.acestep.conditioning import embed_lyrics, encode_conditions, encode_text
from sidestep.acestep.vae import encode_audio
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.sensitivity import attention_weights, mean_gradient_norms

Check = Callable[[Tensor, Tensor], None]
Recorded = Callable[[str], Tensor]


def test_decoder(golden_model: AceStepModel, recorded: Recorded, assert_golden: Check) -> None:
    with torch.no_grad():
        output = golden_model.transformer(
            hidden_states=recorded("decoder.hidden_states"),
            timestep=recorded("decoder.timestep"),
            timestep_r=recorded("decoder.timestep"),
            encoder_hidden_states=recorded("decoder.encoder_hidden_states"),
            context_latents=recorded("decoder.context_latents"),
        ).sample
    assert_golden(output, recorded("decoder.output"))


def test_condition_encoder(golden_model: AceStepModel, recorded: Recorded, assert_golden: Check) -> None:
    with torch.no_grad():
        states, mask = golden_model.condition_encoder(
            text_hidden_states=recorded("condition.text_hidden_states"),
            text_attention_mask=recorded("condition.text_attention_mask"),
            lyric_hidden_states=recorded("condition.lyric_hidden_states"),
            lyric_attention_mask=recorded("condition.lyric_attention_mask"),
            refer_audio_acoustic_hidden_states_packed=recorded(
                "condition.refer_audio_acoustic_hidden_states_packed"
            ),
            refer_audio_order_mask=recorded("condition.refer_audio_order_mask"),
        )
    assert_golden(states, recorded("condition.encoder_hidden_states"))
    assert torch.equal(mask.to(torch.uint8), recorded("condition.encoder_attention_mask"))
    assert torch.equal(
        golden_model.condition_encoder.null_condition_emb, recorded("condition.null_condition_emb")
    )


def test_conditions_are_trimmed_to_their_valid_tokens(
    golden_model: AceStepModel, recorded: Recorded, assert_golden: Check
) -> None:
    """The recorded call has pads; without them the same tokens come out, and no others."""
    text_valid = recorded("condition.text_attention_mask")[0].bool()
    lyric_valid = recorded("condition.lyric_attention_mask")[0].bool()
    conditions = encode_conditions(
        golden_model,
        recorded("condition.text_hidden_states")[0][text_valid],
        recorded("condition.lyric_hidden_states")[0][lyric_valid],
        timbre="zero",
    )
    valid = recorded("condition.encoder_attention_mask")[0].bool()
    assert_golden(conditions, recorded("condition.encoder_hidden_states")[0][valid])


def test_silence_is_the_default_timbre(golden_model: AceStepModel, recorded: Recorded) -> None:
    text, lyrics = recorded("condition.text_hidden_states")[0], recorded("condition.lyric_hidden_states")[0]
    silence = encode_conditions(golden_model, text, lyrics)
    zero = encode_conditions(golden_model, text, lyrics, timbre="zero")
    differs = (silence - zero).abs().amax(dim=1) > 1e-4
    assert differs.nonzero().flatten().tolist() == [len(lyrics)]  # the timbre token, and it alone


def golden_batch(recorded: Recorded) -> Batch:
    return Batch(
        latents=recorded("flow.x0"),
        context=recorded("flow.context_latents"),
        conditions=recorded("flow.encoder_hidden_states"),
        timesteps=recorded("flow.t"),
        noise=recorded("flow.noise"),
    )


def test_flow_loss_and_gradients(
    golden_model: AceStepModel, recorded: Recorded, expected: dict[str, Tensor], assert_golden: Check
) -> None:
    weights = attention_weights(golden_model.transformer)
    for weight in weights.values():
        weight.requires_grad_(True)
    loss = flow_loss(golden_model.transformer, golden_batch(recorded))
    loss.backward()
    assert_golden(loss.detach(), recorded("flow.loss"))
    prefix = f"{golden_model.variant}/flow.grad."
    compared = 0
    for name in (key.removeprefix(prefix) for key in expected if key.startswith(prefix)):
        module = name.removeprefix("decoder.").removesuffix(".weight")
        if module in weights:
            gradient = weights[module].grad
            assert gradient is not None
            assert_golden(gradient, expected[prefix + name])
            compared += 1
    assert compared > 0
    for weight in weights.values():
        weight.requires_grad_(False)
        weight.grad = None


def test_sensitivity_of_every_attention_module(
    golden: Path, golden_model: AceStepModel, recorded: Recorded
) -> None:
    recorded_norms = json.loads((golden / "expected.json").read_text())[golden_model.variant][
        "flow.grad_norms"
    ]
    norms = mean_gradient_norms(
        golden_model.transformer, attention_weights(golden_model.transformer), [golden_batch(recorded)]
    )
    assert norms.keys() == recorded_norms.keys()
    for module, norm in recorded_norms.items():
        assert abs(norms[module] - norm) <= 1e-5 * max(1.0, norm), module


def test_sensitivity_holds_one_gradient_at_a_time(golden_model: AceStepModel, recorded: Recorded) -> None:
    """So that an estimate fits wherever training all attention modules does."""
    weights = attention_weights(golden_model.transformer)
    alive: list[int] = []

    def count(_: Tensor) -> None:
        alive.append(sum(weight.grad is not None for weight in weights.values()))

    counters = [w.requires_grad_(True).register_post_accumulate_grad_hook(count) for w in weights.values()]
    mean_gradient_norms(golden_model.transformer, weights, [golden_batch(recorded)])
    for counter in counters:
        counter.remove()
    assert (len(alive), max(alive)) == (len(weights), 1)
    assert all(p.grad is None and not p.requires_grad for p in golden_model.transformer.parameters())


def test_vae_mean(golden: Path, expected: dict[str, Tensor], assert_golden: Check) -> None:
    vae = load_vae(golden / "checkpoints", "cpu", torch.float32)
    latents = encode_audio(vae, expected["vae.waveform"][0])
    assert_golden(latents, expected["vae.mean"][0].T)


def test_text_states(golden: Path, expected: dict[str, Tensor], assert_golden: Check) -> None:
    texts = json.loads((golden / "expected.json").read_text())["text"]
    encoder = load_text_encoder(golden / "checkpoints", "cpu", torch.float32)
    assert encoder.tokenizer(texts["prompt"])["input_ids"] == expected["text.input_ids"][0].tolist()
    assert_golden(encode_text(encoder, texts["prompt"]), expected["text.last_hidden_state"][0])
    assert_golden(embed_lyrics(encoder, texts["lyrics"]), expected["text.lyric_embeddings"][0])


def test_weights_load_in_the_wanted_precision(golden: Path) -> None:
    model = load_model(golden / "checkpoints", "base", dtype=torch.bfloat16)
    assert {p.dtype for p in model.transformer.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.transformer.parameters())
