"""What `make` says on a machine that lacks a program."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("target", "program"),
    [
        ("image", "docker"),
        ("test-image", "docker"),
        ("sbom", "docker"),
        ("test-chart", "helm"),
        ("test-browser", "chromium"),
        ("music", "apt-get"),
    ],
)
def test_a_missing_program_is_named_in_one_line(target: str, program: str) -> None:
    """And before anything is installed: without Python, that would have a line of its own."""
    make = shutil.which("make")
    assert make is not None
    Path("bin").mkdir()
    for tool in ("sh", "sed", "git"):
        Path("bin", tool).symlink_to(str(shutil.which(tool)))
    # `make test` hands its own level and flags down, and a make below it speaks as make[1].
    own = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "ENGINE", "HELM", "CHROMIUM")
    alone = {name: value for name, value in os.environ.items() if name not in own}
    command = [make, "--silent", target, "PYTHON=no-python"]
    environ = {**alone, "PATH": str(Path("bin").absolute())}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode != 0
    [line] = done.stdout.splitlines()
    assert f"no {program} on PATH" in line and f"make {target} needs" in line
    assert all(line.startswith("make: ***") for line in done.stderr.splitlines())
