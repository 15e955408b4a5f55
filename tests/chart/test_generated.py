"""What the chart takes from the code is what the code says now. Needs no helm."""

import importlib.util
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def test_the_generated_files_are_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "helm" / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for file, content in generate.generated().items():
        assert file.read_text() == content, f"{file} is not current: run `make chart`"


def test_the_chart_has_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = YAML(typ="safe").load(ROOT / "helm" / "side-step" / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (version, version)
