"""The pictures of docs/evidence.md: whole trainings of a tiny random model, from sounds to held-out losses.

    make evidence

All of it is deterministic: the sounds are made here, and the models' weights are drawn by a fixed seed.
"""

import json
import logging
import shutil
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from sidestep.acestep.layout import VAE_FOLDER
from sidestep.acestep.loading import load_vae
from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.acestep.vae import SAMPLE_RATE, encode_audio
from sidestep.config.job import JobSpec
from sidestep.config.training import TrainSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.job import Job
from sidestep.runtime.canonical import png_bytes, safetensors_bytes
from sidestep.tasks import run
from sidestep.tasks.setup import prepare_setup
from sidestep.tasks.trainer import build_trainer
from sidestep.training.machine import choose_machine
from sidestep.training.numbers import Progress
from sidestep.training.verdict import gain, judge

ROOT = Path(__file__).parents[2]
BUILD, PICTURES = ROOT / "build" / "evidence", ROOT / "docs" / "evidence"
SONGS, HELD_OUT, SECONDS = 15, 5, 1.0
LATENT_RATE = 25  # a sound of this period is the same in each latent frame
EVERYTHING = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def sound(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A sustained sound [2, samples] of its own timbre, over a bass that all have in common."""
    random = np.random.default_rng(number)
    t = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    partials = LATENT_RATE * np.arange(2, 120)
    loudness = random.lognormal(sigma=1.0, size=(2, partials.size)) / partials
    phases = random.uniform(0, 2 * np.pi, size=(2, partials.size))
    own = np.einsum("cp,cpt->ct", loudness, np.sin(2 * np.pi * partials[:, None] * t + phases[..., None]))
    bass = np.sin(2 * np.pi * 2 * LATENT_RATE * t) * np.ones((2, 1))
    mixed = own / np.abs(own).max() + 0.7 * bass
    return np.asarray(0.8 * mixed / np.abs(mixed).max(), np.float32)


def prepare() -> None:
    """Sounds, a checkpoint whose latents have zero mean and unit variance, as released ones have, tensors."""
    shutil.rmtree(BUILD, ignore_errors=True)
    (BUILD / "songs").mkdir(parents=True)
    words = [
        "calm",
        "angry",
        "bright",
        "deep",
        "fast",
        "slow",
        "glassy",
        "warm",
        "dry",
        "wide",
        "loud",
        "soft",
        "dark",
        "odd",
        "dusty",
    ]
    entries = []
    for number in range(SONGS):
        name = f"song-{number:02}.wav"
        with wave.open(str(BUILD / "songs" / name), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((sound(number) * 32767).astype("<i2").T.tobytes())
        entries.append({"audio_path": name, "caption": f"{words[number]} drone", "is_instrumental": True})
    (BUILD / "songs" / "dataset.json").write_text(json.dumps({"samples": entries}))
    write_tiny_checkpoint(BUILD / "checkpoints", variants=["base"])
    level_latents(BUILD / "checkpoints")
    run(spec("preprocess", dataset_json=str(BUILD / "songs" / "dataset.json")))


def level_latents(checkpoints: Path) -> None:
    """Scale and shift the last layer of the random VAE, channel by channel."""
    vae = load_vae(checkpoints, "cpu", torch.float32)
    latents = torch.cat([encode_audio(vae, torch.from_numpy(sound(number))) for number in range(SONGS)])
    mean, deviation = latents.mean(0), latents.std(0)
    file = checkpoints / VAE_FOLDER / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    count = len(mean)
    weights["encoder.conv2.weight_g"][:count] /= deviation[:, None, None]
    weights["encoder.conv2.bias"][:count] = (weights["encoder.conv2.bias"][:count] - mean) / deviation
    file.write_bytes(safetensors_bytes(weights, {"format": "pt"}))


def spec(task: str, **changes: Any) -> JobSpec:
    places: dict[str, Any] = {"checkpoint_dir": BUILD / "checkpoints", "dataset_dir": BUILD / "tensors"}
    runtime = {"workspace": str(BUILD / "workspace"), "device": "cpu"}
    return JobSpec.load(None, task=task, **places, output_dir=BUILD / "out", runtime=runtime, **changes)


@dataclass(frozen=True)
class Trained:
    label: str
    progress: Progress
    train: TrainSpec
    parameters: int

    def losses(self, side: str) -> dict[int, float]:
        return {step: getattr(found, side).mean for step, found in self.progress.validations.items()}

    @property
    def best(self) -> int | None:
        return judge(self.progress, self.train).best

    def told(self) -> str:
        """The facts that the page gives."""
        held_out, trained = self.losses("held_out"), self.losses("trained")
        last, best = max(held_out), self.best
        assert best is not None
        sure = gain(self.progress.validations, last)
        return (
            f"{self.label}: {self.parameters:,} parameters; held out {held_out[0]:.4f} at first, "
            f"{held_out[best]:.4f} at the best step {best}, {held_out[last]:.4f} at the last step {last}; "
            f"trained {trained[0]:.4f}, {trained[best]:.4f}, {trained[last]:.4f}; "
            f"against the base model {sure.mean if sure else 0:.4f} ± {sure.error if sure else 0:.4f}"
        )


def train(label: str, epochs: int, every: int, **settings: Any) -> Trained:
    """A whole training in memory: what `sidestep train` does, without checkpoints."""
    validation = {
        "songs": [f"song-{number:02}" for number in range(0, SONGS, SONGS // HELD_OUT)],
        "every_epochs": every,
        "draws": 8,
        "window": 1,
    }
    settings = {"gradient_checkpointing": False, "accumulation": 5, **settings}
    job = Job(spec("train", train={"epochs": epochs, "validation": validation, **settings}))
    setup = prepare_setup(job, Preprocessed(job.tensors), choose_machine(job.spec.runtime))
    trainer = build_trainer(job.spec, setup)
    progress = Progress()
    for _ in trainer.steps(progress):
        pass
    count = sum(parameter.numel() for parameter in trainer.adapter.parameters().values())
    return Trained(label, progress, job.spec.train, count)


def overfit() -> list[Trained]:
    """(a) An adapter that can learn ten songs by heart, trained for far too long."""
    big = {"rank": 64, "dropout": 0, "target_modules": EVERYTHING}
    settings = {"lr": 3e-3, "scheduler": "constant_with_warmup", "cfg_dropout": 0, "adapter": big}
    return [train("rank 64 on attention and MLP, without dropout", 140, 10, **settings)]


def rates() -> list[Trained]:
    """(b) The guide's rate against that of the preset timbre, all else equal."""
    return [train(f"lr {rate:g}", 60, 6, lr=rate, adapter={"rank": 64}) for rate in (1e-4, 5e-4)]


def modules() -> list[Trained]:
    """(c) The modules that an estimate ranks first against all of q, k, v, o, at as many parameters."""
    run(spec("estimate", estimate={"batches": 10}))
    report = json.loads((BUILD / "out" / "estimate" / "report.json").read_text())
    ranked = [entry["module"] for entry in report["modules"]]
    best, rank = ranked[:8], 16
    share = sum(map(_width, ranked)) / sum(map(_width, best))
    sides = {
        "q k v o of all layers": {"rank": rank},
        "the estimate's first eight modules": {"rank": round(rank * share), "target_modules": best},
    }
    return [train(label, 60, 6, lr=3e-3, adapter=adapter) for label, adapter in sides.items()]


def _width(module: str) -> int:
    """The parameters of a rank: the tiny model's attention is 64 wide, its keys and values are 32."""
    return 64 + (32 if module.endswith(("k_proj", "v_proj")) else 64)


def picture(name: str, title: str, runs: Sequence[Trained], sides: Sequence[str]) -> None:
    figure = Figure(figsize=(7, 3.6), dpi=80, layout="constrained")
    axes = figure.subplots()
    for one, colour in zip(runs, ("#2457a6", "#b4440f"), strict=False):
        for side in sides:
            said = f"{one.label}, " if len(runs) > 1 else ""
            losses = one.losses(side)
            style = "-" if side == "held_out" else "--"
            words = "held-out songs" if side == "held_out" else "songs that it trains on"
            axes.plot(list(losses), list(losses.values()), style, color=colour, label=f"{said}{words}")
        if (best := one.best) and "trained" in sides:
            axes.plot(best, one.losses("held_out")[best], "o", color=colour, label=f"best: step {best}")
    axes.set(title=title, xlabel="optimizer step", ylabel="loss on fixed draws")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.png").write_bytes(png_bytes(figure))


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    prepare()
    for name, title, make, sides in (
        ("overfit", "An adapter that learns ten songs by heart", overfit, ("held_out", "trained")),
        ("rates", "Two learning rates over the same steps", rates, ("held_out",)),
        ("modules", "Which modules, at equal parameters", modules, ("held_out",)),
    ):
        runs = make()
        picture(name, title, runs, sides)
        for one in runs:
            print(f"{name}: {one.told()}", flush=True)


if __name__ == "__main__":
    main()
