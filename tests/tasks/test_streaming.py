"""Tensors of a bucket are fetched when they are due, and train what those of this machine do."""

import time
from pathlib import Path
from typing import Any

import pytest

from sidestep.acestep.loading import read_silence
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.data.checked import write_checked
from sidestep.data.index import Index, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.job import Job
from sidestep.runtime.errors import AgainError, BadDataError, MissingInputError, StorageError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.s3 import S3Store
from sidestep.tasks import run
from sidestep.training import rng
from sidestep.training.dataset import Samples
from sidestep.training.loop import Trainer
from tests.facts import facts
from tests.ranks import together
from tests.s3 import S3Server
from tests.songs import MakeSpec, flip_a_bit, sha256


@pytest.fixture
def tensors(make_spec: MakeSpec, tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """The three songs of `make_spec`, with what preprocessing says of them."""
    folder = tmp_path / "tensors"
    store = open_store(str(folder), StorageSpec())
    digests = {file.stem: sha256(file.read_bytes()) for file in folder.glob("*.pt")}
    write_index(store, Index(samples={f"/s/{key}": key for key in digests}, tensors=digests))
    silence = read_silence(next(tiny_checkpoints.rglob("silence_latent.*")))
    write_checked(
        store, Samples.pull(Preprocessed(store), Workspace(tmp_path / "work"), silence=silence).checked
    )
    return folder


@pytest.fixture
def remote(
    make_spec: MakeSpec, tensors: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """A spec that trains on them in a bucket, with a workspace of its own."""

    def make(output: str = "out", cache_gb: float | None = None, **changes: Any) -> JobSpec:
        store = s3_server.store("tensors")
        for file in tensors.iterdir():
            store.write_bytes(file.name, file.read_bytes())
        settings = {"endpoint_url": s3_server.endpoint, "cache_gb": cache_gb, "connections": 2}
        spec = make_spec(output, dataset_dir=store.place, storage=settings, **changes)
        return spec.changed({"runtime.workspace": str(tmp_path / f"work of {output}")})

    return make


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that are fetched."""
    names: list[str] = []
    download = S3Store.download

    def noted(self: S3Store, path: str, *more: Any) -> Any:
        if path.endswith(".pt"):
            names.append(path)
        return download(self, path, *more)

    monkeypatch.setattr(S3Store, "download", noted)
    return names


def test_a_start_fetches_none_and_the_adapter_is_the_same(
    make_spec: MakeSpec, remote: Any, fetched: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two songs fit, and a third one does not."""
    at_start: list[int] = []

    def noted(self: Trainer) -> float:
        at_start.append(len(fetched))
        return 1.0

    monkeypatch.setattr(Trainer, "evaluate", noted)
    settings = {"epochs": 2, "accumulation": 1}
    local = make_spec("local", **settings)
    sizes = sorted(file.stat().st_size for file in (tmp_path / "tensors").glob("*.pt"))
    spec = remote(cache_gb=(sum(sizes[1:]) + 1) / 1e9, **settings)
    weights = []
    for one in (local, spec):
        result = run(one)
        assert result and result.steps == 6
        weights.append((Path(str(one.output_dir)) / "adapter" / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert at_start[2] == 0, "nothing is fetched before the first draw"
    assert set(fetched) == {"0.pt", "1.pt", "2.pt"} and len(fetched) > 3
    copies = list((tmp_path / "work of out" / "pulled").rglob("*.pt"))
    assert len(copies) == 2


def test_the_checks_and_the_task_each_list_and_read_the_index_once(
    remote: Any, s3_calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the songs' names, shares and prompts are asked for."""
    monkeypatch.setattr(Trainer, "evaluate", lambda self: 1.0)
    spec = remote(epochs=1, accumulation=1, repeats={"0": 2}, validation={"songs": ["1"]})
    s3_calls.clear()
    assert run(spec)
    assert s3_calls.count("ListObjectsV2 tensors/") == 2
    assert s3_calls.count("GetObject tensors/index.json") == 2
    assert s3_calls.count("GetObject tensors/checked.json") == 1


@pytest.mark.parametrize("damage", ["flipped", "gone", "out of reach"])
def test_a_song_that_is_bad_when_it_is_due(
    remote: Any, damage: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was made before is committed. The listing is as it was: only the song itself shows it."""
    spec, store = remote(epochs=1, accumulation=1), s3_server.store("tensors")
    monkeypatch.setattr(Trainer, "evaluate", lambda self: 1.0)
    last = _order(spec)[-1]
    if damage == "flipped":
        flip_a_bit(tmp_path / "tensors" / f"{last}.pt")
        store.write_bytes(f"{last}.pt", (tmp_path / "tensors" / f"{last}.pt").read_bytes())
        wanted: type[Exception] = BadDataError
    elif damage == "out of reach":
        download = S3Store.download

        def unreachable(self: S3Store, path: str, *more: Any) -> Any:
            if path == f"{last}.pt":
                raise StorageError(f"{self.place}/{path} is out of reach")
            return download(self, path, *more)

        monkeypatch.setattr(S3Store, "download", unreachable)
        wanted = StorageError
    else:
        pull = Samples.pull

        def gone_later(*given: Any, **named: Any) -> Samples:
            samples = pull(*given, **named)
            store.delete(f"{last}.pt")
            return samples

        monkeypatch.setattr(Samples, "pull", gone_later)
        wanted = MissingInputError
    with pytest.raises(wanted, match=facts(f"{store.place}/{last}.pt")):
        run(spec)
    assert _committed(spec) == 2
    assert not list((tmp_path / "work of out").rglob(f"{last}.pt")), "a bad copy does not stay"


def test_notice_does_not_wait_for_a_song(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = remote(epochs=1, accumulation=1)
    monkeypatch.setattr(Trainer, "evaluate", lambda self: 1.0)
    hung: list[str] = []
    preemption, last = Preemption(), f"{_order(spec)[-1]}.pt"
    download = S3Store.download

    def hang(self: S3Store, path: str, *more: Any) -> Any:
        if path == last:
            time.sleep(6)
            hung.append(path)
        return download(self, path, *more)

    wait, waits = Trainer._is_drawn, list[int]()

    def notice_comes(self: Trainer) -> bool:
        waits.append(1)
        if len(waits) == 3:
            preemption.request()
        return wait(self)

    monkeypatch.setattr(S3Store, "download", hang)
    monkeypatch.setattr(Trainer, "_is_drawn", notice_comes)
    with pytest.raises(AgainError):
        run(spec, preemption)
    assert hung == [], "it was not waited for"
    assert _committed(spec) == 2


@pytest.mark.slow
def test_several_processes_make_the_same_adapter(make_spec: MakeSpec, remote: Any, tmp_path: Path) -> None:
    settings = {"epochs": 3, "accumulation": 2}
    size = max(file.stat().st_size for file in (tmp_path / "tensors").glob("*.pt"))
    assert run(make_spec("local", **settings))
    assert together(remote(cache_gb=2.5 * size / 1e9, **settings), 2) == [0, 0]
    local, streamed = (
        (tmp_path / output / "adapter" / "adapter_model.safetensors").read_bytes()
        for output in ("local", "out")
    )
    assert local == streamed


def _order(spec: JobSpec) -> tuple[int, ...]:
    return rng.order(spec.train.seed, 0, 3)


def _committed(spec: JobSpec) -> int:
    log = Job(spec).commits
    newest = log.newest_commit(log.tail())
    return newest.step if newest else 0
