"""Every reader of files that others may have made, each with sound files to begin from."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from sidestep import adapters
from sidestep.acestep.config import whole_config
from sidestep.acestep.layout import shard_names
from sidestep.acestep.loading import read_silence, shapes_alone
from sidestep.commands.status import show_status
from sidestep.commitlog.lease import Lease, Watch
from sidestep.commitlog.log import CommitLog, Record
from sidestep.config.job import JobSpec, resolve
from sidestep.config.schema import StorageSpec
from sidestep.config.sweep import folder_of
from sidestep.config.training import TrainSpec
from sidestep.data.audio import seconds_by_header
from sidestep.data.checked import read_checked
from sidestep.data.entries import read_dataset
from sidestep.data.foreign import counted
from sidestep.data.index import read_index
from sidestep.data.listing import list_songs
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.probe import problem_of
from sidestep.data.sidecar import read_sidecar
from sidestep.data.survey import in_words, read_survey
from sidestep.data.tensors import Sample, read_sample, sample_bytes
from sidestep.data.texts import read_texts
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.lifecycle.results import damaged, spent_by_receipt
from sidestep.planning.songs import _of_tensors as songs_of_tensors
from sidestep.report.contents import read_ranking
from sidestep.report.page import page
from sidestep.runtime.tensorfiles import parse_tensors
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from sidestep.storage.transfer import _read_records as read_records
from sidestep.training.numbers import read_numbers
from sidestep.wizard.settings import load_settings
from tests.data.sounds import KINDS, make_kind
from tests.fuzz.kind import Loader, as_json, files
from tests.fuzz.models import MODELS

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = GOLDEN / "checkpoints" / "acestep-v15-base"
ADAPTERS = GOLDEN / "adapters" / "acestep-v15-base"


def read_spec(data: bytes, folder: Path) -> None:
    (folder / "job.yaml").write_bytes(data)
    JobSpec.load(folder / "job.yaml")


def read_environment(data: bytes, folder: Path) -> None:
    pairs = (line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n"))
    resolve(environ={name: value.replace("\0", "") for name, _, value in pairs}, needs_places=False)


def read_pt(data: bytes, folder: Path) -> None:
    sample = read_sample(data, alternates=("trigger", "genre"))
    assert sample.target_latents.nbytes <= 4 * len(data)


def silence(data: bytes, folder: Path) -> None:
    (folder / "silence.pt").write_bytes(data)
    read_silence(folder / "silence.pt")


@cache
def model() -> dict[str, Any]:
    found: dict[str, Any] = whole_config((MODEL / "config.json").read_bytes(), str(MODEL / "config.json"))
    return found


def adapter(kind: str, name: str) -> Loader:
    """An adapter's folder in which the file `name` is another one."""

    def read(data: bytes, folder: Path) -> None:
        shutil.copytree(ADAPTERS / kind, folder, dirs_exist_ok=True)
        (folder / name).write_bytes(data)
        adapters.load(shapes_alone(model()), folder)

    return Loader(files(ADAPTERS / kind / name), read)


def in_store(name: str, look: Callable[[LocalStore], Any], others: dict[str, Any] | None = None) -> Any:
    """A reader of the file `name` in an output that has `others`, too."""

    def read(data: bytes, folder: Path) -> None:
        store = LocalStore(folder, StorageSpec())
        for path, content in (others or {}).items():
            store.write_bytes(path, json.dumps(content).encode())
        store.write_bytes(name, data)
        look(store)

    return read


def look_at_log(store: LocalStore) -> None:
    commits = CommitLog(store)
    tail = commits.tail()
    commits.newest_commit(tail)
    if tail:
        damaged(store, tail)


def look_at_status(store: LocalStore) -> None:
    for is_json in (False, True):
        show_status(store, as_json=is_json, watch=False)


def show_page(store: LocalStore) -> None:
    places = {"checkpoint_dir": "models", "dataset_dir": "tensors", "output_dir": str(store.root)}
    spent_by_receipt(store)
    page(store, JobSpec.load(None, task="train", **places)).encode(errors="backslashreplace")


def look_at_made(store: LocalStore) -> None:
    damaged(store, Record("done", generation=1, nonce="a", number=4))


def look_at_survey(store: LocalStore) -> None:
    if survey := read_survey(store):
        in_words(survey)


def look_at_texts(store: LocalStore) -> None:
    store.write_bytes("a.wav", b"")
    read_texts(store, list_songs(store), None)


def look_at_outbox(store: LocalStore) -> None:
    """Of a checkpoint that waits to be sent; the note on it is in the store."""
    commits = CommitLog(store.child("output"))
    commits.store.create("commits/000001.json", Record(**TAKE_OVER).content())
    pending = PendingCheckpoints(Workspace(store.root), "output")
    folder = pending.put("checkpoint-step-3", 3, {"a.json": (b"a",)}, (1, "a"))
    (folder.parent / "newest.json").write_bytes(store.read_bytes("note.json"))
    pending.unsent(commits, None)


def read_mapped(data: bytes, folder: Path) -> None:
    (folder / "a.pt").write_bytes(data)
    store = LocalStore(folder, StorageSpec())
    songs_of_tensors(Preprocessed(store), store.list_files(), TrainSpec())


def read_pulled(data: bytes, folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(data)
    read_records(folder / "a.jsonl")


def of_the_user(name: str, look: Callable[[], Any]) -> Callable[[bytes, Path], None]:
    """A reader of the file `name` in the user's folder for settings."""

    def read(data: bytes, folder: Path) -> None:
        file = folder / "sidestep" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
        with patch.dict(os.environ, XDG_CONFIG_HOME=str(folder)):
            look()

    return read


def use_preset() -> None:
    resolve(preset="mine", environ={}, needs_places=False)


def sound(name: str) -> Loader:
    def seeds() -> list[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            return [make_kind(Path(folder, name), name, seconds=0.3).read_bytes()]

    def read(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        problem_of(path, 1.0)
        seconds_by_header(path)

    return Loader(seeds, read)


DIGEST = "ab" * 32
SWEPT: dict[str, Any] = {"train.lr": 1e-4, "train.target_modules": ["q_proj"]}
SWEEP = {"format": 1, "runs": [{"folder": folder_of(SWEPT), "values": SWEPT}]}
BEST = {
    "folder": folder_of(SWEPT),
    "name": "a",
    "values": SWEPT,
    "step": 3,
    "held_out": 0.8,
    "is_sure": True,
    "finished": 1,
    "runs": 1,
}
CHECKED = {
    "version": 1,
    "files": {"0" * 64: {"size": 9, "frames": 24, "width": 64, "latents": "1", "alternates": ["genre"]}},
}
RECORD = {
    "kind": "commit", "generation": 1, "nonce": "a", "folder": "checkpoints/c", "step": 3,
    "files": {"training_state.json": {"size": 3, "sha256": DIGEST}}, "kept": ["checkpoints/c"],
    "origin": "", "machines": [{"threads": 1}],
}  # fmt: skip
TAKE_OVER: dict[str, Any] = {"kind": "take-over", "generation": 1, "nonce": "a", "number": 1}
NOTE = {
    "name": "checkpoint-step-3", "step": 3, "number": 1, "nonce": "a",
    "files": {"a.json": {"size": 1, "sha256": sha256(b"a").hexdigest()}},
}  # fmt: skip
SURVEY = {
    "count": 1, "measured": 1, "hours": 0.1, "without_caption": ["a.mp3"], "same_bytes": [["a", "b"]],
    "same_sound": [], "languages": {"en": 1}, "songs": {},
    **{name: {"song": "a.mp3", "value": 3.0} for name in ("shortest", "longest", "quietest", "loudest")},
}  # fmt: skip
PULLED = {"path": "a/b", "size": 3, "version": "1", "sha256": "ab"}
STATE = {
    "format": 1, "step": 3, "skipped": 0, "skipped_in_row": 0, "loss_scale": {"scale": 1.0},
    "evaluations": {"0": 1.5, "3": None}, "recipe": {"train.lr": 0.1}, "tensors": ["history.losses"],
    "machine": {"precision": "fp32", "attention": "sdpa", "threads": 1},
    "optimizer": {"kind": "AdamW", "groups": [{}], "numbers": {"a": {"step": 3}}},
}  # fmt: skip
STATUS = {
    "name": "a", "task": "train", "state": "running", "phase": "train", "step": 3, "steps": 9, "loss": 0.5,
    "seconds_left": 3.0, "steps_per_second": 2.0, "started": "2026-01-01T00:00:00Z",
    "heartbeat": "2026-01-01T00:00:00Z", "spent": {"attempts": 1, "seconds": {"train": 3.0}},
    "last_commit": {"folder": "c", "step": 3, "at": "2026-01-01T00:00:00Z"}, "learning_rate": 1e-4,
    "gpus": [{"index": 0, "name": "L4", "utilization": 93.0, "memory_used": 1, "memory_total": 2,
              "temperature": 61.0, "power": None}],
}  # fmt: skip
RECEIPT = {
    "name": "a", "spec_sha256": "ab", "inputs": {"model_variant": "base", "weights": "c", "dataset": "d"},
    "adapter": {"a.safetensors": {"size": 3, "sha256": "ab"}}, "steps": 3, "steps_skipped": 0,
    "loss_on_fixed_draws": {"first": 1.0, "last": None}, "attempts": 1, "preemptions": 0,
    "steps_repeated": 0, "seconds": {"train": 3.0}, "gpu_seconds": 0.0, "cost": 1.5, "machines": [],
    "bit_equality": "claimed",
}  # fmt: skip
HISTORY = {
    "losses": [1.0, None, 0.5], "running_mean": [1.0, 1.0, 0.9], "learning_rates": [0.1, 0.2, 0.1],
    "evaluations": {"0": 1.0, "3": None}, "songs": [{"name": "a", "seconds": 3.0, "caption": "b"}],
}  # fmt: skip
RANKING = {"recipe": {"seed": 1}, "modules": [{"module": "layers.0.self_attn.q_proj", "norm": 0.5}]}
INDEX = {
    "files": {"/songs/a.wav": {"size": 3, "version": "1", "sha256": "ab", "probed": 1.0}},
    "samples": {"/songs/a.wav": "key"}, "tensors": {"key": "ab"},
    "alternates": ["genre"], "shares": {"/songs/a.wav": {"repeats": 3, "weight": 0.5}},
}  # fmt: skip
SAMPLE = {"audio_path": "a.wav", "caption": "b", "lyrics": "[Verse]\nc", "bpm": 90}
DATASET = {
    "metadata": {"custom_tag": "x", "genre_ratio": 50},
    "samples": [SAMPLE],
}
SPEC = b"name: a\ntask: train\ncheckpoint_dir: m\ndataset_dir: t\noutput_dir: o\ntrain: {lr: 1e-4}\n"
SONG = Sample(torch.ones(3, 64), torch.ones(2, 8), torch.ones(3, 128), {"caption": "x", "bpm": 7})
SONG_OF_PROMPTS = replace(SONG, alternates={"genre": torch.ones(1, 8), "trigger": torch.ones(2, 8)})

LOADERS = {
    "spec": Loader(lambda: [SPEC], read_spec),
    "environment": Loader(lambda: [b"SIDESTEP_TRAIN__LR=1e-4\nSIDESTEP_NAME=a"], read_environment),
    "dataset": Loader(as_json(DATASET), lambda data, folder: read_dataset(data, "dataset.json")),
    "sidecar": Loader(
        lambda: [b"caption: a\nbpm: 90\nlyrics:\n[Verse]\nb"],
        lambda data, folder: read_sidecar(data, "a.txt"),
    ),
    "tensors": Loader(lambda: [sample_bytes(SONG), sample_bytes(SONG_OF_PROMPTS)], read_pt),
    "silence": Loader(files(MODEL / "silence_latent.pt"), silence),
    "lora": adapter("lora-attention", "adapter_model.safetensors"),
    "lora-config": adapter("lora-attention", "adapter_config.json"),
    "lokr": adapter("lokr-lowrank", "lokr_weights.safetensors"),
    "safetensors": Loader(
        files(ADAPTERS / "lokr-lowrank" / "lokr_weights.safetensors"),
        lambda data, folder: parse_tensors(data, "a.safetensors"),
    ),
    "state": Loader(as_json(STATE), lambda data, folder: read_numbers(data, "checkpoints/c")),
    "config": Loader(files(MODEL / "config.json"), lambda data, folder: whole_config(data, "a/config.json")),
    "shards": Loader(
        as_json({"weight_map": {"a": "a.safetensors"}}), lambda data, folder: shard_names(data, "index")
    ),
    "index": Loader(as_json(INDEX), in_store("index.json", read_index)),
    "record": Loader(as_json(RECORD), in_store("commits/000001.json", look_at_log)),
    "heartbeat": Loader(
        as_json({"beat": 3}),
        in_store("heartbeats/000001.json", lambda store: Watch(store, 1, Lease(60)).is_free()),
    ),
    "status": Loader(as_json(STATUS), in_store("status.json", look_at_status)),
    "status-of-a-shard": Loader(as_json(STATUS), in_store("shards/0-of-2/status.json", look_at_status)),
    "sweep": Loader(as_json(SWEEP), in_store("sweep.json", look_at_status)),
    "best": Loader(as_json(BEST), in_store("best.json", look_at_status, {"sweep.json": SWEEP})),
    "estimate": Loader(as_json(RANKING), in_store("estimate/report.json", read_ranking)),
    "receipt": Loader(as_json(RECEIPT), in_store("receipt.json", show_page, {"history.json": HISTORY})),
    "checked": Loader(as_json(CHECKED), in_store("checked.json", read_checked)),
    "history": Loader(as_json(HISTORY), in_store("history.json", show_page, {"receipt.json": RECEIPT})),
    "made": Loader(
        as_json({"record": 4, "files": {"job.yaml": DIGEST}}), in_store("made.json", look_at_made)
    ),
    "survey": Loader(as_json(SURVEY), in_store("dataset-report.json", look_at_survey)),
    "manifest": Loader(as_json({"samples": []}), in_store("manifest.json", lambda store: counted(store, {}))),
    "song-json": Loader(as_json(SAMPLE), in_store("a.json", look_at_texts)),
    "table": Loader(
        lambda: [b'filename,caption,bpm\n"a.wav","b, c",90\n', b"File\tLyrics\na\tb\n"],
        in_store("songs.csv", look_at_texts),
    ),
    "outbox": Loader(as_json(NOTE), in_store("note.json", look_at_outbox)),
    "pulled": Loader(as_json(PULLED), read_pulled),
    "mapped-tensors": Loader(lambda: [sample_bytes(SONG)], read_mapped),
    "settings": Loader(
        lambda: [b"output_dir: o\nvanilla: false\nruns: [a, b]\n"],
        of_the_user("settings.yaml", load_settings),
    ),
    "preset": Loader(
        lambda: [b"# mine\ntrain: {lr: 1e-4, adapter: {rank: 8}}\n"],
        of_the_user("presets/mine.yaml", use_preset),
    ),
    **MODELS,
    **{name.replace("a.", "", 1) if name.startswith("a.") else name: sound(name) for name in KINDS},
}
