"""Who is shown how far a job is that a program runs, by a clock of the test's own."""

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sidestep.runtime.display import shower
from sidestep.runtime.progress import Progress, shown_by, track
from tests.clock import Clock


def encode(clock: Clock, songs: int = 4, of: int = 4, seconds: float = 1.0, title: str = "Encoding") -> None:
    with track(title, of, "songs", clock=clock) as bar:
        for _ in range(songs):
            clock.now += seconds
            bar.advance(note="loud")


def test_a_function_is_told_each_piece_of_work_from_its_beginning_to_its_end() -> None:
    told: list[Progress] = []
    with shown_by(shower(told.append)):
        encode(Clock(), songs=2)
    encode(Clock())  # outside
    assert [(one.state, one.done, one.seconds_left) for one in told] == [
        ("running", 0, None),
        ("running", 1, 3),
        ("running", 2, 2),
        ("stopped", 2, None),
    ]
    assert {(one.title, one.total, one.unit) for one in told} == {("Encoding", 4, "songs")}
    assert (told[2].per_second, told[2].note) == (1, "loud")
    assert str(told[1]) == "Encoding: 1 of 4 songs (25%), 1 song/s, 3 s left, loud"


def test_a_function_is_called_twice_a_second_at_most() -> None:
    told: list[Progress] = []
    with shown_by(shower(told.append)):
        encode(Clock(), songs=100, of=100, seconds=0.125)
    assert len(told) == 1 + 25 + 1


def test_a_function_that_fails_is_called_no_more_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def fail(progress: Progress) -> None:
        calls.append(progress)
        raise ZeroDivisionError("in the host")

    clock = Clock()
    with shown_by(shower(fail)):
        encode(clock)
        encode(clock)
    assert len(calls) == 1
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ZeroDivisionError('in the host')" in warning.getMessage()


@pytest.mark.parametrize("wanted", ["auto", False])
def test_what_is_no_terminal_gets_nothing(wanted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with shown_by(shower(wanted)):
        encode(Clock(), seconds=60)
    assert capsys.readouterr() == ("", "")


def test_lines_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_by(shower(True)):
        encode(Clock())
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "Encoding: done, 4 songs in 4 s, 1 song/s, loud\n"


def test_a_terminal_gets_the_bar_unless_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True, write=pytest.fail))
    assert shower("auto") is None
    assert shower(True) is None
    with shown_by(shower(False)):
        encode(Clock())


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A notebook's displays: what each has shown, in order."""
    made: list[list[str]] = []

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        shown = [content["text/plain"]]
        made.append(shown)
        return SimpleNamespace(update=lambda content, raw: shown.append(content["text/plain"]))

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return made


def test_a_notebook_gets_one_display_that_is_written_anew(
    displays: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with shown_by(shower("auto")):
        for number in range(40):
            encode(clock, title=f"Part {number}")
        encode(clock, songs=2, title="Part 38")
    assert len(displays) == 1
    shown = displays[0]
    assert "█" * 6 + "░" * 18 + " Part 0: 1 of 4 songs" in shown[1]
    last = shown[-1].split("\n")
    assert len(last) == 12
    assert last[-1].startswith("Part 38: stopped")  # begun once more: the newest
    assert sum(line.startswith("Part 38") for line in last) == 1
    assert capsys.readouterr() == ("", "")


def test_ipython_on_a_terminal_is_no_notebook(
    displays: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: object())
    assert shower("auto") is None


@pytest.mark.parametrize("wanted", ["yes", None, 2])
def test_what_is_no_way_to_show_it(wanted: Any) -> None:
    with pytest.raises(TypeError, match="progress is True, False, 'auto' or a function"):
        shower(wanted)
