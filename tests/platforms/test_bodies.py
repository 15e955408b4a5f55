"""What the other platforms are sent, held against what their documentation names."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from sidestep.config.job import resolve
from sidestep.platforms.job import flattened
from sidestep.platforms.render import PLATFORMS
from sidestep.platforms.yaml11 import dump
from tests.platforms.rendering import ON_S3, ROOT, render

# CreatePodRequest, with ContainerConfig and CreateGpuConfig, of
# https://docs.runpod.io/api-reference-v2/pods/create-a-pod
VERSION = {"type": "string", "pattern": r"^\d+\.\d+$"}
CREATE_POD_REQUEST = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "image"],
    "properties": {
        **{name: {"type": "string", "minLength": 1} for name in ("name", "image", "args", "templateId")},
        "disk": {"type": "integer", "minimum": 1},
        "ports": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "registry": {"type": ["string", "null"]},
        "cloud": {"enum": ["SECURE", "COMMUNITY"]},
        "cpu": {"type": "object"},
        "gpu": {
            "type": "object",
            "additionalProperties": False,
            "required": ["id"],
            "properties": {
                "id": {"type": "string"},
                "count": {"type": "integer", "minimum": 1},
                "allowedCudaVersions": {"type": "array", "items": VERSION},
                "minCudaVersion": VERSION,
                "minRamPerGpu": {"type": "integer", "minimum": 1},
                "minVcpuCountPerGpu": {"type": "integer", "minimum": 1},
            },
        },
        "dataCenterIds": {"type": "array", "items": {"type": "string"}},
        "globalNetworking": {"type": "boolean"},
        "mounts": {"type": "object"},
        "startJupyter": {"type": "boolean"},
        "startSsh": {"type": "boolean"},
    },
}


def test_runpod_s_body() -> None:
    rendered = render("runpod", {**ON_S3, "train": {"lr": 1e-4}}, file="my job.json")
    body = json.loads(rendered.text)
    Draft202012Validator(CREATE_POD_REQUEST).validate(body)
    assert ("gpu" in body) != ("cpu" in body)  # exactly one of them, says the page
    assert body["args"] == "run" and body["gpu"]["minCudaVersion"] == "13.0"
    secrets = {name: value for name, value in body["env"].items() if not name.startswith("SIDESTEP_")}
    # https://docs.runpod.io/pods/templates/secrets: {{ RUNPOD_SECRET_secret_name }}
    assert secrets == {
        name: f"{{{{ RUNPOD_SECRET_{name} }}}}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    spec, _ = resolve(environ={name: value for name, value in body["env"].items() if name not in secrets})
    assert spec.train.lr == 1e-4 and spec.runtime.on_exit == "terminate"
    assert "POST https://api.runpod.io/v2/pods " in rendered.command
    assert "Bearer $RUNPOD_API_KEY" in rendered.command and "-d @'my job.json'" in rendered.command


def test_dstack_s_task_says_what_is_retried() -> None:
    rendered = render("dstack", ON_S3)
    task = YAML(typ="safe", pure=True).load(rendered.text)
    assert task["retry"]["on_events"] == ["no-capacity", "interruption", "error"]
    assert "permanent errors" in rendered.text.partition("type:")[0]
    assert task["env"]["AWS_ACCESS_KEY_ID"] == "${{ secrets.AWS_ACCESS_KEY_ID }}"
    given = {name: value for name, value in task["env"].items() if name.startswith("SIDESTEP_")}
    assert resolve(environ=given)[0].output_dir == ON_S3["output_dir"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,40}", task["name"])


@pytest.mark.parametrize("name", ["no", "A_Name.with-everything", "0123", "x" * 63])
def test_names_are_made_to_fit(name: str) -> None:
    task = YAML(typ="safe", pure=True).load(render("dstack", {**ON_S3, "name": name}).text)
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,40}", task["name"]) and not task["name"].endswith("-")
    assert task["env"]["SIDESTEP_NAME"] == name


@pytest.mark.parametrize("version", [(1, 1), (1, 2)])
def test_every_reader_of_yaml_reads_the_same(version: tuple[int, int]) -> None:
    texts = [
        "no",
        "on",
        "1e-4",
        "1_000",
        "0o17",
        "12:30",
        "~",
        "null",
        "",
        " a",
        "a: b",
        "- a",
        "{{ a }}",
        "a\nb\n",
    ]
    texts += [
        "yes",
        "Y",
        "s3://bucket/a b",
        "/data/songs",
        "a#b",
        "a #b",
        "é",
        "'",
        '"',
        "\\",
        "@a",
        "!a",
        "1.5",
        "=",
    ]
    values: dict[str, Any] = {"texts": texts, "numbers": [1, 0.5, True, None]} | {
        text: 1 for text in texts if text
    }
    reader = YAML(typ="safe", pure=True)
    reader.version = version
    assert reader.load(dump(values, comment="one\n\ntwo")) == values


def test_an_empty_mapping_is_left_to_its_default() -> None:
    assert flattened({("train", "adapter", "rank_pattern"): {}, ("train", "max_steps"): None}) == {
        "SIDESTEP_TRAIN__MAX_STEPS": "null"
    }


def test_the_page_s_table_says_what_is_rendered() -> None:
    page = (ROOT / "docs" / "places.md").read_text(encoding="utf-8")
    for one in PLATFORMS.values():
        grace = f"{one.grace_seconds} s" if one.grace_seconds else "the spec's"
        row = f"| {one.name} | {one.reclaim} | {one.notice} | {grace} | {one.next_attempt} |"
        assert row in page, row
