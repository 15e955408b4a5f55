"""An adapter from a run to the Hub, and from there into another run: what arrives is what was trained."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.lifecycle.adapter_files import find_adapter
from sidestep.lifecycle.push import MANIFEST
from sidestep.sampling.takes import Prompt, Samples, Take
from tests.facts import tells
from tests.hub import TOKEN, Hub
from tests.runs import EVERY_STEP, adapter, outcome, train
from tests.songs import MakeSpec

PLACE = "hf://me/blues"
SECRET = "AKIA0123456789CANARY"
FILES = {
    "lora": {"adapter_model.safetensors", "adapter_config.json"},
    "lokr": {"lokr_weights.safetensors", "diffusers_lokr_weights.safetensors"},
}


@pytest.fixture(autouse=True)
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_it_is_pushed_pulled_and_begun_with(
    hub: Hub, make_spec: MakeSpec, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {
        **EVERY_STEP,
        "adapter": {"type": kind, "rank": 2},
        "validation": {"songs": ["*2*"], "draws": 2},
    }
    spec = make_spec(**settings)
    train(spec)
    assert main(["push", spec.output_place, PLACE]) == 0
    sent = hub.head("me/blues")
    assert sent.keys() == FILES[kind] | {"card.json", "README.md", MANIFEST, ".gitattributes"}
    assert adapter(spec).items() <= sent.items()
    for data in sent.values():
        assert not any(text.encode() in data for text in (SECRET, TOKEN, str(tmp_path), "127.0.0.1"))
    caplog.set_level(logging.INFO)
    assert main(["push", spec.output_place, PLACE]) == 0
    assert tells(caplog.text, "there already") and hub.writes.count("commit me/blues") == 1
    local, pulled = (
        make_spec(name, **settings, init_from=place)
        for name, place in (("local", f"{spec.output_place}/adapter"), ("pulled", PLACE))
    )
    train(local)
    train(pulled)
    made, losses = outcome(pulled)
    assert losses == outcome(local)[1]
    weights = [name for name in FILES[kind] if name.endswith(".safetensors")]
    assert all(made[name] == outcome(local)[0][name] != sent[name] for name in weights)


def test_sound_that_was_made_with_it_goes_along(hub: Hub, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(**EVERY_STEP)
    train(spec)
    digest = find_adapter(spec.output_place, spec.storage).digest()
    rest: dict[str, Any] = {"seed": 1, "steps": 8, "guidance": 1, "shift": 3, "seconds": 1, "loudness": -9}
    how = {"prompt": 0, **rest}
    takes = [
        Take(file="01-base.flac", strength=0, checkpoint=None, adapter=None, **how),
        Take(file="01-with-it.flac", strength=1, checkpoint="adapter", adapter=digest, **how),
        Take(file="01-older.flac", strength=1, checkpoint="checkpoint-epoch-1", adapter="0" * 64, **how),
    ]
    listen = tmp_path / "out" / "listen"
    listen.mkdir()
    for take in takes:
        (listen / take.file).write_bytes(take.file.encode())
    prompts = [Prompt(caption="a secret song")]
    (listen / "samples.json").write_bytes(
        Samples(variant="v", weights="w", prompts=prompts, takes=takes).content()
    )
    assert main(["push", f"{spec.output_place}/adapter", PLACE]) == 0
    sent = hub.head("me/blues")
    assert [path for path in sent if path.endswith(".flac")] == ["samples/01-with-it.flac"]
    assert json.loads(sent["card.json"])["samples"] == ["samples/01-with-it.flac"]
    assert b"](samples/01-with-it.flac)" in sent["README.md"]
    assert not any(b"a secret song" in data for data in sent.values())
    train(spec)  # mends the card in the output, which says where the sound is there
    assert json.loads(adapter(spec)["card.json"])["samples"] == ["../listen/01-with-it.flac"]
    (listen / "01-with-it.flac").unlink()
    assert main(["push", spec.output_place, PLACE]) == 0
    assert not any(path.endswith(".flac") for path in hub.head("me/blues"))


def test_an_output_whose_adapter_is_not_what_it_published(
    hub: Hub, make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(**EVERY_STEP)
    train(spec)
    config = tmp_path / "out" / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 5'))
    assert main(["push", spec.output_place, PLACE]) == 65
    assert tells(caplog.text, tmp_path / "out", "sidestep publish") and not hub.writes
    train(spec)
    assert main(["push", spec.output_place, PLACE]) == 0
