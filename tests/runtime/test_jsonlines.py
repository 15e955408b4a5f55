"""Standard error as lines of JSON, from the first line on, whatever happens."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.runtime import jsonlines
from sidestep.runtime.errors import BadDataError, ExitCode
from sidestep.runtime.jsonlines import OF_A_JOB, is_wanted
from sidestep.runtime.logs import is_json, setup_logging
from sidestep.runtime.progress import on_terminal, track
from tests.fake_tasks import Tasks

log = logging.getLogger("sidestep.somewhere")
KEYS = {"time", "level", "logger", "message", *OF_A_JOB}


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    yield
    jsonlines.about(dict)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """What standard error has got; every line of it is an object."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.split("\n") if line]


def test_one_object_a_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    jsonlines.about(lambda: {"job": "night", "attempt": 2, "phase": "train", "step": 7, "loss": 0.5})
    setup_logging(as_json=True)
    log.debug("not for the screen")
    log.info("two\nlines \u2028 and a lone \udc80 %s", "é")
    log.warning("careful")
    first, second = lines()
    assert first.keys() == second.keys() == KEYS
    assert first["message"] == "two\nlines \u2028 and a lone \udc80 é"
    assert (first["level"], second["level"], first["logger"]) == ("info", "warning", "sidestep.somewhere")
    assert [first[key] for key in OF_A_JOB] == ["night", 2, "train", 7, 0.5]
    assert first["time"].endswith("Z") and "T" in first["time"]
    assert Path("sidestep.log").read_text().count("INFO") == 1  # for people, as ever


def test_secrets_are_hidden(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", 'canary"with\\signs')
    setup_logging(as_json=True)
    try:
        raise RuntimeError('of canary"with\\signs')
    except RuntimeError:
        log.error('the key is canary"with\\signs', exc_info=True)
    (line,) = lines()
    assert line["message"] == "the key is ***"
    assert "RuntimeError: of ***" in line["exception"]


def test_the_traceback_of_an_error_that_says_it_all_is_left_out(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    setup_logging(as_json=True)
    try:
        raise BadDataError("the song is no song")
    except BadDataError as error:
        log.error("%s", error, exc_info=True)
    assert lines()[0].keys() == KEYS


def test_no_bar_is_drawn_between_them(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup_logging(as_json=True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert is_json() and not on_terminal()
    with track("Training", 2, "steps") as bar:
        bar.advance(2)
    assert "2 steps" in lines()[-1]["message"]


YAML = "runtime:\n  log_format: json\n"


@pytest.mark.parametrize(
    ("words", "environ", "file", "wanted"),
    [
        ([], {}, "", False),
        (["--log-format", "json"], {}, "", True),
        (["--log-format=json"], {}, "", True),
        (["--log-format", "json", "--log-format=text"], {}, "", False),
        ([], {"SIDESTEP_RUNTIME__LOG_FORMAT": "json"}, "", True),
        (["--log-format", "text"], {"SIDESTEP_RUNTIME__LOG_FORMAT": "json"}, YAML, False),
        (["--config", "job.yaml"], {}, YAML, True),
        (["job.yaml"], {}, "runtime: {log_format: 'json'}", True),
        ([], {"SIDESTEP_CONFIG": "job.yaml"}, '{"runtime": {"log_format": "json"}}', True),
        (["--config=job.yaml"], {}, "nonsense: [\n" + YAML, True),
        (["job.yaml"], {}, "runtime:\n  # log_format: json\n", False),
        (["job.yaml"], {"SIDESTEP_RUNTIME__LOG_FORMAT": "text"}, YAML, False),
        (["--config", "elsewhere.yaml"], {}, YAML, False),
    ],
)
def test_it_is_known_before_the_spec_is_read(
    words: list[str], environ: dict[str, str], file: str, wanted: bool
) -> None:
    Path("job.yaml").write_text(file)
    assert is_wanted(words, environ) is wanted


def test_a_spec_that_is_wrong_is_said_in_a_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    Path("job.yaml").write_text(f"{YAML}  grace_secondz: 3\n")
    assert main(["run", "job.yaml"]) == ExitCode.BAD_SPEC
    told = lines()
    assert [line.keys() for line in told] == [KEYS] * len(told)
    assert "runtime.grace_secondz" in told[-1]["message"] and told[-1]["level"] == "error"


def test_the_next_command_is_for_people_again(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text(YAML)
    main(["run", "job.yaml"])
    capsys.readouterr()
    main(["plan", "job.yaml"])
    assert not capsys.readouterr().err.startswith("{")
