"""A job that ends before its spec is read, or with a wrong one: its webhook hears of it, where known."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep import tasks
from sidestep.cli import main
from sidestep.config import glimpse as seen
from sidestep.config.glimpse import glimpse
from sidestep.config.job import JobSpec
from sidestep.lifecycle import watching
from sidestep.platforms.release import RentedMachine
from sidestep.runtime import jsonlines
from sidestep.runtime.errors import BadSpecError, ExitCode
from tests.facts import tells
from tests.receiver import TOKEN, Receiver, receiver

VARIABLE = "SIDESTEP_RUNTIME__WEBHOOK"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as hook:
        yield hook
    jsonlines.about(dict)


def told(hook: Receiver) -> dict[str, Any]:
    assert len(hook.got) == 1
    return hook.got[0]


def test_a_wrong_value_is_told_by_the_variable(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "estimate",
        "--dataset-dir",
        "t",
        "--name",
        "night",
        "--output-dir",
        "s3://b/o",
        "--estimate-batches",
        "many",
    ]
    assert main(words) == ExitCode.BAD_SPEC
    alone = capsys.readouterr().err
    monkeypatch.setenv(VARIABLE, f" {hook.url}\n")
    assert main(words) == ExitCode.BAD_SPEC
    news = told(hook)
    assert (news["event"], news["exit_code"]) == ("failed", 78)
    assert (news["name"], news["task"], news["output"]) == ("night", "pipeline", "s3://b/o")
    assert tells(news["message"], "estimate.batches", "many")
    assert capsys.readouterr().err.splitlines()[-len(alone.splitlines()) + 1 :] == alone.splitlines()[1:]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{{name: night, runtime: {{webhook: '{url}'}}, trian: {{}}}}", 78),
        ("name: night\nruntime:\n  webhook:\n  - {url}\ntrain: {{lr: fast}}\n", 78),
        ("name: night\nruntime:\n  webhook: {url}  # ours\n   lr: [\n", 78),  # no YAML
        ("runtime: {{webhook: [{url}]\n", 78),
        ("task: train\nruntime: {{webhook: '{url}'}}\n", 78),  # places are missing
    ],
)
@pytest.mark.parametrize("how", ["config", "bare", "variable"])
def test_a_wrong_spec_is_told_by_itself(
    text: str, code: int, how: str, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.yaml").write_text(text.format(url=hook.url))
    monkeypatch.setenv("SIDESTEP_CONFIG", "job.yaml" if how == "variable" else "other.yaml")
    words = {"config": ["--config", "job.yaml"], "bare": ["job.yaml"], "variable": []}[how]
    assert main(["run", *words]) == code
    assert (told(hook)["event"], told(hook)["exit_code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["train", "--webhook", "{url}", "--epoch", "3"], 64),
        (["train", "--epoch", "3", "--webhook={url}"], 64),
        (["run", "--config", "gone.yaml", "--webhook", "{url}"], 66),
        (["run", "--on-exit", "stop", "--audio-dir", "a", "--output-dir", "o", "--webhook", "{url}"], 72),
    ],
)
def test_a_wrong_command_line_is_told_by_its_flag(words: list[str], code: int, hook: Receiver) -> None:
    assert main([word.format(url=hook.url) for word in words]) == code
    assert (told(hook)["event"], told(hook)["exit_code"]) == ("failed", code)


@pytest.mark.parametrize("kind", ["dead", "hanging", "500", "broken", "no URL"])
def test_the_error_is_no_worse_for_it(
    kind: str, hook: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "SECONDS_TO_SEND", 0.2)
    words = ["train", "--lr", "fast", "--output-dir", "o"]
    assert main(words) == ExitCode.BAD_SPEC
    alone = capsys.readouterr().err
    hook.is_hanging, hook.status = kind == "hanging", 500 if kind == "500" else 200
    urls = {"dead": f"http://127.0.0.1:9/{TOKEN}", "no URL": f"nothing/{TOKEN}"}
    monkeypatch.setenv(VARIABLE, urls.get(kind, hook.url))
    if kind == "broken":
        monkeypatch.setattr(seen, "glimpse", lambda words: 1 / 0)
    assert main(words) == ExitCode.BAD_SPEC
    said = capsys.readouterr().err
    problems = [line for line in alone.splitlines() if "train.lr" in line]
    assert problems and all(line in said for line in problems)
    assert TOKEN not in said + Path("sidestep.log").read_text()
    assert "Traceback" not in said
    assert said.count("warning") == (0 if kind == "no URL" else 1)


def test_nobody_hears_of_what_runs_no_job(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, hook.url)
    for words in (["train", "--help"], ["train", "--dry-run", "--lr", "fast"], ["plan", "--lr", "fast"]):
        main(words)
    assert hook.got == []


def test_the_machine_is_given_back_after_it(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(RentedMachine, "release", lambda machine: order.append(list(hook.events)))
    monkeypatch.setenv(VARIABLE, hook.url)
    assert main(["train", "--lr", "fast"]) == ExitCode.BAD_SPEC
    assert order == [["failed"]]


def test_what_a_program_s_spec_lacks_is_told(hook: Receiver) -> None:
    spec = JobSpec.load(None, task="train", output_dir="o", dataset_dir="t", runtime={"webhook": hook.url})
    with pytest.raises(BadSpecError):
        tasks.run(spec.changed({"output_dir": None}))
    assert told(hook)["exit_code"] == 78


def test_the_first_that_is_sound_counts() -> None:
    Path("job.yaml").write_text(json.dumps({"name": "of file", "runtime": {"webhook": "https://file"}}))
    environ = {VARIABLE: "https://a https://b", "SIDESTEP_NAME": "of-variable"}
    assert glimpse(["job.yaml"], environ).runtime.webhook == ("https://a", "https://b")
    assert glimpse(["job.yaml"], environ).name == "of-variable"
    assert glimpse(["job.yaml", "--webhook", "https://c", "ntfy://d", "--lr"], environ).runtime.webhook == (
        *("https://c", "ntfy://d"),
    )
    assert glimpse(["job.yaml", "--webhook", "no url"], {}).runtime.webhook == ("https://file",)
    assert glimpse(["job.yaml"], {}).name == JobSpec().name  # a name that is none is not taken


@pytest.mark.parametrize(
    "text", ["# webhook: https://a\n a: [", "webhooks: https://a\n [", "\0", "- https://a"]
)
def test_what_is_not_the_webhook_s_is_not_taken(text: str) -> None:
    Path("job.yaml").write_text(text)
    assert glimpse(["--config", "job.yaml"], {}).runtime.webhook == ()
    os.mkfifo("pipe")
    assert glimpse(["--config", "pipe"], {}).runtime.webhook == ()
    assert glimpse(["--config", "."], {}).runtime.webhook == glimpse([], {}).runtime.webhook == ()


def test_a_name_that_is_too_long_for_a_file_is_no_trouble() -> None:
    assert glimpse(["a" * 5000], {}) == JobSpec()
