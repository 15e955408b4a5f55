"""`sidestep push`: what gets onto the Hub, what is left alone there, and what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.lifecycle.push import MANIFEST
from sidestep.storage.retry import Limits, Retry
from tests.clock import Clock
from tests.facts import tells
from tests.given import write_adapter
from tests.hub import TOKEN, Hub

PLACE = "hf://me/blues"
SENT = {
    ".gitattributes",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "card.json",
    MANIFEST,
}

Push = Callable[..., int]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "given")


@pytest.fixture
def push(hub: Hub, monkeypatch: pytest.MonkeyPatch, adapter: Path) -> Push:
    """The command, with a token that may write to me/…; time passes without waiting."""
    clock = Clock()
    monkeypatch.setattr(
        "sidestep.storage.hub_push.LIMITS", Limits(Retry(clock=clock, sleep=clock.sleep), read_seconds=5)
    )
    monkeypatch.setattr("time.sleep", clock.sleep)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*flags: str, place: str = PLACE, of: Path = adapter) -> int:
        return main(["push", str(of), place, *flags])

    return run


def commits(hub: Hub) -> int:
    return sum(write.startswith("commit") for write in hub.writes)


def test_it_is_private_whole_and_pushed_once(
    hub: Hub, push: Push, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert push() == 0
    sent = hub.head("me/blues")
    assert sent.keys() == SENT and "me/blues" in hub.private
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert sent[name] == (adapter / name).read_bytes()
    readme = sent["README.md"].decode()
    assert tells(
        readme, 'base_model: "ACE-Step/acestep-v15-base"', 'license: "cc-by-4.0"', "zk", "thinking off"
    )
    assert json.loads(sent["card.json"])["steps"] == 8
    assert tells(caplog.text, "me/blues", "Pushed")
    writes = list(hub.writes)
    caplog.clear()
    assert push() == 0
    assert hub.writes == writes and tells(caplog.text, "there already")


def test_another_adapter_takes_the_place_of_the_first(hub: Hub, push: Push, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first")
    (first / "README.md").write_text("---\nlicense: mit\n---\n")
    (first / "card.json").write_text('{"samples": ["samples/a.flac"]}')
    (first / "samples").mkdir()
    (first / "samples" / "a.flac").write_bytes(b"sound")
    assert push(of=first) == 0
    assert hub.head("me/blues")["samples/a.flac"] == b"sound"
    hub.push("me/blues", {**hub.head("me/blues"), "cover.png": b"theirs"})
    second = write_adapter(tmp_path / "second", seed=2)
    assert push(of=second) == 0
    now = hub.head("me/blues")
    assert now.keys() == SENT | {"cover.png"}, "what an earlier push had put there alone is gone"
    assert now["adapter_model.safetensors"] == (second / "adapter_model.safetensors").read_bytes()


def test_what_was_edited_on_the_hub_stays(
    hub: Hub, push: Push, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert push() == 0
    edited = {**hub.head("me/blues"), "README.md": b"---\nlicense: mit\n---\nbetter words"}
    hub.push("me/blues", edited)
    newer = write_adapter(tmp_path / "newer", seed=3)
    assert push(of=newer) == 64
    assert hub.head("me/blues") == edited
    assert tells(caplog.text, "README.md", PLACE, "--overwrite")
    assert push("--overwrite", of=newer) == 0
    assert b"better words" not in hub.head("me/blues")["README.md"]


@pytest.mark.parametrize(
    "theirs",
    [
        {"README.md": b"a model of mine"},
        {"model.safetensors": b"weights"},
        {MANIFEST: b"{", "card.json": b"{}"},
    ],
    ids=["a card", "a model", "a damaged list"],
)
def test_a_repository_of_something_else_is_left_alone(
    hub: Hub, push: Push, theirs: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    hub.private.add("me/blues")
    hub.push("me/blues", theirs)
    assert push() == 64
    assert hub.head("me/blues") == theirs and not hub.writes
    assert tells(caplog.text, min(theirs.keys() - {MANIFEST}), "--overwrite")
    assert push("--overwrite") == 0
    assert hub.head("me/blues").keys() == (SENT - {".gitattributes"}) | theirs.keys()


def test_an_empty_repository_that_was_made_by_hand_will_do(hub: Hub, push: Push) -> None:
    hub.private.add("me/blues")
    hub.push("me/blues", {".gitattributes": b""})
    assert push() == 0
    assert hub.head("me/blues").keys() == SENT


def test_it_is_public_only_where_that_is_said(hub: Hub, push: Push, caplog: pytest.LogCaptureFixture) -> None:
    assert push("--public") == 0
    assert not hub.private
    caplog.clear()
    assert push() == 64
    assert tells(caplog.text, "public", "--public")
    hub.private.add("me/blues")
    assert push("--public") == 0
    assert "me/blues" in hub.private


def test_a_dry_run_shows_and_sends_nothing(
    hub: Hub, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert push("--dry-run") == 0
    assert not hub.writes and not hub.revisions
    assert tells(caplog.text, *(f"add     {name}" for name in SENT - {".gitattributes"}), "--dry-run")
    assert push() == 0
    writes = list(hub.writes)
    caplog.clear()
    assert push("--dry-run", of=write_adapter(tmp_path / "newer", seed=1, steps=9)) == 0
    assert tells(caplog.text, "replace adapter_model", "keep    adapter_config", "replace README.md")
    assert hub.writes == writes
    monkeypatch.delenv("HF_TOKEN")
    caplog.clear()
    assert push("--dry-run") == 0
    assert tells(caplog.text, "HF_TOKEN", "add     card.json")


def test_the_token_comes_from_the_environment_alone(
    hub: Hub, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    login = tmp_path / "token"
    login.write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(login))
    assert push() == 77
    assert not hub.asked and not hub.writes
    assert tells(caplog.text, PLACE, "HF_TOKEN")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("hf://you/blues", "HF_TOKEN"),
        ("hf://them/open", "HF_TOKEN"),
    ],
)
def test_where_the_token_may_not_write(
    hub: Hub, push: Push, place: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.push("them/open", {".gitattributes": b""})
    assert push("--public", place=place) == 77
    assert tells(caplog.text, place, told, "403") and TOKEN not in caplog.text
    assert not hub.writes


def test_a_token_that_has_expired(
    hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of-yesterday-and-no-more")
    assert push() == 77
    assert tells(caplog.text, PLACE, "HF_TOKEN", "expired")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("hf://datasets/me/blues", "dataset"),
        ("hf://spaces/me/blues", "space"),
        ("hf://me/blues@v1", "revision"),
        ("hf://me/blues/folder", "folder"),
        ("hf://blues", "hf://owner/name"),
        ("hf://me/blues..", "hf://me/blues.."),
        ("s3://bucket/blues", "hf://owner/name"),
    ],
)
def test_places_that_are_no_model_repository(
    hub: Hub, push: Push, place: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert push("--dry-run", place=place) == 78
    assert tells(caplog.text, place, told)
    assert not hub.asked


@pytest.mark.parametrize(
    ("readme", "told"),
    [
        ("no front matter", "front matter"),
        ("---\nlicense: cc-by-4\n---\n", "cc-by-4"),
        ("---\nlicense: mit\nbase_model:\n---\n", "base_model"),
        ("---\nlicense: [mit\n---\n", "front matter"),
    ],
)
def test_a_card_that_the_hub_would_refuse_sends_nothing(
    hub: Hub, push: Push, adapter: Path, readme: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    (adapter / "card.json").write_text("{}")
    (adapter / "README.md").write_text(readme)
    assert push() == 65
    assert tells(caplog.text, "README.md", told)
    assert not hub.writes and not hub.asked


def test_what_the_hub_alone_refuses_is_found_before_anything_is_made(
    hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tests.hub_writing.LICENSES", frozenset({"mit"}))
    assert push() == 65
    assert tells(caplog.text, "README.md", '"license" must be one of')
    assert not hub.writes and not hub.revisions


@pytest.mark.parametrize("where", ["header", "README.md", "card.json", "adapter_config.json"])
def test_no_secret_is_sent(
    hub: Hub,
    push: Push,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-0123456789")
    if where == "header":
        write_adapter(adapter, note="", header={"of": "canary-0123456789"})
        (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    else:
        (adapter / "card.json").write_text("{}")
        (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
        text = (adapter / where).read_text()
        canary = '{"a": "canary-0123456789"}' if where.endswith(".json") else f"{text}canary-0123456789"
        (adapter / where).write_text(canary)
    assert push() == 65
    assert tells(caplog.text, where, "secret") and "canary" not in caplog.text
    assert not hub.writes


def test_no_path_of_a_machine_is_sent(
    hub: Hub, push: Push, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "/home/somebody/checkpoints"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert push() == 65
    assert tells(caplog.text, "base_model_name_or_path", "/home/somebody")
    assert not hub.writes


def test_an_adapter_that_says_nothing_of_itself_needs_a_card(
    hub: Hub, push: Push, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = write_adapter(tmp_path / "foreign", header={})
    assert push(of=foreign) == 66
    assert tells(caplog.text, "foreign", "README.md", "base_model")
    (foreign / "README.md").write_text("---\nlicense: mit\nbase_model: ACE-Step/Ace-Step1.5\n---\nMine.\n")
    assert push(of=foreign) == 0
    assert hub.head("me/blues")["README.md"].endswith(b"Mine.\n")
    assert push(of=tmp_path / "nowhere") == 66
