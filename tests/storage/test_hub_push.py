"""Writing to the Hub when it stumbles, refuses, is full or is not the Hub: one commit or none, and why."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.bundle import Bundle
from sidestep.lifecycle.push import Cargo, push
from sidestep.runtime.errors import AccessError, BadSpecError, SideStepError, StorageError
from sidestep.storage import hub_push
from sidestep.storage.hub_push import Content, ModelRepository
from sidestep.storage.open import open_store
from sidestep.storage.retry import Limits, Retry
from tests.clock import Clock
from tests.facts import tells
from tests.given import write_adapter
from tests.hub import TOKEN, Hub
from tests.hub_writing import git_digest, sha256

CARGO = {"README.md": b"---\nlicense: mit\n---\n", "lokr_weights.safetensors": bytes(range(256)) * 40}


@pytest.fixture
def repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> ModelRepository:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    clock = Clock()
    monkeypatch.setattr("time.sleep", clock.sleep)  # huggingface_hub's own waits
    return ModelRepository("hf://me/blues", Limits(Retry(clock=clock, sleep=clock.sleep)))


def cargo(**more: bytes) -> Cargo:
    return Cargo.of(Bundle("blues", {**CARGO, **more}))


def sent(repository: ModelRepository) -> bool:
    return push(cargo(), repository, is_public=False, overwrite=False)


def is_whole(hub: Hub) -> bool:
    return CARGO.items() <= hub.head("me/blues").items() and hub.writes.count("commit me/blues") == 1


def test_digests_are_those_that_the_hub_goes_by(tmp_path: Path) -> None:
    data = CARGO["lokr_weights.safetensors"] * 300  # more than a block
    (tmp_path / "file").write_bytes(data)
    for content in (Content(data), Content(tmp_path / "file")):
        assert (content.size, content.sha256, content.git) == (len(data), sha256(data), git_digest(data))


def test_large_files_go_in_parts_where_the_hub_wants_it(hub: Hub, repository: ModelRepository) -> None:
    hub.part = 1000
    assert constants.HF_HUB_DISABLE_XET, "the stand-in knows the path that is really taken"
    assert sent(repository) and is_whole(hub)
    assert sum(write.startswith("upload") for write in hub.writes) == 11


@pytest.mark.parametrize("word", ["validate", "create", "preupload", "upload", "commit"])
@pytest.mark.parametrize("fault", [(503, "busy"), "cut"], ids=["busy", "cut"])
def test_stumbles_pass(
    hub: Hub, repository: ModelRepository, word: str, fault: tuple[int, str] | str
) -> None:
    hub.refusals[word] = [fault]
    assert sent(repository) and is_whole(hub)


@pytest.mark.parametrize("word", ["create", "commit"])
def test_a_lost_answer_is_no_second_commit(hub: Hub, repository: ModelRepository, word: str) -> None:
    hub.refusals[word] = ["lost"]
    assert sent(repository) and is_whole(hub)
    assert hub.writes.count("create me/blues") == 1
    assert not sent(repository)


def test_somebody_else_commits_meanwhile(
    hub: Hub, repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, others = ModelRepository.commit, [b"theirs"]

    def commit(self: ModelRepository, *rest: object) -> object:
        if others:
            hub.push("me/blues", {**hub.head("me/blues"), "cover.png": others.pop()})
        return original(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRepository, "commit", commit)
    with pytest.raises(SideStepError, match="cover"):  # it is no empty repository any more
        sent(repository)
    assert hub.writes.count("commit me/blues") == 0
    assert push(cargo(), repository, is_public=False, overwrite=True)
    others.append(b"theirs again")
    assert push(cargo(more=b"1"), repository, is_public=False, overwrite=False)
    assert hub.head("me/blues")["cover.png"] == b"theirs again" and hub.head("me/blues")["more"] == b"1"


def test_what_was_cut_off_is_not_sent_twice(hub: Hub, repository: ModelRepository) -> None:
    hub.refusals["commit"] = [(503, "busy")] * 99  # more than any row of tries
    with pytest.raises(StorageError, match="503"):
        sent(repository)
    hub.refusals.clear()
    assert sent(repository) and is_whole(hub)
    assert len([write for write in hub.writes if write.startswith("upload")]) == 1


@pytest.mark.parametrize(
    ("word", "refusal", "kind", "told"),
    [
        ("commit", (403, "Private repository storage limit reached"), StorageError, "room"),
        ("commit", (507, "full"), StorageError, "room"),
        ("batch", (403, "quota exceeded"), StorageError, "quota exceeded"),
        ("preupload", (403, "Authorization error"), AccessError, "Authorization error"),
        ("create", (402, "Payment required"), StorageError, "room"),
        ("create", (400, "Invalid repo name"), BadSpecError, "Invalid repo name"),
        ("create", (429, "slowly"), StorageError, "429"),
        ("validate", "page", BadSpecError, "HF_ENDPOINT"),
        ("create", "page", BadSpecError, "HF_ENDPOINT"),
        ("preupload", "page", BadSpecError, "HF_ENDPOINT"),
        ("commit", "page", BadSpecError, "HF_ENDPOINT"),
    ],
)
def test_what_the_hub_refuses(
    hub: Hub,
    repository: ModelRepository,
    word: str,
    refusal: tuple[int, str] | str,
    kind: type[SideStepError],
    told: str,
) -> None:
    hub.refusals[word] = [refusal] * 30
    with pytest.raises(kind) as refused:
        sent(repository)
    assert tells(str(refused.value), "hf://me/blues", told) and TOKEN not in str(refused.value)
    assert "commit me/blues" not in hub.writes


def test_nobody_is_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    clock = Clock()
    monkeypatch.setattr("time.sleep", clock.sleep)
    repository = ModelRepository("hf://me/blues", Limits(Retry(clock=clock, sleep=clock.sleep)))
    with pytest.raises(StorageError, match="out of reach"):
        sent(repository)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        sent(repository)


@pytest.mark.parametrize(
    "endpoint", ["hub.example.org", "ftp://hub.example.org", "https://", "http:// me:secret@x"]
)
@pytest.mark.parametrize("opened", [ModelRepository, lambda place: open_store(place, StorageSpec())])
def test_an_endpoint_that_is_no_address(
    endpoint: str, opened: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No try can help, so none is made."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(BadSpecError, match="HF_ENDPOINT") as refused:
        opened("hf://me/blues")
    assert "secret" not in str(refused.value)


def test_an_answer_that_never_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub_push, "ANSWER_SECONDS", 0.3)
    clock = Clock()
    repository = ModelRepository("hf://me/blues", Limits(Retry(clock=clock, sleep=clock.sleep)))
    hub.refusals["validate"] = ["hang"] * 99
    with pytest.raises(StorageError, match="ReadTimeout"):
        sent(repository)


@pytest.mark.parametrize("word", ["upload", "commit"])
def test_a_kill_in_the_middle_leaves_nothing_half(hub: Hub, tmp_path: Path, word: str) -> None:
    """The real command is killed while the Hub has its file, or its commit, and does not answer."""
    adapter = write_adapter(tmp_path / "given")
    line = [sys.executable, "-m", "sidestep", "push", str(adapter), "hf://me/blues"]
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "PATH": "", "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    hub.refusals[word] = ["hang"]
    process = subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        while hub.refusals[word]:
            assert process.poll() is None
            threading.Event().wait(0.05)
    finally:
        process.kill()
        process.communicate()
    assert hub.head("me/blues").keys() == {".gitattributes"}
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.head("me/blues")["adapter_model.safetensors"]
    assert hub.writes.count("create me/blues") == hub.writes.count("commit me/blues") == 1
    assert TOKEN not in done.stderr
