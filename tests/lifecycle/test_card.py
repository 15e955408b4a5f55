"""What a published adapter says of itself: in its header, in card.json, and in README.md beside it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.cli import main
from sidestep.commitlog.lease import Lease
from sidestep.data.card import HEADER, position_of, triggers_of
from sidestep.lifecycle.card import keep_card
from sidestep.lifecycle.publish import publish_checkpoint
from sidestep.runtime.tensorfiles import read_metadata
from sidestep.runtime.workspace import open_workspace
from tests.facts import tells
from tests.runs import EVERY_STEP, adapter, log_of, train, train_until_stopped
from tests.songs import MakeSpec

FILES = {"lora": "adapter_model.safetensors", "lokr": "lokr_weights.safetensors"}
SECRET = "AKIA0123456789CANARY"


def tagged(folder: Path, word: str) -> None:
    """Give the songs in `folder` a trigger word, the first of their captions."""
    for file in sorted(folder.glob("*.pt")):
        song = torch.load(file, weights_only=True)
        song["metadata"] |= {"custom_tag": word, "caption": f"{word}, slow blues"}
        torch.save(song, file)


def card_of(output: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((output / "adapter" / "card.json").read_bytes())
    return card


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FILES, "dora"])
def test_it_names_everything_and_is_the_same_after_an_interruption(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    own = {"type": kind, "rank": 2} if kind in FILES else {"rank": 2, "weight_decompose": True}
    kind, name = (kind, kind) if kind in FILES else ("lora", kind)
    changes = {**EVERY_STEP, "adapter": own, "validation": {"songs": ["*2*"]}}
    spec = make_spec(**changes).changed({"inference.guidance": 4.5, "card.license": "CC-BY-4.0"})
    tagged(Path(spec.tensors_place), "zk|x`y")
    whole = spec.changed({"output_dir": str(tmp_path / "whole")})
    train(whole)
    train_until_stopped(spec, monkeypatch, commits=2)
    train(spec.changed({"card.license": "mit"}))  # the run has said another one already
    assert adapter(spec).keys() == adapter(whole).keys() >= {"card.json", "README.md", FILES[kind]}
    assert adapter(spec)[FILES[kind]] == adapter(whole)[FILES[kind]]
    card = card_of(tmp_path / "whole")
    assert (card["kind"], card["rank"], card["name"]) == (kind, 2, spec.name)
    assert card["base"]["variant"] == "base"
    assert card["triggers"] == [{"word": "zk|x`y", "position": "prepend", "songs": 2}]
    assert (card["thinking"], card["license"]) == ("off", "cc-by-4.0")
    assert card["suggested"] == {"steps": 50, "guidance": 4.5, "shift": 1.0, "strength": 1.0}
    assert (card["songs"], card["songs_held_out"], card["steps"]) == (2, 1, 4)
    assert card["held_out"]["step"] == 4 and card["held_out"]["loss"] > 0
    assert all(card["use"][reader] for reader in ("app", "comfyui", "diffusers"))
    said = json.loads(read_metadata(tmp_path / "whole" / "adapter" / FILES[kind])[HEADER])
    assert (said["kind"], said["steps"], said["license"]) == (kind, 4, "cc-by-4.0")
    page = adapter(whole)["README.md"].decode()
    assert ("DoRA" in page) is (name == "dora") is card["weight_decompose"]
    assert tells(page, "zk\\|x`y", "thinking off", "cc-by-4.0", FILES[kind], "guidance 4.5")
    for data in adapter(whole).values():
        assert not any(text.encode() in data for text in (SECRET, str(tmp_path)))


def test_what_is_damaged_is_mended_without_the_commit(
    make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(**EVERY_STEP)
    train(spec)
    made, folder = adapter(spec), tmp_path / "out" / "adapter"
    (folder / "card.json").unlink()
    (folder / "README.md").write_text("a page of somebody else's")
    train(spec)
    assert adapter(spec) == made
    times = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    caplog.set_level(logging.INFO)
    train(spec)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == times
    older = publish_checkpoint(log_of(spec), open_workspace(None), Lease(1), "checkpoint-step-6")
    assert card_of(tmp_path / "out")["steps"] == older.step < json.loads(made["card.json"])["steps"]


def test_what_the_receipt_says_of_generating_wins(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(**EVERY_STEP)
    train(spec)
    receipt = tmp_path / "out" / "receipt.json"
    said = json.loads(receipt.read_bytes()) | {
        "inference": {"num_inference_steps": 20, "shift": 2.5, "strength": 0.8}
    }
    receipt.write_text(json.dumps(said))
    keep_card(log_of(spec).store, lambda: None)
    assert card_of(tmp_path / "out")["suggested"] == {
        "steps": 20,
        "guidance": 7.0,
        "shift": 2.5,
        "strength": 0.8,
    }


def test_a_run_of_an_older_version_says_what_it_has_said(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(**EVERY_STEP)
    with monkeypatch.context() as patch:
        patch.setattr("sidestep.tasks.train._facts", lambda *rest: None)
        train_until_stopped(spec, monkeypatch, commits=2)
    train(spec)
    assert adapter(spec).keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert HEADER not in read_metadata(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    before = adapter(spec)
    train(spec)
    assert adapter(spec) == before


def test_what_is_made_of_others_says_of_what(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(**EVERY_STEP, adapter={"rank": 4})
    tagged(Path(spec.tensors_place), "zk")
    train(spec)
    out = str(tmp_path / "out")
    model = ["--checkpoint-dir", spec.checkpoint_dir]
    assert main(["resize", out, "--rank", "2", "--output", f"{tmp_path}/small", *model]) == 0
    assert (
        main(["merge", out, f"{tmp_path}/small", "--weights", "1,0.5", "--output", f"{tmp_path}/sum", *model])
        == 0
    )
    small, both = (json.loads((tmp_path / name / "card.json").read_bytes()) for name in ("small", "sum"))
    assert (small["rank"], small["steps"], len(small["made_of"])) == (2, 8, 1)
    assert (both["rank"], both["steps"], [part["weight"] for part in both["made_of"]]) == (6, None, [1, 0.5])
    assert small["triggers"][0]["word"] == both["triggers"][0]["word"] == "zk"
    assert small["base"] == both["base"] == card_of(tmp_path / "out")["base"]
    assert main(["resize", out, "--rank", "2", "--output", f"{tmp_path}/small", *model]) == 0  # nothing to do
    assert "made of" in (tmp_path / "sum" / "README.md").read_text()


@pytest.mark.parametrize(
    ("caption", "position"),
    [("zk, a song", "prepend"), ("a song, zk", "append"), ("zk", "replace"), ("a song by zkman", None)],
)
def test_where_a_trigger_word_stands(caption: str, position: str | None) -> None:
    assert position_of("zk", caption) == position


def test_the_commonest_trigger_word_is_the_first() -> None:
    songs = [("b", "b, x"), ("a", "a, x"), ("a", "a, y"), ("", "no word")]
    assert [(each.word, each.songs) for each in triggers_of(songs)] == [("a", 2), ("b", 1)]


def test_a_license_that_the_hub_does_not_know_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["train", "--dataset-dir", "t", "--output-dir", "o", "--license", "cc-by-4"]) == 78
    assert tells(caplog.text, "card.license", "cc-by-4.0", "other")
