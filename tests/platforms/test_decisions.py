"""What SkyPilot's and dstack's own retry code decides of the rendered files after each exit code."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.platforms.skypilot import OLDEST, OLDEST_WITH_PRICE
from sidestep.platforms.wishes import NO_WISHES, Wishes
from tests.platforms.rendering import ON_S3, SPECS, render
from tests.platforms.test_readers import READERS, environment_of

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(1200)]
CODES = (69, 72, 75, 78, 137)


def decided(package: str, text: str, codes: tuple[int, ...], version: str = "") -> dict[int, Any]:
    """By code, what the package decides of a job of `text` that ended with it."""
    Path("file.yml").write_text(text)
    environ = {"HOME": str(Path("home").absolute()), "PATH": os.environ["PATH"]}
    environ |= {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "LC_ALL": "C.UTF-8"}
    python = environment_of(package, version) / "python"
    command = [str(python), str(READERS / f"{package}_decides.py"), "file.yml", *map(str, codes)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {int(code): said for code, said in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize(
    ("version", "wishes"),
    [
        ("", NO_WISHES),
        ("", Wishes(spot="preferred", max_price=0.8)),
        (OLDEST, Wishes(spot="preferred")),
        (OLDEST_WITH_PRICE, Wishes(spot="preferred", max_price=0.8)),
    ],
)
def test_skypilot(version: str, wishes: Wishes) -> None:
    """How often it starts the job again in a row, of fifty times; also the oldest releases that it may be."""
    text = render("skypilot", {}, SPECS / "s3" / "pipeline.yaml", wishes=wishes).text
    assert decided("skypilot", text, CODES, version) == {69: 0, 72: 50, 75: 50, 78: 0, 137: 50}


@pytest.mark.parametrize("keeps", [None, True], ids=["told", "kept"])
def test_dstack(keeps: bool | None) -> None:
    """After the code that the rendered command ends with, where the job ends with its own."""
    text = render("dstack", ON_S3, wishes=Wishes(keep_codes=keeps)).text
    words = shlex.split(YAML(typ="safe", pure=True).load(text)["entrypoint"])
    Path("sidestep").write_text('#!/bin/sh\nexit "$CODE"\n')
    Path("sidestep").chmod(0o755)
    path = f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}"
    told = {
        code: subprocess.run(words, env={"PATH": path, "CODE": str(code)}, capture_output=True).returncode
        for code in CODES
    }
    assert told == {code: 0 if code == 78 and not keeps else code for code in CODES}
    outcomes = decided("dstack", text, tuple(told.values()))
    permanent = "retry" if keeps else "done"
    assert {code: outcomes[told[code]] for code in CODES} == {
        **dict.fromkeys(CODES, "retry"),
        78: permanent,
    }
