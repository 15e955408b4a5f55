"""The page in a real browser: light and dark, on a screen and on a phone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.report.page import page
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
PHONE, SCREEN = 360, 1280

CONTRASTS = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = text => numbers(text).slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
  };
  const texts = document.querySelectorAll("h1, h2, p, dt, dd, th, td, caption, summary, li, svg text");
  return [...texts].map(element => {
    const style = getComputedStyle(element);
    const pair = [luminance(element.closest("svg") ? style.fill : style.color), luminance(ground(element))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright  # `make test-browser` installs it

    program = shutil.which(os.environ.get("CHROMIUM") or "chromium")
    assert program, "these tests need Chromium: install it, or name it with CHROMIUM="
    quiet = [
        "--no-sandbox",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def file(output: Store, spec: JobSpec, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page(output, spec), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_it_is_readable(browser: "Browser", file: Path, scheme: Any, width: int) -> None:
    opened = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")

    assert opened.title() == "night-drive – training report"  # no song's name has run as a script
    assert asked == [file.as_uri()]
    assert said == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = opened.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert min(contrasts) >= 4.5  # WCAG 2.2, 1.4.3 (AA)
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 3 * 128) == (scheme == "light")
    for line in opened.locator("section svg polyline").all():
        assert (line.bounding_box() or {"width": 0})["width"] > 0
    if folder := os.environ.get("SCREENSHOTS"):  # to look at
        opened.screenshot(path=Path(folder) / f"report-{scheme}-{width}.png", full_page=True)
    opened.close()
