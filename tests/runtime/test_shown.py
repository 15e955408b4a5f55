"""Foreign text does nothing but stand there: on the screen, in the log files, on standard output."""

import io
import json
import logging
from pathlib import Path

import pytest

from sidestep.runtime import console
from sidestep.runtime.logs import add_log_file, setup_logging
from sidestep.runtime.shown import LINE_AT_MOST, indented, on_one_line, shown

log = logging.getLogger("sidestep.somewhere")

CONTROLS = [chr(code) for code in [*range(32), *range(0x7F, 0xA0)] if chr(code) not in "\n\t"]
HIDDEN = list(
    "\u200b\u200d\u2060\ufeff\u00ad\u061c\u200e\u202a\u202e\u2066\u2069\u2028\u2029\U000e0041\ue000"
)
HALF = ["\ud800", "\udcff"]  # a file name that is not UTF-8 has the latter


@pytest.mark.parametrize("character", [*CONTROLS, *HIDDEN, *HALF], ids=ascii)
def test_what_a_terminal_would_obey_is_made_visible(character: str) -> None:
    text = shown(f"a{character}b")
    assert text == f"a{character.encode('unicode_escape').decode()}b"
    assert text.encode().isascii()


@pytest.mark.parametrize(
    "text", ["", "Ein süßes Lied – 夜曲 ▇ 👩 ﷽", "two\nlines\n", "a\tb", "10\u202f000\u00a0€"]
)
def test_plain_text_of_any_language_stays(text: str) -> None:
    assert shown(text) == text


def test_a_line_without_end_is_cut() -> None:
    text = shown("short\n" + "x" * 10**6)
    assert len(text) < LINE_AT_MOST + 100
    assert f"{10**6 - LINE_AT_MOST:,}" in text


def test_a_name_cannot_pass_for_an_entry_of_a_log() -> None:
    assert indented("one\ntwo\n  three\n\n    four") == "one\n  two\n  three\n\n    four"


def test_the_screen_and_the_files_show_it_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    setup_logging()
    add_log_file(tmp_path / "run.log")
    name = "\x1b]0;taken\x07\x1b[2J\udcff\n2026-01-01 00:00:00,000 INFO    sidestep: all is well"
    log.warning("bad song %s", name)
    try:
        raise RuntimeError(name)
    except RuntimeError:
        log.error("failed", exc_info=True)
    for text in (
        capsys.readouterr().err,
        Path("sidestep.log").read_text(),
        (tmp_path / "run.log").read_text(),
    ):
        assert "\x1b" not in text and "bad song \\x1b]0;taken\\x07" in text and "\\udcff" in text
        assert not [line for line in text.splitlines() if line.startswith("2026-01-01")]
    assert (tmp_path / "run.log").read_text().count("RuntimeError: ") == 1  # and neither file was given up


def test_standard_output_is_a_file_s_content_only_where_it_goes_into_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.write("\x1b[2J")
    console.write("\x1b[2J", exactly=True)
    assert capsys.readouterr().out == "\\x1b[2J\x1b[2J"
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    console.write("\x1b[2J", exactly=True)
    assert terminal.getvalue() == "\\x1b[2J"


def test_json_for_programs_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "\x1b[2J\u202e\x9b" + "x" * 2 * LINE_AT_MOST}
    console.write_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.replace("\n", "").isascii() and text.replace("\n", "").isprintable()


def test_a_line_can_be_kept_one() -> None:
    assert on_one_line("a\nb\x1b") == "a\\nb\\x1b"
