"""The page: whole, of one file, and nothing that a song says is more than text."""

import json
import logging
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.data.survey import Survey, write_survey
from sidestep.report.page import FILE, page, write_report
from sidestep.sampling.takes import Prompt, Samples, Take
from sidestep.storage.store import Store
from tests.facts import tells
from tests.report.conftest import HOSTILE

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """The page's text, its tags, and whether each is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_parts_are_there(output: Store, spec: JobSpec) -> None:
    read = Reader(page(output, spec))
    words = re.sub(r"\s+", " ", read.text)
    assert "LoRA adapter for acestep-v15-base, trained on 3 songs, 1 h 10 min of music" in words
    for part in ("Result", "Loss", "Learning rate", "Sensitivities", "Songs", "Settings", "Receipt"):
        assert part in words
    for fact in (
        "3.0374",
        "1.5204",
        "1 h 06 min",
        "0.44",
        "8 more modules",
        "ab" * 32,
        "cd" * 32,
        "3 min 20 s",
    ):
        assert fact in words
    for setting in ("optimizer type ?adamw", "deterministic ?yes", "anonymous ?no", "resume from ?–"):
        assert re.search(setting, words)
    assert ("circle", True) in {(tag, "cx" in attributes) for tag, attributes in read.tags}
    bars = [attributes["width"] for tag, attributes in read.tags if tag == "rect" and "rx" in attributes]
    assert bars[:4] == ["100.0", "50.0", "33.3", "25.0"], "of the most sensitive module's"
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_what_the_dataset_is(output: Store, spec: JobSpec) -> None:
    assert "Dataset" not in Reader(page(output, spec)).text
    survey = Survey(count=7, measured=7, hours=0.5, without_caption=[f"{HOSTILE}.wav"], languages={"en": 7})
    elsewhere = output.child("elsewhere")
    write_survey(elsewhere, survey)
    assert "en 7" in Reader(page(output, spec, elsewhere)).text
    write_survey(output.child("tensors"), survey)
    read = Reader(page(output, spec))
    assert all(said in read.text for said in ("Dataset", "en 7", f"{HOSTILE[:8]}"))


def test_what_was_heard_is_beside_it(output: Store, spec: JobSpec) -> None:
    """A sound whose file is gone is not shown, nor a picture; a list that is damaged costs no report."""
    folder, taken = output.child("samples"), {"seed": 1, "steps": 8, "guidance": 7, "shift": 1, "seconds": 9}
    at: list[tuple[str | None, str]] = [
        (None, "a"),
        ("checkpoint-epoch-9", "b"),
        ("checkpoint-epoch-10", "c"),
    ]
    samples = Samples(
        variant="base",
        weights="abc",
        prompts=[Prompt(caption=HOSTILE, source="held-out"), Prompt(caption="never made")],
    )
    for checkpoint, name in reversed(at):
        made = {"prompt": 0, "strength": 1, "checkpoint": checkpoint, "adapter": None, "loudness": -14}
        samples.put(Take.model_validate({**made, **taken, "file": f"{name}.flac"}))
    for name in ("a.flac", "a.png", "b.flac"):
        folder.write_bytes(name, b"sound")
    folder.write_bytes("samples.json", samples.content())
    html = page(output, spec)
    read = Reader(html)
    assert [tag["src"] for kind, tag in read.tags if kind == "audio"] == ["samples/a.flac", "samples/b.flac"]
    assert [tag["src"] for kind, tag in read.tags if kind == "img"] == ["samples/a.png"]
    assert tells(read.text, "base model", "epoch 9", "a song held out", HOSTILE) and "never made" not in html
    assert "media-src 'self'" in html and "script-src" not in html
    folder.write_bytes("samples.json", b"{")
    assert "<audio" not in page(output, spec)
    folder.delete("samples.json")
    assert "media-src" not in page(output, spec)


def test_an_estimate_of_nothing_has_bars_of_no_length(output: Store, spec: JobSpec) -> None:
    ranking = [{"module": f"layers.{n}.self_attn.q_proj", "norm": 0.0} for n in range(2)]
    output.write_bytes("estimate/report.json", json.dumps({"modules": ranking}).encode())
    assert page(output, spec).count('<rect width="0.0"') == 2
    output.write_bytes("estimate/report.json", b'{"modules": []}')
    assert "Sensitivities" not in page(output, spec)


def test_an_estimate_of_another_dataset_is_not_shown(
    output: Store, spec: JobSpec, receipt: dict[str, Any]
) -> None:
    """The run's own is, although another one is newer."""

    def write(path: str, dataset: str, module: str) -> None:
        ranking = {"recipe": {"dataset": dataset}, "modules": [{"module": module, "norm": 1.0}]}
        output.write_bytes(path, json.dumps(ranking).encode())

    write("estimate/report.json", "another", "layers.7.other")
    assert "Sensitivities" not in page(output, spec)
    receipt["inputs"]["dataset_content"] = "0123abcd4567"
    output.write_bytes("receipt.json", json.dumps(receipt).encode())
    write("estimate/0123abcd/report.json", receipt["inputs"]["dataset"], "layers.3.own")
    html = page(output, spec)
    assert "layers.3.own" in html and "layers.7.other" not in html


def test_a_song_s_words_are_text(output: Store, spec: JobSpec) -> None:
    html = page(output, spec)
    read = Reader(html)
    assert HOSTILE in read.text
    assert not {tag for tag, _ in read.tags} & {"script", "img", "link", "iframe"}
    assert not {name for _, attributes in read.tags for name in attributes if name.startswith("on")}


def test_nothing_outside_is_asked_for(output: Store, spec: JobSpec) -> None:
    html = page(output, spec)
    assert not re.search(r"""https?://|url\(|@import|\bsrc=[^x]""", html)
    assert "default-src 'none'" in html


def test_it_is_small_for_a_long_run_and_folds_many_songs(
    output: Store, spec: JobSpec, history: dict[str, Any]
) -> None:
    steps = 20_000
    history |= {key: history[key] * 100 for key in ("losses", "running_mean", "learning_rates")}
    history["songs"] = [{"name": f"song {n}.wav", "seconds": 180.0, "caption": "calm"} for n in range(500)]
    output.write_bytes("history.json", json.dumps(history).encode())
    assert len(history["losses"]) == steps
    html = page(output, spec)
    assert len(html) < 250_000
    assert "<summary>All 500 songs</summary>" in html


def test_one_step_one_song_and_no_estimate(
    output: Store, spec: JobSpec, history: dict[str, Any], receipt: dict[str, Any]
) -> None:
    history |= {key: history[key][:1] for key in ("losses", "running_mean", "learning_rates", "songs")}
    receipt |= {"loss_on_fixed_draws": {"first": None, "last": None}, "cost": None}
    output.write_bytes("history.json", json.dumps(history).encode())
    output.write_bytes("receipt.json", json.dumps(receipt).encode())
    output.delete("estimate/report.json")
    text = Reader(page(output, spec)).text
    assert "Sensitivities" not in text
    assert "1 song," in text
    assert "cost" not in text.replace("max cost", "")  # a setting, and not what the run has cost


def test_what_cannot_be_made_is_said_and_fails_nothing(
    output: Store, spec: JobSpec, history: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    output.write_bytes("history.json", b'{"songs": 3}')
    with caplog.at_level(logging.WARNING):
        write_report(output, spec)
    assert "report.html" in caplog.text
    output.write_bytes("history.json", json.dumps(history | {"songs": [{"seconds": 1}]}).encode())
    write_report(output, spec)
    assert caplog.text.count("damaged") == 2
    output.delete("history.json")
    write_report(output, spec)
    assert output.stat(FILE) is None


def test_what_held_out_songs_say_is_on_top(judged: Store, spec: JobSpec) -> None:
    html = page(judged, spec)
    read = Reader(html)
    words = re.sub(r"\s+", " ", read.text)
    assert "trained on 1 song, 0.2 s of music" in words  # the one that is not held out
    assert words.index("Use checkpoint-epoch-12") < words.index("Result")
    assert words.count("(held out)") == 2
    for fact in ("2.6000", "2.0000", "2.4000", "0.3-0.4", "the best, after step 120"):
        assert fact in words
    assert HOSTILE in read.text
    assert not {tag for tag, _ in read.tags} & {"script", "img", "link", "iframe"}
    lines = [attributes for tag, attributes in read.tags if tag == "polyline"]
    (mark,) = {line["points"] for line in lines if line["class"] == "best"} - {"1,5 23,5"}
    curve = next(line["points"] or "" for line in lines if line["class"] == "smooth")
    assert set((mark or "").split()) < set(curve.split())
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_without_held_out_songs_it_says_what_it_cannot_tell(output: Store, spec: JobSpec) -> None:
    text = Reader(page(output, spec)).text
    assert "No songs were held out" in text and "train.validation.share" in text
    assert "Which checkpoint" not in text
