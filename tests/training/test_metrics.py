"""What TensorBoard is told: which losses at which noise level, and the means over them."""

import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import Parameter

from sidestep.runtime.gpus import Gpu
from sidestep.training.flow import draw_batch
from sidestep.training.history import RunningLoss, running_mean
from sidestep.training.metrics import Metrics, layer_gradient_norms, losses_by_timestep
from sidestep.training.numbers import Progress
from sidestep.training.throughput import Throughput
from tests.songs import MakeSpec, absurd_song, song, write_songs
from tests.training.trainers import trainer_of


def test_losses_by_timestep_are_those_that_drew_it() -> None:
    timesteps = [0.0, 0.05, 0.31, 0.39, 0.4, 0.95]
    levels = losses_by_timestep(timesteps, [1.0, 2.0, 3.0, 5.0, 7.0, 11.0])
    assert levels == {"0.0-0.1": 1.5, "0.3-0.4": 4.0, "0.4-0.5": 7.0, "0.9-1.0": 11.0}
    assert losses_by_timestep([0.31, 0.32, 0.5], [3.0, math.nan, math.inf]) == {"0.3-0.4": 3.0}


def test_pure_noise_is_in_the_last_level() -> None:
    """Vanilla training draws t = 1, too."""
    assert losses_by_timestep([1.0], [2.5]) == {"0.9-1.0": 2.5}


def test_the_curves_of_a_run(make_spec: MakeSpec) -> None:
    """Seven songs, by four and three: cheap curves every 2 steps, dear ones every 3 and at the first."""
    folder = write_songs(Path("seven"), [song(n) for n in range(6)] + [absurd_song(6)])
    trainer, progress = trainer_of(make_spec(dataset_dir=folder, accumulation=4, epochs=3)), Progress()
    norms: dict[tuple[int, int], float] = {}
    totals: dict[int, float] = {}
    gpus = [Gpu(index=0, utilization=93, memory_used=2 * 10**9, temperature=61, power=70.5), Gpu(index=1)]
    with Metrics(
        Path("runs"), trainer, progress, log_every=2, log_heavy_every=3, gpus=lambda: gpus
    ) as metrics:
        metrics.describe("name: seven", {"train.lr": 0.01, "dataset": ["a"]}, [])
        for result in trainer.steps(progress):
            gradients = {n: p.grad for n, p in trainer.adapter.parameters().items() if p.grad is not None}
            for layer in (0, 1):
                own = [gradient for name, gradient in gradients.items() if f"layers.{layer}." in name]
                norms[progress.step, layer] = float(torch.nn.utils.get_total_norm(own))
            totals[progress.step] = result.grad_norm
            metrics.log_step(result)
    events = EventAccumulator(str(Path("runs")), size_guidance={"histograms": 0})
    events.Reload()

    def curve(tag: str) -> dict[int, float]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(set(steps)) == len(steps), f"{tag} has a step twice"
        return {event.step: event.value for event in events.Scalars(tag)}

    running, smooth = RunningLoss(), {}
    for step, loss in enumerate(progress.losses, start=1):
        running.add(loss)
        smooth[step] = running.value
    even, heavy = (2, 4, 6), (1, 3, 6)
    assert curve("loss/train") == pytest.approx({n: progress.losses[n - 1] for n in even}, nan_ok=True)
    assert curve("loss/smooth") == pytest.approx({n: smooth[n] for n in even})
    assert curve("lr") == pytest.approx({n: trainer.schedule.learning_rate(n - 1) for n in even})
    bad = [6 in trainer.schedule.group(n).samples for n in range(6)]
    assert curve("skipped_steps") == {n: sum(bad[:n]) for n in even}
    assert curve("loss/eval") == pytest.approx(progress.evaluations, nan_ok=True)
    assert curve("grad_norm/total") == pytest.approx({n: totals[n] for n in heavy}, nan_ok=True)
    for layer in (0, 1):
        wanted = {n: norms[n, layer] for n in heavy}
        assert curve(f"grad_norm/layers.{layer}") == pytest.approx(wanted, nan_ok=True)
    assert curve("samples_per_second").keys() == curve("memory/peak_gb").keys() == {3, 6}
    assert all(0 < rate < 1e4 for rate in curve("samples_per_second").values())
    assert all(0.1 < gigabytes < 100 for gigabytes in curve("memory/peak_gb").values())  # of this process
    told = {"gpu/0/utilization": 93, "gpu/0/memory_gb": 2, "gpu/0/temperature": 61, "gpu/0/power": 70.5}
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("gpu/")} == told.keys()
    assert all(curve(tag) == {3: value, 6: value} for tag, value in told.items())
    (spec,) = events.Tensors("spec/text_summary")
    assert (spec.step, spec.tensor_proto.string_val[0]) == (0, b"```yaml\nname: seven```")

    histograms = {event.step: event.histogram_value for event in events.Histograms("timesteps")}
    nothing = torch.zeros(1, 1, 64)
    drawn = [draw_batch(song(0), nothing, trainer.sampling, n, "cpu").timesteps.item() for n in range(21)]
    # The first three steps take 4, 3 and 4 songs, the other three the rest.
    for step, timesteps in {3: drawn[:11], 6: drawn[11:]}.items():
        found = histograms[step]
        assert (found.num, found.sum) == (len(timesteps), pytest.approx(sum(timesteps)))
        width = [limit * 40 for limit in found.bucket_limit]
        assert width == pytest.approx([round(limit) for limit in width]), "the bins are fortieths of 0 to 1"


def test_an_attempt_that_goes_on_shows_the_timesteps_of_the_one_before(make_spec: MakeSpec) -> None:
    trainer, progress = trainer_of(make_spec(accumulation=1, epochs=2)), Progress(step=5, losses=[1.0] * 5)
    with Metrics(Path("runs"), trainer, progress, log_every=1, log_heavy_every=6) as metrics:
        for result in trainer.steps(progress):
            metrics.log_step(result)
    events = EventAccumulator(str(Path("runs")), size_guidance={"histograms": 0})
    events.Reload()
    (histogram,) = events.Histograms("timesteps")
    assert (histogram.step, histogram.histogram_value.num) == (6, 6)
    (smooth,) = events.Scalars("loss/smooth")
    assert smooth.value == pytest.approx(RunningLoss(progress.losses).value)


def test_gradient_norms_are_told_apart_by_layer() -> None:
    """By PEFT's names and by LyCORIS', of one digit and of two; what is not trained has none."""

    def parameter(*gradient: float) -> Parameter:
        made = Parameter(torch.zeros(len(gradient)))
        made.grad = torch.tensor(gradient)
        return made

    assert layer_gradient_norms(
        {
            "layers.12.mlp.up_proj.lora_A.weight": parameter(5.0),
            "layers.1.self_attn.q_proj.lora_A.weight": parameter(3.0, 0.0),
            "layers.1.self_attn.q_proj.lora_B.weight": parameter(0.0, 4.0),
            "lycoris_layers_2_self_attn_q_proj.lokr_w1": parameter(2.0),
            "layers.3.self_attn.q_proj.lora_A.weight": Parameter(torch.zeros(2)),
        }
    ) == {"layers.1": 5.0, "layers.2": 2.0, "layers.12": 5.0}


def test_the_running_loss() -> None:
    running = RunningLoss()
    assert math.isnan(running.value)
    running.add(4.0)
    assert running.value == 4.0
    running.add(math.nan)  # a skipped step
    assert running.value == 4.0
    running.add(2.0)
    assert running.value == pytest.approx((0.98 * 4 + 2) / 1.98)
    assert RunningLoss([4.0, math.inf, 2.0]).value == running.value  # as a resumed run has it


def test_the_running_mean_has_a_value_for_each_step() -> None:
    assert running_mean([3.0, math.nan, 1.0]) == [3.0, 3.0, 1.0]
    means = running_mean([1.0] * 50 + [2.0] * 50)
    assert means[49] == 1.0
    assert 1.9 < means[-1] < 2.0


def test_throughput() -> None:
    now = 100.0
    throughput = Throughput(clock=lambda: now)
    now += 2
    throughput.add(4)
    assert (throughput.recent(), throughput.average()) == (2.0, 2.0)
    now += 2
    throughput.add(2)
    assert (throughput.recent(), throughput.average()) == (1.0, 1.5)
    now += 10
    throughput.leave_out(8)  # of something else
    throughput.add(3)
    assert (throughput.recent(), throughput.average()) == (1.5, 1.5)
