"""Shards on platforms that start many jobs of one file: how many, and what each is told."""

import subprocess
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.platforms.kubernetes import BACKOFF_LIMIT, indexed_failure_policy
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import BadSpecError
from tests.platforms.rendering import ON_S3, render

DEALT: dict[str, Any] = {**ON_S3, "task": "preprocess", "preprocess": {"shards": 5}}


def test_kubernetes_has_an_index_for_each_shard() -> None:
    def job_of(values: dict[str, Any]) -> dict[str, Any]:
        documents = list(YAML(typ="safe", pure=True).load_all(render("kubernetes", values).text))
        spec: dict[str, Any] = documents[1]["spec"]
        return spec

    job = job_of(DEALT)
    assert job.items() >= {"completionMode": "Indexed", "completions": 5, "parallelism": 5}.items()
    assert job.get("backoffLimitPerIndex") == BACKOFF_LIMIT and "backoffLimit" not in job
    assert job["podFailurePolicy"] == indexed_failure_policy()
    assert "successPolicy" not in job  # it would end shards that are still made
    for other in ({"shards": 1}, {"shards": 5, "shard": 2}):
        assert "completions" not in job_of({**DEALT, "preprocess": other})
    assert "completions" not in job_of({**DEALT, "task": "train"})


def test_slurm_has_a_task_for_each_shard_and_says_how_the_next_phase_waits() -> None:
    script = render("slurm", DEALT).text
    assert "#SBATCH --array=0-4\n" in script and "--dependency=afterok:" in script
    assert "export APPTAINERENV_SIDESTEP_PREPROCESS__SHARDS=5\n" in script
    told = "\n".join(line for line in script.splitlines() if "APPTAINERENV_SLURM_ARRAY_TASK_" in line)
    told += "\nprintenv APPTAINERENV_SLURM_ARRAY_TASK_ID APPTAINERENV_SLURM_ARRAY_TASK_COUNT"
    environ = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "5"}
    assert subprocess.run(["bash", "-uc", told], env=environ, capture_output=True).stdout == b"2\n5\n"


def test_skypilot_is_given_a_managed_job_for_each_shard(tmp_path: Any) -> None:
    config = tmp_path / "job.yaml"
    YAML(typ="safe", pure=True).dump(DEALT, config)
    rendered = render("skypilot", config=config)
    assert "--env SKYPILOT_JOB_RANK " in YAML(typ="safe", pure=True).load(rendered.text)["run"]
    assert "seq 0 4" in rendered.command and "--num-jobs 5" in rendered.text


@pytest.mark.parametrize("platform", [name for name, one in PLATFORMS.items() if not one.starts_many])
def test_where_one_job_is_started_it_must_be_named(platform: str) -> None:
    with pytest.raises(BadSpecError, match=r"preprocess\.shards = 5.*kubernetes.*preprocess\.shard"):
        render(platform, DEALT)
    assert "shard" in render(platform, {**DEALT, "preprocess": {"shards": 5, "shard": 4}}).text.lower()


@pytest.mark.parametrize("platform", [name for name in PLATFORMS if name not in ("kubernetes", "skypilot")])
def test_shards_that_are_named_are_jobs_beside_each_other(platform: str) -> None:
    """By its name a container, a rented machine, a run or a release would be taken for another shard's."""
    for name in ("x", "a" * 40):
        shard = {**DEALT, "name": name, "preprocess": {"shards": 5, "shard": 4}}
        rendered = render(platform, shard)
        assert "-4-of-5" in rendered.text + rendered.command
        assert "-4-of-5" not in render(platform, {**shard, "task": "train"}).text
