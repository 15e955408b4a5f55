"""The train task as a user runs it: to the end, again, on from a checkpoint, and refused."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.cli import main
from sidestep.commitlog.log import CommitLog
from sidestep.config.job import JobSpec
from sidestep.data.tensors import read_sample
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.training.flow import SamplingConfig, draw_batch, flow_loss
from sidestep.training.loop import Trainer
from sidestep.training.schedule import Entry
from tests.facts import facts
from tests.nvml import Device, nvml
from tests.runs import (
    files,
    outcome,
    train,
    train_until_stopped,
)
from tests.s3 import S3Server
from tests.songs import MakeSpec, absurd_song, song, write_songs

slow = partial(pytest.param, marks=pytest.mark.slow)
WHOLE_LOKR = {"type": "lokr", "rank": 2, "alpha": 3, "factor": 8} | dict.fromkeys(
    ("decompose_both", "use_tucker", "use_scalar", "weight_decompose"), True
)


@pytest.mark.parametrize(("kind", "mode"), [("lora", "corrected"), ("lokr", "vanilla")])
def test_a_resumed_run_is_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    settings = {"epochs": 3, "mode": mode, "checkpoint": {"every_epochs": 1}, "adapter": {"type": kind}}
    train(make_spec("whole", **settings))
    train_until_stopped(make_spec("cut", **settings), monkeypatch, commits=2)
    result = train(make_spec("cut", **settings))
    assert outcome(make_spec("cut", **settings)) == outcome(make_spec("whole", **settings))
    assert result.steps == 6
    assert result.last_loss < result.first_loss


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "adapter"),
    [
        ("adamw", "constant_with_warmup", {"attention": "cross", "alpha_pattern": {"q_proj": 2}}),
        ("adamw8bit", "linear", {"rank": 65}),  # 65 × 64 values: it uses 8 bits from 4096 on
        slow("adafactor", "cosine_restarts", {"target_modules": ["q_proj", "up_proj"]}),
        slow("adamw", "cosine", {"weight_decompose": True, "target_modules": ["q_proj", "up_proj"]}),
        slow("prodigy", "constant", WHOLE_LOKR),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_with_every_optimizer_and_schedule(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    scheduler: str,
    adapter: dict[str, Any],
) -> None:
    settings = {
        "epochs": 3,
        "optimizer_type": optimizer,
        "scheduler": scheduler,
        "lr": None,
        "checkpoint": {"every_epochs": 1},
        "adapter": adapter,
    }
    train(make_spec("whole", **settings))
    train_until_stopped(make_spec("cut", **settings), monkeypatch, commits=2)
    train(make_spec("cut", **settings))
    assert outcome(make_spec("cut", **settings)) == outcome(make_spec("whole", **settings))


def test_job_yaml_is_what_the_last_attempt_was_asked_for(make_spec: MakeSpec) -> None:
    for spec in (make_spec(epochs=1, log_every=1), make_spec(epochs=2, extend=True, log_every=2)):
        train(spec)
        kept = JobSpec.load(Path(spec.output_dir or "", "job.yaml"))
        assert (kept.train.epochs, kept.train.log_every) == (spec.train.epochs, spec.train.log_every)


def test_the_adapter_is_the_trained_function(
    make_spec: MakeSpec, tiny_checkpoints: Path, tmp_path: Path
) -> None:
    """The published folder, loaded into a fresh model, gives the loss that training ended with."""
    spec = make_spec(epochs=5)
    result = train(spec)
    model = load_model(tiny_checkpoints, "base", parts=("transformer",))
    adapters.load(model, tmp_path / "out" / "adapter")
    sampling = SamplingConfig("corrected", -0.4, 1.0, 0.0, seed=1)
    batch = draw_batch(read_sample(tmp_path / "tensors" / "0.pt"), torch.zeros(1, 1, 64), sampling, 0, "cpu")
    with torch.no_grad():
        adapted = float(flow_loss(model.transformer, batch))
        plain = float(flow_loss(load_model(tiny_checkpoints, "base").transformer, batch))
    assert adapted < plain
    assert result.last_loss < result.first_loss


def test_tensorboard_and_the_curve(make_spec: MakeSpec, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with nvml(Device("GPU-1", power=None)):
        train(make_spec(epochs=3, log_heavy_every=2))
    events = EventAccumulator(str(tmp_path / "out" / "runs"), size_guidance={"histograms": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    layers = {f"grad_norm/layers.{n}" for n in range(4)}
    levels = {tag for tag in tags if tag.startswith("loss_by_timestep/")}
    watched = {
        "loss/train",
        "loss/smooth",
        "loss/eval",
        "lr",
        "skipped_steps",
        "samples_per_second",
        "memory/peak_gb",
        *(f"gpu/0/{name}" for name in ("utilization", "memory_gb", "temperature")),
    }
    assert watched | {"grad_norm/total"} | layers | levels == tags
    assert levels
    assert {event.step for level in levels for event in events.Scalars(level)} == {1, 2, 3, 4, 5, 6}
    assert [event.step for event in events.Scalars("loss/train")] == [1, 2, 3, 4, 5, 6]
    losses = [event.value for event in events.Scalars("loss/train")]
    weights = [0.98 ** (5 - n) for n in range(6)]
    mean = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert events.Scalars("loss/smooth")[-1].value == pytest.approx(mean)
    assert events.Scalars("loss/smooth")[0].value == losses[0]
    assert [event.step for event in events.Scalars("grad_norm/total")] == [1, 2, 4, 6]
    assert [event.step for event in events.Scalars("loss/eval")] == [0, 6]
    assert [event.value for event in events.Scalars("skipped_steps")] == [0] * 6
    assert all(event.value > 0 for event in events.Scalars("samples_per_second"))
    assert [event.value for event in events.Scalars("gpu/0/temperature")] == [61] * 3
    assert 0.01 < events.Scalars("memory/peak_gb")[-1].value < 100
    histograms = events.Histograms("timesteps")
    assert [event.step for event in histograms] == [2, 4, 6]
    assert sum(event.histogram_value.num for event in histograms) == 9  # three songs, three times
    (shown,) = events.Tensors("spec/text_summary")
    fenced = shown.tensor_proto.string_val[0].decode()
    assert fenced == f"```yaml\n{(tmp_path / 'out' / 'job.yaml').read_text()}```"
    assert list((tmp_path / "out" / "runs").iterdir()) == list((tmp_path / "out" / "runs").glob("events.*"))
    hyperparameters = settings_shown(events)
    assert hyperparameters["train.lr"] == 1e-2
    assert hyperparameters["train.mode"] == "corrected"
    assert '"rank": 4' in hyperparameters["train.adapter"]
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert JobSpec.load(tmp_path / "out" / "job.yaml").train.epochs == 3


def settings_shown(events: Any) -> dict[str, Any]:
    """The hyperparameters as TensorBoard's page of them reads them."""
    from tensorboard.plugins.hparams import metadata

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def test_a_resumed_run_counts_the_steps_skipped_before(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_songs(tmp_path / "songs", [song(0), absurd_song(1), song(2)])
    settings = {"dataset_dir": folder, "accumulation": 1, "epochs": 4, "checkpoint": {"every_epochs": 1}}
    train(make_spec("whole", **settings))
    train_until_stopped(make_spec("cut", **settings), monkeypatch, commits=2)
    caplog.clear()
    train(make_spec("cut", **settings))
    assert "Skipped: 4 of 12 steps" in caplog.text
    (whole, losses), (cut, losses_of_cut) = (
        outcome(make_spec(name, **settings)) for name in ("whole", "cut")
    )
    assert cut == whole
    assert repr(losses_of_cut) == repr(losses) and repr(losses).count("inf") == 4


def test_a_run_that_diverges_leaves_its_last_good_checkpoint_the_newest(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: exit code 78, one message, no traceback; every epoch from the fourth on is lost."""
    original = Trainer.losses

    def losses(self: Trainer, entries: Sequence[Entry]) -> torch.Tensor:
        found = original(self, entries)
        return found * math.nan if any(entry.index >= 7 for entry in entries) else found

    monkeypatch.setattr(Trainer, "losses", losses)
    spec = make_spec(accumulation=1, epochs=9, checkpoint={"every_epochs": 1})
    Path("job.json").write_text(spec.model_dump_json())
    assert main(["train", "--config", "job.json"]) == 78
    said = capsys.readouterr().err
    assert "error: training has diverged" in said and "Traceback" not in said
    assert "Step 8 is skipped: its loss is not finite" in said
    newest = CommitLog(open_store(spec.output_place, spec.storage)).tail()
    assert newest
    assert newest.step == 6
    assert not (tmp_path / "out" / "adapter").exists()


def test_corrected_on_turbo_is_noticed(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    train(make_spec("a", model_variant="turbo"))
    assert "distilled to eight timesteps" in caplog.text
    caplog.clear()
    train(make_spec("b", model_variant="turbo", mode="vanilla"))
    assert "distilled" not in caplog.text


def test_a_rate_for_another_optimizer_is_noticed(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_spec("a", optimizer_type="prodigy", lr=1e-4, max_steps=1))
    assert [record for record in caplog.records if "train.lr is 0.0001" in record.getMessage()]
    caplog.clear()
    train(make_spec("b", optimizer_type="prodigy", lr=1.0, max_steps=1))
    assert "train.lr is" not in caplog.text


def test_tensors_of_another_model_are_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=facts("64 wide", "acestep-v15-xl-base", "48")):
        train(make_spec(model_variant="xl-base"))
    folder = write_songs(tmp_path / "xl", [song(0, width=48)])
    assert train(make_spec("xl", model_variant="xl-base", dataset_dir=folder)).steps == 2


def test_no_songs(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match=r"there are no tensors \(\.pt\) in"):
        train(make_spec(dataset_dir=tmp_path / "empty"))


def test_everything_from_and_to_s3(make_spec: MakeSpec, s3_server: S3Server, tmp_path: Path) -> None:
    """Tensors and weights are pulled, all results pushed, and an emptied machine goes on from there."""
    spec = make_spec()
    for folder, root in (("tensors", tmp_path / "tensors"), ("models", Path(spec.checkpoint_dir))):
        store = s3_server.store(folder)
        for file in sorted(root.rglob("*")):
            if file.is_file() and "xl" not in file.parent.name:
                store.upload(file, file.relative_to(root).as_posix())
    train(spec)
    places = {
        name: s3_server.place(path)
        for name, path in {
            "dataset_dir": "tensors",
            "checkpoint_dir": "models",
            "output_dir": "runs/one",
        }.items()
    }
    remote = make_spec(**places, storage={"endpoint_url": s3_server.endpoint})
    result = train(remote)
    assert result.adapter == "s3://studio/runs/one/adapter"
    output = s3_server.store("runs/one")
    for name, content in files(tmp_path / "out" / "adapter").items():
        assert output.read_bytes(f"adapter/{name}") == content
    stored = {file.path.split("/")[0] for file in output.list_files()}
    folders = {"adapter", "attempts", "checkpoints", "commits", "heartbeats", "logs", "runs"}
    assert stored == folders | {"job.yaml", "loss.png", "status.json"} | {
        *("checked.json", "history.json", "made.json", "receipt.json", "report.html")
    }
    pulled = tmp_path / "elsewhere"
    again = make_spec(**places, storage={"endpoint_url": s3_server.endpoint})
    again = again.model_copy(update={"runtime": again.runtime.model_copy(update={"workspace": str(pulled)})})
    assert train(again) == result
    assert not list(pulled.rglob("model.safetensors"))  # a finished job pulls no weights


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_in_five_processes(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Whatever Python's hash seed and the folder: all that is not about the attempt itself."""
    about_the_attempt = {"runs", "logs", "attempts", "commits", "heartbeats", "status.json", "receipt.json"}
    about_the_attempt |= {"report.html", "made.json", "cache", "sidestep.log"}
    train_spec = {"epochs": 1, "adapter": {"rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 3}}}
    specs = {
        "lora": make_spec(**train_spec, output_dir="lora"),
        "lokr": make_spec(epochs=1, adapter={"type": "lokr"}, output_dir="lokr"),
        "estimate": make_spec(output_dir="estimate").model_copy(update={"task": "estimate"}),
    }
    for name, spec in specs.items():
        (tmp_path / f"{name}.json").write_text(spec.model_dump_json())
    code = "import sys, sidestep; [sidestep.run(sidestep.JobSpec.load(path)) for path in sys.argv[1:]]"
    words = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.json") for name in specs)]
    processes, outputs = [], [tmp_path / f"process-{seed}" for seed in range(5)]
    for seed, output in enumerate(outputs):
        output.mkdir()
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "XDG_CACHE_HOME": str(output / "cache")}
        processes.append(subprocess.Popen(words, cwd=output, env=env, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    contents = [
        {
            str(file.relative_to(output)): file.read_bytes()
            for file in sorted(output.rglob("*"))
            if file.is_file() and not about_the_attempt & set(file.relative_to(output).parts)
        }
        for output in outputs
    ]
    kinds = {name.rpartition(".")[2] for name in contents[0]}
    assert kinds == {"safetensors", "json", "md", "png", "yaml"}
    for other in contents[1:]:
        assert other == contents[0]


def test_a_checkpoint_holds_what_the_guide_says(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec())
    checkpoint = tmp_path / "out" / "checkpoints" / "checkpoint-epoch-2"
    numbers = json.loads((checkpoint / "training_state.json").read_text())
    assert numbers["step"] == 4
    assert numbers["optimizer"]["kind"] == "AdamW"
    assert set(files(checkpoint)) == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "training_state.json",
        "training_state.safetensors",
    }
