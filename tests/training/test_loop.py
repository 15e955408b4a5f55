"""What a step does: accumulation, dropout of conditions, learning, and numbers that repeat."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.acestep import load_model
from sidestep.data.tensors import Sample
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.preemption import Preemption
from sidestep.training.flow import SamplingConfig, draw_batch, flow_loss
from sidestep.training.loop import SECONDS_TO_SAVE, StepResult, Trainer
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Entry
from tests.facts import facts
from tests.songs import MakeSpec, absurd_song, song, write_songs
from tests.training.trainers import run, trainer_of


def still(trainer: Trainer) -> None:
    """No step of it moves the weights."""
    trainer.schedule = replace(trainer.schedule, lr=0.0)


def made(result: StepResult | None) -> StepResult:
    assert result is not None
    return result


def test_accumulation_is_the_mean_over_the_group(make_spec: MakeSpec) -> None:
    """Seven songs in groups of four: the last group's three weigh a third each."""
    folder = write_songs(Path("seven"), [song(n, frames=12 + 2 * n) for n in range(7)])
    trainer = trainer_of(make_spec(dataset_dir=folder, accumulation=4, adapter={"dropout": 0}))
    still(trainer)
    for step in (0, 1):
        group = trainer.schedule.group(step)
        trainer.optimizer.zero_grad()
        losses = []
        for index, sample in enumerate(group.samples, start=group.first_index):
            parts = trainer.samples[sample], trainer.null_condition, trainer.sampling, index, "cpu"
            losses.append(flow_loss(trainer.model, draw_batch(*parts)))
        torch.stack(losses).mean().backward()
        wanted = {n: p.grad.clone() for n, p in trainer.adapter.parameters().items() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(wanted.values())
        result = made(trainer.step(step))
        assert result.loss == pytest.approx(float(torch.stack(losses).mean().detach()), rel=1e-5)
        assert result.losses == pytest.approx([float(loss.detach()) for loss in losses], rel=1e-5)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
        scale = min(1.0, trainer.max_grad_norm / float(norm))
        for name, parameter in trainer.adapter.parameters().items():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted[name] * scale, rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped(make_spec: MakeSpec) -> None:
    trainer = trainer_of(make_spec(max_grad_norm=1e-3))
    norm = made(trainer.step(0)).grad_norm
    gradients = [p.grad for p in trainer.adapter.parameters().values() if p.grad is not None]
    assert norm > 1e-3
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-3)


def test_gradient_checkpointing_changes_no_number(make_spec: MakeSpec) -> None:
    with_it, without = (
        made(trainer_of(make_spec(gradient_checkpointing=on)).step(0)) for on in (True, False)
    )
    assert with_it.loss == pytest.approx(without.loss, rel=1e-6)
    assert with_it.grad_norm == pytest.approx(without.grad_norm, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({}, [2, 2, 2, 2]),
        ({"gradient_checkpointing_ratio": 0.5}, [2, 2, 1, 1]),
        ({"gradient_checkpointing": False}, [1, 1, 1, 1]),
    ],
)
def test_the_layers_that_the_spec_asks_for_are_recomputed(
    make_spec: MakeSpec, settings: dict[str, Any], runs: list[int]
) -> None:
    trainer = trainer_of(make_spec(accumulation=1, **settings))
    layers: Any = trainer.adapter.transformer.layers
    counts = [0] * 4
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, n=number: counts.__setitem__(n, counts[n] + 1))
    trainer.step(0)
    assert counts == runs


def test_dropped_conditions_become_the_null_token() -> None:
    null = torch.full((1, 1, 64), 7.0)
    sampling = SamplingConfig("corrected", -0.4, 1.0, cfg_dropout=0.15, seed=3)
    sample = song(0)
    dropped = [
        bool((draw_batch(sample, null, sampling, index, "cpu").conditions == 7).all())
        for index in range(2000)
    ]
    assert sum(dropped) / 2000 == pytest.approx(0.15, abs=0.03)
    kept = draw_batch(sample, null, sampling, dropped.index(False), "cpu")
    assert torch.equal(kept.conditions[0], sample.encoder_hidden_states)
    vanilla = replace(sampling, mode="vanilla", cfg_dropout=0.99)
    assert not any((draw_batch(sample, null, vanilla, i, "cpu").conditions == 7).any() for i in range(20))


def test_one_clip_is_learnt(golden: Path, make_spec: MakeSpec) -> None:
    """A hundred steps on one clip lower the loss on fixed draws by at least a third."""
    folder = write_songs(Path("one"), [song(0, frames=24)])
    checkpoints = golden / "checkpoints"
    spec = make_spec(
        dataset_dir=folder,
        checkpoint_dir=checkpoints,
        epochs=100,
        accumulation=1,
        lr=1e-2,
        adapter={"rank": 16, "alpha": 32, "dropout": 0},
    )
    trainer = trainer_of(spec)
    progress = Progress()
    run(trainer, progress)
    first, last = progress.evaluations[0], progress.evaluations[100]
    assert last <= first * 2 / 3, f"{first} → {last}"
    # The base stays as it was: all learning is in the adapter.
    fresh = load_model(checkpoints, "base", parts=("transformer",)).transformer
    base = dict(trainer.model.named_parameters())
    weight = next(name for name in base if name.endswith("layers.0.mlp.up_proj.weight"))
    assert torch.equal(base[weight], fresh.layers[0].mlp.up_proj.weight)


def test_a_step_does_not_depend_on_what_was_drawn_before(make_spec: MakeSpec) -> None:
    losses = []
    for noise in (0, 5):
        trainer = trainer_of(make_spec())
        torch.manual_seed(noise)
        torch.rand(noise)
        losses.append(trainer.step(1))
    assert losses[0] == losses[1]


def test_noise_is_drawn_anew_for_every_micro_batch() -> None:
    sampling = SamplingConfig("corrected", -0.4, 1.0, 0.0, seed=1)
    null = torch.zeros(1, 1, 64)
    first, second = (draw_batch(song(0), null, sampling, index, "cpu") for index in (0, 1))
    assert not torch.equal(first.noise, second.noise)
    assert first.timesteps != second.timesteps


def test_evaluation_leaves_training_as_it_is(make_spec: MakeSpec) -> None:
    results = []
    for evaluate in (False, True):
        trainer = trainer_of(make_spec())
        if evaluate:
            trainer.evaluate()
        results.append(trainer.step(0))
    assert results[0] == results[1]


def test_flow_loss_in_bf16_keeps_the_timestep_fine(tiny_checkpoints: Path) -> None:
    """The base in bf16 under autocast stays near fp32, since t is never rounded to bf16."""
    batch = draw_batch(
        song(0), torch.zeros(1, 1, 64), SamplingConfig("corrected", -0.4, 1.0, 0.0, 1), 0, "cpu"
    )
    exact = load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer
    rough = load_model(tiny_checkpoints, "base", dtype=torch.bfloat16, parts=("transformer",)).transformer
    with torch.no_grad():
        wanted = float(flow_loss(exact, batch))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert float(flow_loss(rough, batch)) == pytest.approx(wanted, rel=0.02)


def test_a_step_that_is_not_finite_changes_nothing_and_counts(make_spec: MakeSpec) -> None:
    """One song of three is absurd: its steps are skipped, the others train on."""
    folder = write_songs(Path("songs"), [song(0), absurd_song(1), song(2)])
    trainer = trainer_of(make_spec(dataset_dir=folder, accumulation=1, epochs=2))
    states: list[dict[str, Tensor]] = []
    progress = Progress()
    for _ in trainer.steps(progress):
        optimizer = trainer.optimizer.state.values()
        parts = {n: p.detach().clone() for n, p in trainer.adapter.parameters().items()}
        parts |= {f"{n}.{key}": v.clone() for n, state in enumerate(optimizer) for key, v in state.items()}
        states.append(parts)
    absurd = [step for step in range(6) if trainer.schedule.group(step).samples == (1,)]
    assert [step for step, loss in enumerate(progress.losses) if not math.isfinite(loss)] == absurd
    assert (progress.step, progress.skipped) == (6, 2)
    for step in range(1, 6):
        before, after = states[step - 1], states[step]
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
        assert same == (step in absurd)
    assert all(torch.isfinite(part).all() for part in states[-1].values())
    assert math.isnan(progress.evaluations[6])  # a mean over the songs that are sound would look better


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_ten_in_a_row_end_the_run(make_spec: MakeSpec, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(make_spec(accumulation=1, epochs=10))
    original = Trainer.losses
    bad = {4, *range(7, 16), *range(17, 40)}  # one alone, nine in a row, and then without end

    def losses(self: Trainer, entries: Sequence[Entry]) -> Tensor:
        found = original(self, entries)
        if entries[0].index not in bad:
            return found
        if where == "loss":
            return found * math.nan
        spoilt: Tensor = NotFiniteBackwards.apply(found)  # type: ignore[no-untyped-call]  # torch's own
        return spoilt

    monkeypatch.setattr(Trainer, "losses", losses)
    progress = Progress()
    with pytest.raises(BadSpecError, match=facts("10 steps", "step 27\n")):
        run(trainer, progress)
    assert (progress.skipped, progress.skipped_in_row) == (1 + 9 + 10, 10)


class NotFiniteBackwards(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


def test_a_short_run_that_skips_every_step_has_not_succeeded(make_spec: MakeSpec) -> None:
    folder = write_songs(Path("songs"), [absurd_song(0)])
    progress = Progress()
    with pytest.raises(BadSpecError, match="3 steps"):
        run(trainer_of(make_spec(dataset_dir=folder, epochs=3)), progress)
    assert math.isnan(progress.evaluations[0])


class Requesting(Sequence[Sample]):
    """Samples with which notice comes: while the second one is read."""

    def __init__(self, samples: Sequence[Sample], preemption: Preemption) -> None:
        self.samples, self.preemption, self.read = samples, preemption, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        self.read += 1
        if self.read == 2:
            self.preemption.request()
        return self.samples[index]


@pytest.mark.parametrize(
    ("grace", "read"),
    [
        (600.0, 3),
        (1.0, 2),
        (1.0 + SECONDS_TO_SAVE, 2),  # of which the reserve is a second: enough for the step, not to save it
    ],
)
def test_a_step_is_given_up_where_it_would_not_end_in_time(
    make_spec: MakeSpec, grace: float, read: int
) -> None:
    preemption = Preemption(grace, end_process=lambda code: None)
    trainer = trainer_of(make_spec(accumulation=3, warmup_steps=0))
    samples = Requesting(trainer.samples, preemption)
    trainer = replace(trainer, samples=samples, preemption=preemption)
    before = [parameter.detach().clone() for parameter in trainer.adapter.parameters().values()]
    result = trainer.step(0)
    after = list(trainer.adapter.parameters().values())
    unchanged = all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert samples.read == read
    assert unchanged == (result is None) == (read == 2)
