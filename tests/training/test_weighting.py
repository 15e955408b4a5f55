"""Min-SNR weights: what they are by definition, at the ends and in the mean; a step's gradient by them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from sidestep.config.training import TrainSpec
from sidestep.training.weighting import min_snr
from tests.facts import facts
from tests.runs import EVERY_STEP, train, train_until_stopped
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

GAMMAS = (0.5, 1.0, 5.0, 20.0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_they_are_the_definition_for_a_velocity(gamma: float) -> None:
    """min(SNR, γ) · ‖x0' − x0‖² and min(SNR, γ) / SNR · ‖noise' − noise‖², by what a wrong velocity makes."""
    generator = torch.Generator().manual_seed(1)
    song, noise, velocity = torch.randn(3, 40, 64, generator=generator, dtype=torch.float64)
    for t in torch.rand(50, generator=generator, dtype=torch.float64):
        noised, snr = t * noise + (1 - t) * song, ((1 - t) / t) ** 2
        of_song = ((noised - t * velocity) - song).square().mean()
        of_noise = ((noised + (1 - t) * velocity) - noise).square().mean()
        loss = min_snr(t, gamma) * (velocity - (noise - song)).square().mean()
        assert torch.allclose(loss, snr.clamp(max=gamma) * of_song)
        assert torch.allclose(loss, snr.clamp(max=gamma) / snr * of_noise)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_they_are_finite_at_the_ends_and_have_the_integral_that_is_told(gamma: float) -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    weights = min_snr(t, gamma)
    assert weights[0] == weights[-1] == 0 and weights.isfinite().all() and (weights >= 0).all()
    assert torch.trapezoid(weights, t) == pytest.approx(gamma / (3 * (1 + gamma**0.5) ** 2), rel=1e-6)
    assert t[weights.argmax()] == pytest.approx(1 / (1 + gamma**0.5), abs=1e-5)
    single = min_snr(torch.tensor([0.0, 1e-30, 1.0]), gamma)
    assert single.dtype == torch.float32 and single.isfinite().all()


def test_a_step_s_gradient_is_by_them_and_what_is_measured_is_not(make_spec: MakeSpec) -> None:
    settings: dict[str, Any] = {"accumulation": 3, "adapter": {"dropout": 0}, "max_grad_norm": 1e9}

    def made(**more: Any) -> tuple[list[torch.Tensor], Any, Any, float]:
        trainer = trainer_of(make_spec(**settings, **more))
        for parameter in trainer.adapter.parameters().values():
            torch.nn.init.constant_(parameter, 0.02)
        judged = trainer.evaluate()
        result = trainer.step(0)
        assert result is not None
        grads = [p.grad.clone() for p in trainer.adapter.parameters().values() if p.grad is not None]
        return grads, result, trainer, judged

    plain, weighed = made(), made(loss_weighting="min_snr", min_snr_gamma=2.0)
    assert weighed[3] == plain[3] and weighed[1].losses == plain[1].losses
    entries = plain[1].group.entries
    weights = [float(min_snr(plain[2].sampling.timestep(entry.index), 2.0)) for entry in entries]
    assert len(set(weights)) == 3
    parts = zip(weights, plain[1].losses, strict=True)
    assert weighed[1].loss == pytest.approx(sum(weight * loss for weight, loss in parts) / 3)
    alone = [made(weights={str(e.song): 1000, f"[!{e.song}]": 0.001})[0] for e in entries]
    for n, found in enumerate(weighed[0]):
        expected = sum(weight * grads[n] / 3 for weight, grads in zip(weights, alone, strict=True))
        assert torch.allclose(found, torch.as_tensor(expected), rtol=1e-3, atol=1e-6)


def test_a_weighted_run_that_was_cut_off_is_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**EVERY_STEP, "epochs": 2, "accumulation": 3, "loss_weighting": "min_snr"}

    def adapter(output: str) -> bytes:
        made = train(make_spec(output, **settings))
        return (Path(made.adapter) / "adapter_model.safetensors").read_bytes()

    train_until_stopped(make_spec("cut", **settings), monkeypatch, commits=1)
    assert adapter("cut") == adapter("whole")


def test_a_gamma_for_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=facts("min_snr_gamma", "loss_weighting")):
        TrainSpec.model_validate({"min_snr_gamma": 3})
    assert TrainSpec.model_validate({"min_snr_gamma": 5}).loss_weighting == "none"
    assert TrainSpec.model_validate({"min_snr_gamma": 3, "loss_weighting": "min_snr"})
