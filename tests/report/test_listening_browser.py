"""The page to listen in a real browser, by the keyboard alone, from a file and from a server."""

import functools
import http.server
import io
import json
import os
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidestep.report.listening import gains_of, listening_page
from tests.report.test_browser import CONTRASTS, PHONE, SCREEN
from tests.report.test_listening import LOOK, TAKES, samples

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
EVIL = "</script><img src=x onerror=\"document.title='taken'\">"


def tone(hertz: int) -> bytes:
    samples = (8000 * np.sin(2 * np.pi * hertz * np.arange(2 * 48_000) / 48_000)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(48_000)
        out.writeframes(samples.tobytes())
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "listen"
    made.mkdir()
    for number, take in enumerate(TAKES):
        (made / take.file).write_bytes(tone(220 + 110 * number))
    (made / "index.html").write_text(listening_page(samples(caption=EVIL), [LOOK] * len(TAKES)))
    return made


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """The folder as a bucket's web view gives it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


def opened(browser: "Browser", address: str, said: list[str], width: int = SCREEN) -> "Page":
    page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(address)
    return page


def until(page: "Page", is_so: str) -> None:
    """Playwright's own way to wait is eval, which the page's policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(is_so):
        assert time.monotonic() < deadline, is_so
        page.wait_for_timeout(20)


def playing(page: "Page") -> list[str]:
    return [
        str(one)
        for one in page.evaluate("""() =>
        [...document.querySelectorAll('.sounds [aria-pressed="true"]')].map(one => one.textContent)""")
    ]


@pytest.mark.parametrize("by", ["file", "server"])
def test_all_pairs_are_judged_by_the_keyboard_alone(
    browser: "Browser", folder: Path, served: str, by: str
) -> None:
    said: list[str] = []
    page = opened(browser, (folder / "index.html").as_uri() if by == "file" else served, said)
    told = page.locator("#told")
    for number in range(3):
        assert f"{number + 1} of 3" in page.locator("#pair").inner_text()
        heard = page.locator("#blind").inner_text()
        assert "base model" not in heard and "strength" not in heard
        page.keyboard.press("a")
        until(page, "document.querySelector('#place').value > 0.02")
        assert playing(page) == ["A"]
        page.keyboard.press("b")
        until(page, "player('b').currentTime > 0.02")  # at the place where A was
        assert playing(page) == ["B"] and page.evaluate("player('a').paused")
        page.keyboard.press("x")
        page.keyboard.press(" ")
        assert playing(page) == []
        page.keyboard.press("1")
        assert told.inner_text() == ""
        page.keyboard.press("43"[page.evaluate("trial().x") == 0])
        assert "base model" in told.inner_text() and "strength" in told.inner_text()
        page.keyboard.press("n")
    page.reload()
    assert "3 of 3" in page.locator("#pair").inner_text()  # kept in the browser
    rows = page.locator("#results tbody tr").all_inner_texts()
    assert sum(int(row.split("\t")[4].split(" of ")[0]) for row in rows) == 3
    with page.expect_download() as download:
        page.keyboard.press("e")
    answers = json.loads(Path(download.value.path()).read_text())["answers"]
    assert len(answers) == 3 and all(one["better"] == "a" and one["x"] == one["x_said"] for one in answers)
    assert {frozenset((one["a"], one["b"])) for one in answers} == {
        frozenset((TAKES[a].file, TAKES[b].file)) for a, b in ((1, 0), (1, 2), (3, 4))
    }
    page.keyboard.press("r")
    assert page.locator("#results").is_hidden() and "1 of 3" in page.locator("#pair").inner_text()
    assert page.title() != "taken" and said == []
    page.close()


def test_levels_are_matched_and_the_order_is_another_one_each_time(browser: "Browser", folder: Path) -> None:
    said: list[str] = []
    page = opened(browser, (folder / "index.html").as_uri(), said)
    gains = gains_of(TAKES)
    drawn = set()
    for _ in range(12):
        page.keyboard.press("r")
        take = page.evaluate("takeOf('a')")
        assert page.evaluate("player('a').volume") == pytest.approx(gains[take], abs=1e-4)
        assert page.evaluate("[takeOf('a'), takeOf('b')].includes(takeOf('x'))")
        assert page.evaluate("player('x') === player('a')") == page.evaluate("takeOf('x') === takeOf('a')")
        drawn.add(page.evaluate("JSON.stringify(state.trials)"))
    assert len(drawn) > 6  # of 384, twelve times
    page.close()


def test_a_missing_sound_is_told(browser: "Browser", folder: Path) -> None:
    for take in TAKES:
        (folder / take.file).unlink()
    page = opened(browser, (folder / "index.html").as_uri(), [])
    until(page, "document.querySelector('#told').textContent.includes('.wav')")
    page.close()


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_it_is_readable(browser: "Browser", folder: Path, width: int) -> None:
    page = opened(browser, (folder / "index.html").as_uri(), [], width)
    page.keyboard.press("1")
    page.keyboard.press("3")
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    if shots := os.environ.get("SCREENSHOTS"):  # to look at
        page.screenshot(path=Path(shots) / f"listen-{width}.png", full_page=True)
    page.close()
