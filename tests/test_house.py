"""The rules that hold the house together: imports point one way, and nothing heavy loads before it must."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sidestep"
FLOORS = [  # a room may import from its own floor and from those before it
    {"runtime", "storage", "spec"},
    {"data", "acestep", "adapters", "training", "report"},
    {"tasks", "planning", "places", "wizard"},
    {"cli", "commands", "parser", "completion", "demo", "__init__", "__main__"},
]


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import from sidestep, wherever in the file it stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "sidestep" and rest:
                yield node.lineno, rest.split(".")[0]


def floor(name: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if name in rooms), len(FLOORS))


def test_imports_point_one_way() -> None:
    for file in PACKAGE.rglob("*.py"):
        own = room(file)
        assert floor(own) < len(FLOORS), f"{own} has no floor yet"
        for line, other in rooms_imported(file):
            if floor(other) < len(FLOORS) and other != own:  # else a name such as sidestep.JobSpec
                assert floor(other) <= floor(own), f"{file}:{line}: {own} may not import {other}"


@pytest.mark.parametrize(
    "module",
    [
        *("sidestep", "sidestep.cli", "sidestep.config.sources", "sidestep.storage.open"),
        *("sidestep.preflight.places", "sidestep.commands.plan"),
    ],
)
def test_checking_a_spec_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
