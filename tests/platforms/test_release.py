"""runtime.on_exit against stand-ins of the platforms: what is called, when, and what a failure does.

Here the process that ends gives the machine back; that a guard does it is in test_guard.py.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import BadStatusLine
from pathlib import Path
from typing import Any

import pytest

from sidestep import tasks
from sidestep.cli import main
from sidestep.platforms import release
from sidestep.platforms.release import PROVIDERS, RETRY
from sidestep.runtime.errors import (
    AgainError,
    BadDataError,
    ExitCode,
    Rerun,
    SideStepError,
    StalledError,
    rerun_after,
)
from tests.platforms.providers import RUNPOD, TOKEN, VAST, StandIn, provider


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with provider() as known:
        monkeypatch.setattr(release, "PROVIDERS", tuple(replace(one, api=known.url) for one in PROVIDERS))
        monkeypatch.setattr(release, "RETRY", replace(RETRY, sleep=known.paused.append))
        yield known


def run(
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    on_exit: str,
    outcome: BaseException | None = None,
) -> int:
    """`sidestep run` on a rented machine, with a task that ends as `outcome`."""

    def ends(spec: Any, *others: Any, **more: Any) -> None:
        if outcome:
            raise outcome

    monkeypatch.setattr(tasks, "run", ends)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    places = ["--audio-dir", "songs", "--output-dir", "out"]
    return main(["run", *places, "--on-exit", on_exit], is_process=False)


@pytest.mark.parametrize(
    ("environ", "on_exit", "asked"),
    [
        (RUNPOD, "stop", ("POST", "/api/pods/pod%2F1/action", {"action": "stop"})),
        (RUNPOD, "terminate", ("POST", "/api/pods/pod%2F1/action", {"action": "terminate"})),
        (VAST, "stop", ("PUT", "/api/instances/4711/", {"state": "stopped"})),
        (VAST, "terminate", ("DELETE", "/api/instances/4711/", {})),
        (
            {name: f" {value}\r\n" for name, value in VAST.items()} | {"RUNPOD_POD_ID": " "},
            *("terminate", ("DELETE", "/api/instances/4711/", {})),
        ),
    ],
)
def test_the_machine_is_given_back_once(
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    on_exit: str,
    asked: tuple[str, str, Any],
) -> None:
    assert run(monkeypatch, environ, on_exit) == ExitCode.DONE
    method, path, body = asked
    assert stand_in.asked == [(method, path, f"Bearer {TOKEN}", body)]


KINDS = {kind.exit_code: kind for kind in SideStepError.__subclasses__()}


@pytest.mark.parametrize("outcome", [*(kind("it ended") for kind in KINDS.values()), RuntimeError("a bug")])
def test_for_every_code_but_those_to_be_run_again(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, outcome: Exception
) -> None:
    code = run(monkeypatch, RUNPOD, "terminate", outcome)
    assert code == getattr(outcome, "exit_code", ExitCode.BUG)
    assert len(stand_in.asked) == (rerun_after(code) is not Rerun.AGAIN)


def test_a_job_that_hangs_gives_it_back_too(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def hangs(*_: Any, end_stalled: Callable[[StalledError], None], **more: Any) -> None:
        end_stalled(StalledError("nothing has advanced"))
        ended.append(len(stand_in.asked))
        raise AgainError("what follows is this test's")

    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(tasks, "run", hangs)
    for name, value in RUNPOD.items():
        monkeypatch.setenv(name, value)
    words = ["run", "--audio-dir", "songs", "--output-dir", "out", "--on-exit", "terminate"]
    main(words, is_process=False)
    assert ended == [ExitCode.STALLED, 1]


def test_not_after_ctrl_c(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, RUNPOD, "terminate", KeyboardInterrupt()) == ExitCode.AGAIN
    assert stand_in.asked == []


def test_not_where_it_is_not_wanted(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, RUNPOD, "none") == ExitCode.DONE
    assert main(["run", "--help"]) == ExitCode.DONE
    assert stand_in.asked == []


def test_a_wrong_spec_gives_it_back_by_the_variable(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDESTEP_RUNTIME__ON_EXIT", "terminate")
    monkeypatch.setenv("SIDESTEP_TRAIN__EPOCHS", "none")
    for name, value in RUNPOD.items():
        monkeypatch.setenv(name, value)
    assert main(["run"], is_process=False) == ExitCode.BAD_SPEC
    assert len(stand_in.asked) == 1


@pytest.mark.parametrize(
    "text", ["runtime: {on_exit: stop}\ntrain: {lr: fast}\n", "runtime:\n  on_exit: stop\n [\n"]
)
@pytest.mark.parametrize(
    ("command", "flags", "released"),
    [
        ("run", [], 1),
        ("lr-find", [], 1),
        ("run", ["--on-exit", "none"], 0),
        ("run", ["--on-exit", "sotp"], 1),
    ],
)
def test_a_wrong_spec_gives_it_back_by_its_file_or_a_flag(
    text: str,
    command: str,
    flags: list[str],
    released: int,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("job.yaml").write_text(text)
    for name, value in RUNPOD.items():
        monkeypatch.setenv(name, value)
    assert main([command, "--config", "job.yaml", *flags], is_process=False) == ExitCode.BAD_SPEC
    assert [body for *_, body in stand_in.asked] == [{"action": "stop"}] * released


def test_a_machine_that_nobody_takes_back_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, {}, "terminate", AssertionError("it ran")) == ExitCode.MACHINE
    error = capsys.readouterr().err
    assert all(fact in error for fact in ("runtime.on_exit", "terminate", "RUNPOD_POD_ID", "CONTAINER_ID"))


def test_it_is_tried_again(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.answers = [503, 429]
    assert run(monkeypatch, VAST, "stop") == ExitCode.DONE
    assert len(stand_in.asked) == 3 and len(stand_in.paused) == 2


@pytest.mark.parametrize(
    ("environ", "answers", "said", "calls"),
    [
        (RUNPOD, [403], "403 Forbidden", 1),
        (RUNPOD, [500] * 9, "500", 4),
        (RUNPOD, [302], "302 Found", 1),  # the token goes nowhere else, and the answer there is no success
        ({"RUNPOD_POD_ID": "pod/1"}, [], "RUNPOD_API_KEY", 0),
    ],
)
def test_a_failure_is_loud_and_changes_no_exit_code(
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environ: dict[str, str],
    answers: list[int],
    said: str,
    calls: int,
) -> None:
    stand_in.answers = answers
    with caplog.at_level(logging.DEBUG):
        assert run(monkeypatch, environ, "terminate", BadDataError("no song")) == ExitCode.BAD_DATA
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "STILL RENTED" in warning.message and said in warning.message
    assert "https://console.runpod.io/pods" in warning.message
    assert TOKEN not in caplog.text and len(stand_in.asked) == calls


def test_a_platform_that_repeats_the_token_does_not_show_it(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.answers, stand_in.reason = [403], f"{TOKEN} may not do this"
    assert run(monkeypatch, RUNPOD, "terminate") == ExitCode.DONE
    assert "may not do this" in caplog.text and TOKEN not in caplog.text


def test_a_platform_out_of_reach(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = tuple(replace(one, api="http://127.0.0.1:1/api") for one in PROVIDERS)
    monkeypatch.setattr(release, "PROVIDERS", away)
    assert run(monkeypatch, RUNPOD, "stop") == ExitCode.DONE
    assert "STILL RENTED" in caplog.text and len(stand_in.paused) == 3


def test_an_answer_that_is_not_http(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def garbled(*request: Any, **options: Any) -> None:
        raise BadStatusLine(f"SSH-2.0 {TOKEN}")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", garbled)
    assert run(monkeypatch, RUNPOD, "stop", BadDataError("no song")) == ExitCode.BAD_DATA
    assert "STILL RENTED" in caplog.text and "SSH-2.0" in caplog.text and TOKEN not in caplog.text
