"""The chart as helm renders it, for the tests."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "side-step"
HELM = os.environ.get("HELM", "helm")
OLDEST, NEWEST = "1.31", "1.37"  # Chart.yaml's kubeVersion, and the newest that there are schemas of
OF_NODES = CHART / "ci" / "nodes-values.yaml"  # a JobSet: see test_jobset.py
VALUES = sorted({*(CHART / "ci").glob("*-values.yaml")} - {OF_NODES})
JOB = {"job": {"audio_dir": "s3://a/b", "output_dir": "s3://studio/runs/x"}}

Manifest = dict[str, Any]


def helm(*arguments: str, values: Manifest | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; `values` are on top of whatever files the arguments name."""
    given = ["--values", "-"] if values is not None else []
    text = json.dumps(values) if values is not None else None
    return subprocess.run([HELM, *arguments, *given], input=text, capture_output=True, text=True)


def rendered(values: Manifest | None = None, *arguments: str) -> list[Manifest]:
    done = helm("template", "my-lora", str(CHART), *arguments, values=values)
    assert done.returncode == 0, done.stderr
    return [document for document in YAML(typ="safe").load_all(done.stdout) if document]


def one(kind: str, documents: list[Manifest]) -> Manifest:
    [found] = [document for document in documents if document["kind"] == kind]
    return found


def refused(values: Manifest) -> str:
    done = helm("template", "my-lora", str(CHART), values=values)
    assert done.returncode != 0, f"was not refused: {values}"
    return done.stderr


def pods(documents: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Kind and spec of every pod that the documents make."""
    for document in documents:
        if document["kind"] == "Pod":
            yield "Pod", document["spec"]
        elif document["kind"] in ("Job", "Deployment"):
            yield document["kind"], document["spec"]["template"]["spec"]
