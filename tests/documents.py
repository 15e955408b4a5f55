"""The commands in a page of documentation, and how a test runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "tests" / "guide" / "training-guide.md"
BLOCK = re.compile(
    r"(?:<!-- not run by the tests: (?P<reason>.*?) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>bash|python|yaml|json)\n(?P<text>.*?)^ *```",
    re.S | re.M,
)
QUICK = {  # what the commands leave open is set so that they end soon
    "SIDESTEP_TRAIN__EPOCHS": "2",
    "SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS": "1",
    "SIDESTEP_ESTIMATE__BATCHES": "1",
}


class Block(NamedTuple):
    """A fenced block of a page: bash, python, yaml or json."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The page's blocks in their order, but for those marked as not run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(block["kind"], block["text"]) for block in found if not block["reason"]]


def run(block: Block, **environment: str) -> str:
    """Run a bash or Python block in the working directory; what it said. The test fails where it fails."""
    command = ["bash", "-euc", block.text] if block.kind == "bash" else [sys.executable, "-c", block.text]
    done = subprocess.run(command, env=surroundings(**environment), capture_output=True, text=True)
    assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def surroundings(**environment: str) -> dict[str, str]:
    """The environment that a block's commands are found in, with what is set besides."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **environment}
