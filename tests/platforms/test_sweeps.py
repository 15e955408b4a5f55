"""A sweep on platforms that start many jobs of one file: how many, what each is told, what a failure ends."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.config.index import VARIABLES, numbered
from sidestep.config.job import resolve
from sidestep.config.sweep import members_of
from sidestep.platforms.disk import workspace_gib
from sidestep.platforms.kubernetes import BACKOFF_LIMIT, indexed_failure_policy
from sidestep.platforms.render import PLATFORMS, job_for
from sidestep.runtime.errors import BadSpecError, ExitCode, Rerun, rerun_after
from tests.facts import facts
from tests.platforms.rendering import IMAGE, ON_S3, render

SWEPT = {**ON_S3, "sweep": {"train.lr": [1e-4, 3e-4], "train.adapter.rank": [16, 129]}}


def job_of(values: dict[str, Any]) -> dict[str, Any]:
    documents = list(YAML(typ="safe", pure=True).load_all(render("kubernetes", values).text))
    spec: dict[str, Any] = documents[1]["spec"]
    return spec


def outcome(code: int, disrupted: bool = False) -> str:
    """What Kubernetes does about a pod of an index that ended so: the first rule that matches counts."""
    for rule in indexed_failure_policy()["rules"]:
        if (disrupted and "onPodConditions" in rule) or code in rule.get("onExitCodes", {}).get("values", []):
            return str(rule["action"])
    return "Count"


def test_kubernetes_has_an_index_for_each_run() -> None:
    job = job_of(SWEPT)
    counts = {name: job[name] for name in ("completionMode", "completions", "parallelism")}
    assert counts == {"completionMode": "Indexed", "completions": 4, "parallelism": 4}
    assert job["backoffLimitPerIndex"] == BACKOFF_LIMIT and "backoffLimit" not in job
    assert job["podFailurePolicy"] == indexed_failure_policy()
    assert "successPolicy" not in job  # it would end runs that still train
    for task in ("preprocess", "estimate"):  # what the runs share is one job
        assert "completions" not in job_of({**SWEPT, "task": task})


def test_a_failure_of_one_run_leaves_the_others_alone() -> None:
    outcomes = {int(code): outcome(code) for code in ExitCode if code is not ExitCode.DONE}
    assert outcomes == {
        **dict.fromkeys((64, 77, 78), "FailJob"),
        **dict.fromkeys((65, 66, 70, 71), "FailIndex"),
        **dict.fromkeys((69, 72, 73, 74, 76), "Count"),
        75: "Ignore",
    }
    assert all(outcome(code, disrupted=True) == "Ignore" for code in range(1, 256))
    assert {outcome(code) for code in range(1, 256) if rerun_after(code) is Rerun.COUNTED} == {"Count"}


def test_slurm_has_a_task_for_each_run() -> None:
    script = render("slurm", SWEPT).text
    assert "#SBATCH --array=0-3\n" in script and "#SBATCH --output=my-lora-%A_%a.log\n" in script
    (line,) = [line for line in script.splitlines() if "APPTAINERENV_SLURM_ARRAY_TASK_ID=" in line]
    told = f"{line}; printenv APPTAINERENV_SLURM_ARRAY_TASK_ID"
    done = subprocess.run(["bash", "-uc", told], env={"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True)
    assert done.stdout == b"2\n"
    assert (
        "--array" not in render("slurm", ON_S3).text and "ARRAY_TASK_ID=" not in render("slurm", ON_S3).text
    )


def test_skypilot_is_given_a_managed_job_for_each_run(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    YAML(typ="safe", pure=True).dump(SWEPT, config)
    rendered = render("skypilot", config=config)
    assert "--env SKYPILOT_JOB_RANK " in YAML(typ="safe", pure=True).load(rendered.text)["run"]
    sky = tmp_path / "sky"
    sky.write_text('#!/bin/sh\necho "$@"\n')
    sky.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", rendered.command], env={"PATH": path}, capture_output=True, text=True)
    launched = done.stdout.splitlines()
    assert [line.partition("SKYPILOT_JOB_RANK=")[2][:1] for line in launched] == ["0", "1", "2", "3"]
    assert [line.partition("--name ")[2].split()[0] for line in launched] == [
        f"my-lora-{number}" for number in range(4)
    ]


@pytest.mark.parametrize("platform", ["docker", "runpod", "vast", "dstack", "slurm"])
def test_the_sweep_reaches_a_job_that_is_told_by_variables(platform: str) -> None:
    """As it was given: in order, with each value."""
    spec, origins = resolve(arguments=SWEPT, environ={})
    environ = job_for(PLATFORMS[platform], spec, origins, IMAGE).environment
    there, _ = resolve(environ=environ)
    assert [one.folder for one in members_of(there)] == [one.folder for one in members_of(spec)]
    assert "SIDESTEP_SWEEP" in render(platform, SWEPT).text
    modules = {"train.adapter.target_modules": [["q_proj"], ["q_proj", "v_proj"]], "train.ema.use": [True]}
    spec, origins = resolve(arguments={**ON_S3, "sweep": modules}, environ={})
    there, _ = resolve(environ=job_for(PLATFORMS["slurm"], spec, origins, IMAGE).environment)
    assert [one.folder for one in members_of(there)] == [one.folder for one in members_of(spec)]


def test_the_disk_is_for_the_largest_run() -> None:
    spec, _ = resolve(arguments=SWEPT, environ={})
    assert workspace_gib(spec) == workspace_gib(spec.changed({"sweep": {}, "train.adapter.rank": 129}))


def test_each_index_has_its_variable() -> None:
    for name, count in VARIABLES.items():
        found = numbered({name: "7", **({count: "8"} if count else {})})
        assert found and found.index == 7
    assert numbered({}) is None


SWEPT_ADAPTERS = {**ON_S3, "task": "train", "dataset_dir": "s3://studio/tensors"}


def begun_from(*places: str | None) -> dict[str, Any]:
    return {**SWEPT_ADAPTERS, "sweep": {"train.init_from": list(places)}}


def test_places_that_are_swept_come_along_as_others_do() -> None:
    values = begun_from("/adapters/one", None, "gs://adapters/two")
    script = render("slurm", values).text
    assert "--bind /adapters/one:/adapters/one:ro" in script
    assert "GOOGLE_APPLICATION_CREDENTIALS" in script
    with pytest.raises(BadSpecError, match=facts("kubernetes", "train.init_from", "/adapters/one")):
        render("kubernetes", values)
    own = {**SWEPT_ADAPTERS, "sweep": {"train.adapter.rank_from": ["estimate", None]}}
    assert "--bind" not in render("slurm", own).text  # a name within the output


@pytest.mark.parametrize("platform", ["slurm", "docker"])
@pytest.mark.parametrize("place", ["adapters/one", "~/adapters/one"])
def test_a_relative_place_in_a_sweep_is_refused(platform: str, place: str) -> None:
    """The job would look for it elsewhere; written out in full it would be another run, in another folder."""
    whole = str(Path(place).expanduser().absolute())
    with pytest.raises(BadSpecError, match=facts("train.init_from", place, whole)):
        render(platform, begun_from("/adapters/two", place))
