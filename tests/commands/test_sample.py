"""`sidestep sample`: what is made of an output or an adapter, what is not made twice, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.acestep.vae import SAMPLES_PER_LATENT
from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.data.tensors import Sample, sample_bytes
from sidestep.runtime.errors import ExitCode
from sidestep.tasks import sample as sample_task
from tests.facts import tells
from tests.runs import train
from tests.s3 import S3Server
from tests.songs import song

QUICK = ["--seconds", "1", "--steps", "1", "--device", "cpu"]
HARP = ["--prompt", "glass harp", *QUICK]


def told(number: int) -> Sample:
    """A song that says what it is."""
    sample = song(number)
    metadata = {
        "filename": f"song-{number}.wav",
        "caption": f"zydeco, tune {number}",
        "lyrics": f"la {number}",
        "custom_tag": "zydeco",
        "language": "fr",
        "bpm": 100 + number,
        "keyscale": "A minor",
        "timesignature": "3",
    }
    return Sample(sample.target_latents, sample.encoder_hidden_states, sample.context_latents, metadata)


@pytest.fixture(scope="module")
def trained(tiny_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished run with two checkpoints, on five songs, of which one was held out."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "out" / "tensors").mkdir(parents=True)
    for number in range(5):
        (folder / "out" / "tensors" / f"{number}.pt").write_bytes(sample_bytes(told(number)))
    settings = {
        "epochs": 2,
        "lr": 0.05,
        "adapter": {"rank": 2, "alpha": 4},
        "checkpoint": {"every_epochs": 1},
        "validation": {"songs": ["song-1"], "draws": 1},
        "publish": "last",
    }
    places: dict[str, Any] = {"checkpoint_dir": tiny_checkpoints, "output_dir": folder / "out"}
    train(JobSpec.load(None, task="train", model_variant="base", **places, train=settings))
    return folder / "out"


@pytest.fixture
def output(trained: Path, tmp_path: Path) -> Path:
    """A copy of it for each test."""
    shutil.copytree(trained, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The latents of each take; its sound is made of them without the VAE, in no time."""
    latents: list[Tensor] = []

    def decode(_: Any, made: Tensor) -> Tensor:
        latents.append(made)
        return made[:, :2].T.repeat_interleave(SAMPLES_PER_LATENT, dim=1)

    monkeypatch.setattr(sample_task, "decode_tiled", decode)
    monkeypatch.setattr(sample_task, "free_memory", lambda: None)  # slow, as a test's process holds a lot
    return latents


def samples(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "samples.json").read_bytes())
    there = {file.name for file in place.iterdir()} - {"samples.json"}
    page = (place / "index.html").read_text() if "index.html" in there else ""
    assert there - {"index.html"} == {take["file"] for take in found["takes"]}
    assert not page or all(f'src="{take["file"]}"' in page for take in found["takes"])
    return found


def test_by_default_the_songs_and_the_trigger_word_are_heard(output: Path, played: list[Tensor]) -> None:
    """The model and the tensors are those that the output's job.yaml names."""
    assert main(["sample", str(output), *QUICK]) == 0
    made = samples(output / "listen")
    assert (made["format"], made["variant"]) == (1, "acestep-v15-base")
    asked = [(prompt["source"], prompt["song"], prompt["caption"]) for prompt in made["prompts"]]
    tunes = [(f"song-{number}.wav", f"zydeco, tune {number}") for number in range(5)]
    assert asked == [
        *(("training", *tunes[number]) for number in (0, 2, 3)),
        ("held-out", *tunes[1]),
        ("trigger", "", "zydeco"),
    ]
    assert made["prompts"][3] == {
        "caption": "zydeco, tune 1",
        "lyrics": "la 1",
        "source": "held-out",
        "song": "song-1.wav",
        "language": "fr",
        "bpm": 101,
        "keyscale": "A minor",
        "timesignature": "3",
    }
    assert made["prompts"][4]["lyrics"] == "[Instrumental]"
    ways = [(take["prompt"], take["strength"], take["checkpoint"]) for take in made["takes"]]
    assert ways == [way for number in range(5) for way in ((number, 0.0, None), (number, 1.0, "adapter"))]
    take = made["takes"][1]
    settings = {"seed": 42, "steps": 1, "guidance": 7.0, "shift": 1.0, "seconds": 1.0}
    assert {name: take[name] for name in settings} == settings
    page = (output / "listen" / "index.html").read_text()
    assert "what you hear is noise" in page  # a tiny model's
    assert len(take["adapter"]) == 64 and -70 <= take["loudness"] < 0
    assert len(played) == 10 and not torch.equal(played[0], played[5])


def test_checkpoints_strengths_and_the_base_model(
    output: Path, tmp_path: Path, played: list[Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    ways = ["--checkpoint", "checkpoint-epoch-1", "best", "adapter", "--strength", "0,0.5,1"]
    assert main(["sample", str(output), *HARP, "--guidance", "1", *ways]) == 0
    made = samples(output / "listen")["takes"]
    best = next(take["checkpoint"] for take in made if "epoch" in str(take["checkpoint"]))
    assert best.startswith("checkpoint-epoch-")
    names = [(take["checkpoint"], take["strength"]) for take in made]
    assert names[0] == (None, 0.0) and made[0]["adapter"] is None
    assert {("adapter", 0.5), ("adapter", 1.0), ("checkpoint-epoch-1", 0.5)} <= set(names)
    sounds = {(output / "listen" / take["file"]).read_bytes() for take in made}
    by_adapter = {(take["adapter"], take["strength"]) for take in made}
    assert len(sounds) == len(by_adapter) >= 5

    # Strength 0 is the base model: the same bytes whichever adapter stands beside.
    other = tmp_path / "other"
    again = ["--output", str(other), "--guidance", "1", "--strength", "0"]
    spec = JobSpec.load(str(output / "job.yaml"))
    model = ["--checkpoint-dir", spec.checkpoint_dir, "--model-variant", "base"]
    assert main(["sample", str(output / "checkpoints" / "checkpoint-epoch-1"), *HARP, *again, *model]) == 0
    (base,) = samples(other)["takes"]
    assert base["file"] == made[0]["file"]
    assert (other / base["file"]).read_bytes() == (output / "listen" / base["file"]).read_bytes()


def test_what_is_there_is_not_made_again(
    output: Path, played: list[Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped after the second take, it goes on with the third; and a newer adapter replaces the takes."""
    words = ["sample", str(output), *HARP, "--strength", "0,0.25,0.5,1"]
    keep: Callable[..., None] = sample_task._keep

    def keep_two(*arguments: Any) -> None:
        if len(played) == 3:
            raise KeyboardInterrupt
        keep(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sample_task, "_keep", keep_two)
        assert main(words) == ExitCode.AGAIN
    first = samples(output / "listen")["takes"]
    assert [take["strength"] for take in first] == [0.0, 0.25]
    played.clear()
    assert main(words) == 0
    whole = samples(output / "listen")["takes"]
    assert len(played) == 2 and whole[:2] == first and len(whole) == 4
    played.clear()
    with monkeypatch.context() as patch:
        patch.delattr(sample_task, "load_model")  # nothing is loaded
        assert main(words) == 0
    assert not played
    (output / "listen" / whole[2]["file"]).unlink()
    assert main(["publish", str(output), "--checkpoint", "checkpoint-epoch-1"]) == 0
    assert main(words) == 0
    renewed = samples(output / "listen")["takes"]
    assert len(played) == 3 and renewed[0] == first[0]
    assert {take["adapter"] for take in renewed} & {take["adapter"] for take in whole} == {None}


def test_a_page_is_made_anew_until_it_shows_all(
    output: Path, played: list[Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["sample", str(output), *HARP, "--strength", "0"]
    page = output / "listen" / "index.html"
    with monkeypatch.context() as patch:  # ended after the last take, before the page
        patch.setattr(sample_task, "_write_page", lambda *_: None)
        assert main(words) == 0
    page.write_text("of sounds before")
    assert main(words) == 0
    (take,) = samples(output / "listen")["takes"]
    assert take["file"] in page.read_text() and len(played) == 1
    (output / "listen" / take["file"]).write_bytes(b"")
    page.unlink()
    assert main(words) == ExitCode.BAD_DATA
    assert tells(caplog.text, output / "listen" / take["file"], "delete it")


def test_an_adapter_of_another_kind_beside_its_file(golden: Path, tmp_path: Path) -> None:
    """A LoKR of XL, by its file, as WAV: the prompt is given, lyrics in a file."""
    source = golden / "adapters" / "acestep-v15-xl-base" / "lokr"
    shutil.copytree(source, tmp_path / "lokr")
    Path("words.txt").write_text("[verse]\nl'été\n")
    file = tmp_path / "lokr" / "lokr_weights.safetensors"
    model = ["--checkpoint-dir", str(golden / "checkpoints"), "--model-variant", "xl-base", *QUICK]
    words = [
        "--prompt",
        "a",
        "--prompt",
        "b",
        "--lyrics",
        "@words.txt",
        "--language",
        "fr",
        "--format",
        "wav",
    ]
    assert main(["sample", str(file), *model, *words, "--strength=-0.5", "--seed", "7"]) == 0
    made = samples(tmp_path / "lokr" / "lokr_weights-listen")
    assert [prompt["lyrics"] for prompt in made["prompts"]] == ["[verse]\nl'été"] * 2
    assert {prompt["language"] for prompt in made["prompts"]} == {"fr"}
    assert [(take["strength"], take["seed"]) for take in made["takes"]] == [(-0.5, 7)] * 2
    assert all(take["file"].endswith(".wav") for take in made["takes"])


def test_from_a_bucket_to_a_bucket(output: Path, s3_server: S3Server, played: list[Tensor]) -> None:
    """A run that is not finished, by its newest checkpoint; the model's parts are in the bucket, too."""
    store = s3_server.store("models and runs")
    shutil.rmtree(output / "adapter")
    checkpoints = Path(JobSpec.load(str(output / "job.yaml")).checkpoint_dir)
    parts = ("acestep-v15-base", "vae", "Qwen3-Embedding-0.6B")
    folders = {"out": output, **{f"set/{part}": checkpoints / part for part in parts}}
    for name, folder in folders.items():
        for file in folder.rglob("*"):
            if file.is_file():
                store.upload(file, f"{name}/{file.relative_to(folder)}")
    words = [
        "--checkpoint-dir",
        f"{store.place}/set",
        "--endpoint-url",
        s3_server.endpoint,
        "--workspace",
        "ws",
    ]
    assert main(["sample", f"{store.place}/out", *HARP, *words]) == 0
    made = json.loads(store.read_bytes("out/listen/samples.json"))["takes"]
    assert [take["checkpoint"] for take in made] == [None, "checkpoint-epoch-2"]
    assert {file.path for file in store.list_files("out/listen")} == {
        "out/listen/index.html",
        "out/listen/samples.json",
        *(f"out/listen/{take['file']}" for take in made),
    }


@pytest.mark.parametrize(
    ("place", "words", "code", "said"),
    [
        ("nowhere", HARP, 66, ["nowhere"]),
        ("out", [*HARP, "--checkpoint", "checkpoint-epoch-7"], 66, ["checkpoint-epoch-7", "-epoch-2"]),
        ("out/adapter", [*HARP, "--checkpoint", "best"], 64, ["--checkpoint best", "out/adapter"]),
        ("out", [*HARP, "--checkpoint-dir", "elsewhere"], 66, ["elsewhere"]),
        ("out", [*HARP, "--model-variant", "turbo", "--guidance", "3"], 64, ["--guidance 3", "turbo"]),
        ("out", [*HARP, "--steps", "0"], 64, ["--steps", "1", "1000"]),
        ("out", [*HARP, "--seconds", "601"], 64, ["--seconds", "600"]),
        ("out", [*HARP, "--seconds", "nan"], 64, ["--seconds", "600"]),
        ("out", [*HARP, "--strength", "0,loud"], 64, ["--strength", "0,loud"]),
        ("out", [*HARP, "--strength", "nan"], 64, ["--strength", "nan"]),
        ("out", ["--lyrics", "la"], 64, ["--lyrics", "--prompt"]),
        ("out", [*HARP, "--lyrics", "a", "--lyrics", "b"], 64, ["--lyrics", "2", "1"]),
        ("out", [*HARP, "--lyrics", "@no-such.txt"], 66, ["no-such.txt"]),
        ("out", [*HARP, "--lyrics", "@latin1.txt"], 66, ["latin1.txt", "not UTF-8"]),
        ("out", ["--prompt", "wal\udcffzer", *QUICK], 64, ["--prompt", "UTF-8"]),
        ("out", [*HARP, "--lyrics", "\ud800"], 64, ["--lyrics", "UTF-8"]),
        ("out", [*HARP, "--language", "\ud800"], 64, ["--language", "UTF-8"]),
        ("cut.safetensors", [*HARP, "--checkpoint-dir", "out"], 65, ["cut.safetensors", "not a readable"]),
        ("out", ["--dataset-dir", "no-tensors"], 66, ["no-tensors", "--prompt"]),
    ],
)
def test_what_cannot_be_sampled(
    place: str,
    words: list[str],
    code: int,
    said: list[str],
    trained: Path,
    played: list[Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("out").symlink_to(trained)
    Path("latin1.txt").write_bytes("l'été".encode("latin-1"))
    Path("cut.safetensors").write_bytes(b"cut")
    assert main(["sample", place, *words]) == code
    assert tells(caplog.text, *said)
    assert not any("Errno" in record.getMessage() for record in caplog.records)
    assert not played and not (trained / "listen").exists()
