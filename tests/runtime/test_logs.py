"""Who sees what: plain lines on the screen, everything in the log files."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sidestep.runtime.logs import add_log_file, guest_logging, log_file, setup_logging

log = logging.getLogger("sidestep.somewhere")
library = logging.getLogger("some.library")


def test_the_screen_shows_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    log.debug("detail")
    log.info("Pulling songs")
    log.warning("turbo is distilled")
    library.warning("deprecated")
    library.error("broken")
    assert capsys.readouterr().err == "Pulling songs\nwarning: turbo is distilled\nerror: broken\n"


def test_the_file_gets_details_library_warnings_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    log.debug("detail")
    library.info("chatter")
    library.warning("deprecated")
    try:
        raise RuntimeError("deep down")
    except RuntimeError:
        log.error("failed", exc_info=True)
    text = Path("sidestep.log").read_text()
    for part in (
        "DEBUG   sidestep.somewhere: detail",
        "WARNING some.library: deprecated",
        "RuntimeError: deep down",
    ):
        assert part in text
    assert "chatter" not in text
    assert "Traceback" not in capsys.readouterr().err
    assert log_file() == Path.cwd() / "sidestep.log"


def test_sessions_append_and_a_second_set_up_adds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sidestep.log").write_text("an earlier session\n")
    setup_logging()
    setup_logging(verbose=True)
    log.debug("detail")
    assert capsys.readouterr().err == "detail\n"
    lines = Path("sidestep.log").read_text().splitlines()
    assert lines[0] == "an earlier session"
    assert len(lines) == 2


def test_a_run_s_own_log_replaces_the_last_run_s() -> None:
    setup_logging()
    add_log_file("out/logs/1.log")
    log.info("first")
    add_log_file(Path("out/logs/2.log"))
    log.info("second")
    assert "first" in Path("out/logs/1.log").read_text()
    assert "second" not in Path("out/logs/1.log").read_text()
    assert "second" in Path("out/logs/2.log").read_text()
    assert "second" in Path("sidestep.log").read_text()
    assert log_file() == Path.cwd() / "sidestep.log"


def test_the_first_run_s_log_begins_with_what_was_said_before() -> None:
    setup_logging()
    log.info("sidestep train")
    log.debug("versions")
    add_log_file("out/logs/1.log")
    log.info("work")
    lines = Path("out/logs/1.log").read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["sidestep train", "versions", "work"]


def test_a_folder_that_is_not_writable_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sidestep.log").mkdir()
    setup_logging()
    log.info("on the screen alone")
    assert log_file() is None
    error = capsys.readouterr().err
    assert error.startswith("No sidestep.log here (Is a directory)")
    assert error.endswith("on the screen alone\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_said_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        full = os.open("/dev/full", os.O_WRONLY)
        patched.setattr(os, "open", lambda *_: full)
        setup_logging()
    log.info("one")
    log.info("two")
    error = capsys.readouterr().err
    assert error.count("cannot be written any more") == 1
    assert "Traceback" not in error
    assert error.endswith("two\n")


def test_a_link_or_a_pipe_in_a_log_s_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In a folder for all, another user could have put it there."""
    (tmp_path / "precious").write_text("mine")
    Path("sidestep.log").symlink_to(tmp_path / "precious")
    Path("out").mkdir()
    setup_logging()
    log.info("one")
    assert "No sidestep.log here" in capsys.readouterr().err
    Path("out", "0.log").symlink_to(tmp_path / "precious")
    os.mkfifo("out/1.log")
    for number in range(2):
        with pytest.raises(OSError, match=f"{number}.log"):
            add_log_file(f"out/{number}.log")
    assert (tmp_path / "precious").read_text() == "mine"


def test_python_s_warnings_go_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings puts Python's own way of showing back
        warnings.warn("old ways", FutureWarning, stacklevel=1)
    assert "FutureWarning: old ways" in Path("sidestep.log").read_text()
    assert "old ways" not in capsys.readouterr().err


def test_libraries_are_asked_to_be_quiet_unless_the_user_says_otherwise() -> None:
    code = (
        "import os; from sidestep.runtime.logs import setup_logging; setup_logging();"
        "print(os.environ['TRANSFORMERS_VERBOSITY'], os.environ['DIFFUSERS_VERBOSITY'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DIFFUSERS_VERBOSITY": "info"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["error", "info"]


def test_a_guest_without_any_logging_shows_warnings_as_python_does() -> None:
    code = (
        "import logging; from sidestep.runtime.logs import guest_logging\n"
        "log = logging.getLogger('sidestep.somewhere')\n"
        "with guest_logging() as is_guest:\n"
        "    log.debug('detail'); log.info('news'); log.warning('careful')\n"
        "log.info('later'); log.warning('still careful')\n"
        "print(is_guest, logging.getLogger().handlers, log.isEnabledFor(logging.INFO))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == "careful\nstill careful\n"
    assert run.stdout == "True [] False\n"


def test_no_secret_reaches_the_handlers_of_a_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dragon-breath-17")
    with guest_logging():
        log.warning("the key is %s", "dragon-breath-17")
    assert "dragon-breath-17" not in caplog.text
    assert "the key is" in caplog.text


def test_where_the_command_has_set_it_up_nothing_is_done() -> None:
    setup_logging()
    before = logging.getLogger().handlers[:]
    with guest_logging() as is_guest:
        assert not is_guest
        assert logging.getLogger().handlers == before
        add_log_file("out/logs/1.log")
    log.info("still written")
    assert "still written" in Path("out/logs/1.log").read_text()
