"""The page in a real browser: light and dark, on a screen and on a phone."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.report.compare import comparison_page
from sidestep.report.page import page
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
PHONE, SCREEN = 360, 1280
TITLES = {
    "file": "night-drive – training report",
    "held_out": "night-drive – training report",
    "comparison": "Comparison of 4 runs",
}

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


@pytest.fixture
def file(output: Store, spec: JobSpec, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page(output, spec), encoding="utf-8")
    return path


@pytest.fixture
def held_out(judged: Store, spec: JobSpec, tmp_path: Path) -> Path:
    path = tmp_path / "held-out.html"
    path.write_text(page(judged, spec), encoding="utf-8")
    return path


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """Four runs: one that overfits, a better one, one like it, and one without held-out songs."""
    from tests.report.test_comparison import made, shifted

    def curve(best: float, turn: int, rise: float) -> list[list[float]]:
        falls = [shifted(-best * min(n / turn, 1) + rise * max(n - turn, 0), 1e-3) for n in range(20)]
        return [[loss + 0.004 * ((7 * n) % 5) for loss in falls[n]] for n in range(20)]

    runs = [
        made("guide", *curve(0.1, 18, 0.0), seconds=5400.0, cost=0.6),
        made("fast-start", *curve(0.3, 12, 0.002), seconds=5600.0, cost=0.62, settings={"train.lr": 3e-4}),
        made("timbre", *curve(0.31, 6, 0.03), seconds=9000.0, settings={"train.lr": 5e-4, "train.seed": 3}),
        made("a-run-with-a-very-long-name-" * 3, songs=(), state="not finished: step 20 of 1,000"),
    ]
    path = tmp_path / "compare.html"
    path.write_text(comparison_page(runs, ["/runs/gone: there is no checkpoint"]), encoding="utf-8")
    return path


@pytest.mark.parametrize("page_of", ["file", "held_out", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_it_is_readable(
    browser: "Browser", page_of: str, request: pytest.FixtureRequest, scheme: Any, width: int
) -> None:
    file, title = request.getfixturevalue(page_of), TITLES[page_of]
    opened = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")

    assert opened.title() == title  # no song's name has run as a script
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
        opened.screenshot(path=Path(folder) / f"{file.stem}-{scheme}-{width}.png", full_page=True)
    opened.close()
