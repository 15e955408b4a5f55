"""Every kind of place on every platform: refused at render, or its credentials are asked for by name."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.cli import main
from sidestep.config.place import SCHEMES
from sidestep.platforms.access import is_reached
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import BadSpecError, ExitCode
from sidestep.storage.access import ACCESS, Way
from tests.facts import tells
from tests.platforms.rendering import ON_S3, render
from tests.platforms.test_scripts import SECRETS, TOOL, calls, options, tools

ANYWHERE = {*PLATFORMS}
OF_GOOGLE = {"docker", "kubernetes", "helm", "skypilot", "dstack", "slurm"}
PLACES: dict[str, tuple[str, str, set[str], set[str]]] = {
    # a place of this scheme: the field, what is asked for, and where it is to be had
    "s3": ("output_dir", "s3://studio/runs", {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, ANYWHERE),
    "az": (
        "output_dir",
        "az://studio/runs",
        {"AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"},
        ANYWHERE,
    ),
    "gs": ("output_dir", "gs://studio/runs", set(), OF_GOOGLE),
    "hf": ("checkpoint_dir", "hf://ACE-Step/Ace-Step1.5", {"HF_TOKEN"}, ANYWHERE),
    "http": ("audio_dir", "http://songs.example/mine", set(), ANYWHERE),
    "https": ("audio_dir", "https://songs.example/mine", set(), ANYWHERE),
    "file": ("audio_dir", "/data/songs", set(), {"docker", "slurm"}),
    "memory": ("output_dir", "memory://runs", set(), set()),
}
CELLS = [(scheme, platform) for scheme in SCHEMES for platform in PLATFORMS]
EVERY_NAME = {name for access in ACCESS.values() for name in access.variables}
CANARY = "canary-of-a-secret"


def on(scheme: str, **more: Any) -> dict[str, Any]:
    """A job with one place of `scheme`, and all others on the web where nothing is needed, or where it is."""
    web = {name: f"https://example.org/{name}" for name in ("checkpoint_dir", "audio_dir", "dataset_dir")}
    field, place, *_ = PLACES[scheme]
    return {"name": "my-lora", **web, "output_dir": "s3://a/b", field: place, **more}


def rendered_as_typed(platform: str, values: dict[str, Any]) -> tuple[int, str]:
    """The code, and the file; where it is refused, what was said."""
    Path("job.yaml").write_text(json.dumps(values))
    code = main(["render", platform, "job.yaml", "--output", "made"])
    return code, Path("made").read_text() if code == 0 else ""


def test_each_scheme_has_its_row() -> None:
    assert set(ACCESS) == set(SCHEMES) == set(PLACES)
    assert all(Way.VARIABLES in platform.brings for platform in PLATFORMS.values())


@pytest.mark.parametrize(("scheme", "platform"), CELLS)
def test_each_kind_of_place_on_each_platform(
    scheme: str, platform: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    field, place, names, where = PLACES[scheme]
    for name in EVERY_NAME:
        monkeypatch.setenv(name, CANARY)
    code, text = rendered_as_typed(platform, on(scheme))
    said = capsys.readouterr().err
    assert is_reached(scheme, PLATFORMS[platform]) == (platform in where)
    if platform in where:
        assert code == ExitCode.DONE, said
        of_output = PLACES["s3"][2] if field != "output_dir" else set()
        assert {name for name in EVERY_NAME if name in text} == names | of_output
        assert CANARY not in text + said
    else:
        assert code == ExitCode.BAD_SPEC
        assert tells(said, platform, field, place, "s3://bucket/folder"), said
        if scheme == "gs":
            assert tells(
                said, "GOOGLE_APPLICATION_CREDENTIALS", "Google Cloud", "skypilot", "storage.anonymous"
            )


@pytest.mark.parametrize("platform", ["runpod", "vast"])
def test_what_anyone_may_read_is_no_reason_to_refuse(platform: str) -> None:
    public = {**ON_S3, "audio_dir": "gs://open/songs", "storage": {"anonymous": True}}
    assert "my-lora" in render(platform, public).text
    with pytest.raises(BadSpecError, match="gs://studio/runs"):  # to write takes a right
        render(platform, {**public, "output_dir": "gs://studio/runs"})


def test_all_that_does_not_suit_is_said_at_once() -> None:
    values = {**ON_S3, "audio_dir": "/data/songs", "output_dir": "gs://a/b", "runtime": {"device": "cpu"}}
    with pytest.raises(BadSpecError) as refused:
        render("vast", values)
    assert tells(str(refused.value), "/data/songs", "gs://a/b", "runtime.device")
    with pytest.raises(BadSpecError, match=r"runtime\.device"):
        render("vast", {**ON_S3, "runtime": {"device": "cpu"}})


@pytest.mark.parametrize("platform", ["skypilot", "dstack"])
def test_google_s_places_are_for_google_s_machines(platform: str) -> None:
    _, text = rendered_as_typed(platform, on("gs"))
    made = YAML(typ="safe", pure=True).load(text)
    _, other = rendered_as_typed(platform, on("s3"))
    without = YAML(typ="safe", pure=True).load(other)
    if platform == "dstack":
        assert made["backends"] == ["gcp"] and "backends" not in without and "vm_service_account" in text
    else:
        assert [one["infra"] for one in made["resources"]["any_of"]] == ["gcp"]
        assert [one["infra"] for one in without["resources"]["any_of"]] == ["aws", "gcp", "azure"]


def test_skypilot_asks_for_no_token_that_may_not_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = rendered_as_typed("skypilot", on("hf"))
    assert YAML(typ="safe", pure=True).load(text)["secrets"] == {
        "AWS_ACCESS_KEY_ID": None,
        "AWS_SECRET_ACCESS_KEY": None,
        "HF_TOKEN": "",
    }
    command = capsys.readouterr().err.splitlines()[-1].strip()
    environ = tools(sky=f"{TOOL}\ntell()")
    for token in ({}, {"HF_TOKEN": "hf_x"}):
        assert subprocess.run(["sh", "-c", command], env={**environ, **token}).returncode == 0
    without, with_token = (call["words"] for call in calls("sky"))
    assert without == [word for word in with_token if word != "--secret=HF_TOKEN"] != with_token


@pytest.mark.parametrize("platform", ["docker", "slurm"])
def test_a_key_s_file_is_given_to_the_job_where_there_is_one(platform: str) -> None:
    work = {"SLURM_JOB_ID": "42", "CODE": "0", "SECONDS_OF_WORK": "0"}
    tool = f"{TOOL}\nif sys.argv[1] == 'pull': Path(sys.argv[2]).touch()\ntell(environ=dict(os.environ))"
    environ = {**tools(docker=tool, apptainer=tool), **work}
    Path("job.sh").write_text(render(platform, on("gs")).text)
    key = Path("my keys", "google.json").absolute()
    for more in ({}, {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}):
        subprocess.run(["bash", "job.sh"], env={**environ, **more}, check=True)
    without, given = (call for call in calls() if call["words"][0] == "run")
    assert "google.json" not in json.dumps(without)
    if platform == "docker":
        assert options(given["words"], "--mount") == [f"type=bind,source={key},target={key},readonly"]
        assert "GOOGLE_APPLICATION_CREDENTIALS" in options(given["words"], "--env")
        assert set(SECRETS).isdisjoint(given["words"])
    else:
        assert f"{key}:{key}:ro" in options(given["words"], "--bind")
        assert given["environ"]["APPTAINERENV_GOOGLE_APPLICATION_CREDENTIALS"] == str(key)


def test_a_shell_s_other_variables_are_passed_on_where_they_are_set() -> None:
    text = render("docker", on("az")).text
    for name in (*ACCESS["az"].instead, *ACCESS["az"].beside):
        assert f"--env {name} " in text
    assert "CONNECTION_STRING" not in render("runpod", on("az")).text  # its two variables are enough
