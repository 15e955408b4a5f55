"""`sidestep render`: what it writes where, what it says, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep.cli import main
from sidestep.config.fields import spec_fields
from sidestep.config.job import resolve
from sidestep.platforms.job import flattened
from sidestep.platforms.render import PLATFORMS, job_for, said
from sidestep.platforms.wishes import Wishes
from sidestep.runtime.errors import BadSpecError, ExitCode, UsageError
from sidestep.runtime.words import nested
from tests.facts import facts
from tests.platforms.rendering import IMAGE, ON_S3, SPECS, job, render

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIA-not-to-be-seen", "AWS_SECRET_ACCESS_KEY": "s3cr3t-not-to-be-seen"}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_secrets_go_by_name_alone(
    platform: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert main(["render", platform, str(SPECS / "s3" / "pipeline.yaml")]) == ExitCode.DONE
    shown = "".join(capsys.readouterr())
    assert not any(value in shown for value in SECRETS.values())
    rendered = render(platform, config=SPECS / "s3" / "pipeline.yaml")
    by_name = "sidestep-credentials" if platform == "helm" else "AWS_SECRET_ACCESS_KEY"
    assert by_name in rendered.text


def test_a_job_without_credentials_asks_for_none() -> None:
    public = {**ON_S3, "output_dir": "gs://studio/runs/my-lora", "storage": {"anonymous": True}}
    azure = {**ON_S3, "output_dir": "az://container@account/runs"}
    assert "AWS_" not in render("docker", public).text
    assert "--env AWS_ACCESS_KEY_ID" in render("docker", azure).text
    assert "--env AZURE_STORAGE_ACCOUNT_KEY" in render("docker", azure).text


def test_a_name_within_the_output_is_no_local_path() -> None:
    values = {**ON_S3, "task": "train", "train": {"resume_from": "checkpoint-epoch-50"}}
    assert "checkpoint-epoch-50" in render("vast", values).text


def test_skypilot_takes_the_spec_s_file_and_what_is_said_beside_it() -> None:
    with pytest.raises(UsageError, match="--config"):
        render("skypilot", ON_S3)
    text = render("skypilot", {"train": {"seed": 7}}, config=SPECS / "s3" / "pipeline.yaml").text
    assert "SIDESTEP_TRAIN__SEED=7" in text and "SIDESTEP_RUNTIME__GRACE_SECONDS=20" in text
    assert "SIDESTEP_NAME" not in text  # it is in the file
    Path("patient.yaml").write_text(
        (SPECS / "s3" / "lora.yaml").read_text() + "runtime: {grace_seconds: 60}\n"
    )
    assert "SIDESTEP_RUNTIME__GRACE_SECONDS=20" in render("skypilot", config=Path("patient.yaml")).text


@pytest.mark.parametrize("platform", [platform for platform in PLATFORMS.values() if platform.grace_seconds])
@pytest.mark.parametrize("seconds", [2, 30])
def test_no_more_time_is_counted_on_than_the_platform_leaves(platform: Any, seconds: int) -> None:
    text = render(platform.name, {"runtime": {"grace_seconds": seconds}}, SPECS / "s3" / "lora.yaml").text
    quoted = text.replace('"', "").replace(": ", "=")
    assert f"SIDESTEP_RUNTIME__GRACE_SECONDS={min(seconds, platform.grace_seconds)}" in quoted


def test_a_platform_that_can_be_told_waits_longer_than_the_job_needs() -> None:
    values = {**ON_S3, "runtime": {"grace_seconds": 50.5}}
    assert "--stop-timeout 61 " in render("docker", values).text
    assert "terminationGracePeriodSeconds: 61\n" in render("kubernetes", values).text
    assert "--signal=B:USR1@61\n" in render("slurm", values).text


@pytest.mark.parametrize("platform", [platform for platform in PLATFORMS if platform != "skypilot"])
def test_the_workspace_is_the_image_s(platform: str) -> None:
    assert "/scratch/me" not in render(platform, {**ON_S3, "runtime": {"workspace": "/scratch/me"}}).text


@pytest.mark.parametrize(
    ("platform", "values", "disk", "asked"),
    [
        ("kubernetes", {}, None, "24Gi"),
        ("kubernetes", {"model_variant": "xl-base"}, None, "40Gi"),
        ("kubernetes", {}, 70, "70Gi"),
        ("helm", {}, 70, 'size: "70Gi"'),
        ("runpod", {}, None, '"disk": 36'),
        ("runpod", {"train": {"adapter": {"rank": 128}}}, None, '"disk": 39'),
        ("runpod", {}, 70, '"disk": 82'),
        ("vast", {"model_variant": "xl-base"}, None, "disk=52"),
        ("vast", {}, 70, "disk=82"),
        ("skypilot", {}, None, "disk_size: 86"),
        ("skypilot", {}, 70, "disk_size: 132"),
        ("dstack", {}, None, "86GB.."),
        ("dstack", {"model_variant": "xl-base"}, None, "102GB.."),
        ("dstack", {}, 70, "132GB.."),
    ],
)
def test_the_disk_is_the_model_s_and_the_adapter_s_or_what_is_said(
    platform: str, values: dict[str, Any], disk: int | None, asked: str
) -> None:
    """Beside the workspace it holds the image, and on a cloud's machine the system too."""
    Path("job.yaml").write_text("".join(f"{name}: {value}\n" for name, value in ON_S3.items()))
    spec, origins = resolve(arguments=values, config=Path("job.yaml"), environ={})
    job = job_for(PLATFORMS[platform], spec, origins, IMAGE, wishes=Wishes(disk=disk))
    assert asked in PLATFORMS[platform].render(job).text


def test_the_disk_of_this_machine_is_not_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(SPECS / "s3" / "lora.yaml")
    assert main(["render", "runpod", spec, "--disk", "70"]) == ExitCode.DONE
    assert '"disk": 82' in capsys.readouterr().out
    for refused in (["docker", spec, "--disk", "70"], ["runpod", spec, "--disk", "7"]):
        assert main(["render", *refused]) == ExitCode.USAGE
        assert "--disk" in capsys.readouterr().err


def test_rented_machines_are_given_back_unless_the_spec_says_otherwise() -> None:
    for platform in ("runpod", "vast"):
        given = job(platform, ON_S3).environment
        kept = job(platform, {**ON_S3, "runtime": {"on_exit": "none"}}).environment
        assert given["SIDESTEP_RUNTIME__ON_EXIT"] == "terminate"
        assert kept["SIDESTEP_RUNTIME__ON_EXIT"] == "none"


def test_schemes_are_known_in_any_case_and_file_uris_are_decoded() -> None:
    rendered = render("docker", {**ON_S3, **{name: "S3://b/x" for name in ON_S3 if name.endswith("_dir")}})
    assert "--env AWS_ACCESS_KEY_ID" in rendered.text
    folder = {**ON_S3, "output_dir": "FILE:///data/my%20runs"}
    assert "--volume '/data/my runs:/data/my runs'" in render("docker", folder).text
    with pytest.raises(BadSpecError, match="output_dir"):
        render("kubernetes", folder)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_file_for_a_collector_is_on_the_machine_that_runs_the_job(platform: str) -> None:
    values = {**ON_S3, "runtime": {"metrics_file": "metrics/my-lora.prom"}}
    if not PLATFORMS[platform].local_paths:
        with pytest.raises(BadSpecError, match=facts("metrics/my-lora.prom", "runtime.metrics_port")):
            render(platform, values)
        return
    text, folder = render(platform, values).text, Path("metrics").absolute()
    assert f"METRICS_FILE={folder}/my-lora.prom" in text
    assert f"{folder}:{folder} " in text and f"mkdir -p {folder}" in text  # to be written


def test_the_home_of_a_user_who_is_not_there_is_refused() -> None:
    with pytest.raises(BadSpecError, match="~nobody-of-that-name/runs"):
        render("docker", {**ON_S3, "output_dir": "~nobody-of-that-name/runs"})


# A variable's outer blanks are left out when it is read.
TEXT = (
    st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]))
    .map(str.strip)
    .filter(bool)
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_.0123456789", min_size=1)
SPECIFIC: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("name",): st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
    ("model_variant",): TEXT.filter(lambda text: not set("/\\") & set(text)),
    ("runtime", "device"): st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    ("storage", "endpoint_url"): st.sampled_from([None, "http://127.0.0.1:9000"]),
    ("train", "adapter", "target_modules"): st.lists(NAMES, min_size=1),
}


def values_of(path: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """Values that the field may take, and some that it may not."""
    field = spec_fields()[path]
    if path in SPECIFIC:
        return SPECIFIC[path]
    kinds = {
        "null": st.none(),
        "boolean": st.booleans(),
        "integer": st.integers(0, 2**32),
        "number": st.floats(0, 1e4) | st.sampled_from([1e-4, 1e-05]),
        "string": st.sampled_from(field.choices) if field.choices else TEXT,
        "array": st.lists(NAMES, min_size=1),
        "object": st.dictionaries(NAMES, st.integers(1, 99)),
    }
    return st.one_of(*(kinds[kind] for kind in field.types))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_spec_says_the_same_in_variables(data: st.DataObject) -> None:
    values: dict[tuple[str, ...], Any] = {("output_dir",): "s3://a/b", ("audio_dir",): "s3://a/c"}
    for path in data.draw(st.lists(st.sampled_from(sorted(spec_fields())), max_size=6, unique=True)):
        values[path] = data.draw(values_of(path))
    try:
        spec, origins = resolve(arguments=nested(values), environ={})
    except BadSpecError:
        return
    assert resolve(environ=flattened(said(spec, origins)))[0] == spec
