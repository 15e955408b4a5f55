"""The chart's JobSet, for a training of several nodes: by its schema, and as `sidestep render` makes it."""

import json
from typing import Any

import jsonschema
import pytest

from tests.chart.charted import CHART, JOB, NEWEST, OF_NODES, OLDEST, helm, one, refused, rendered
from tests.facts import tells
from tests.platforms.jobset_model import SCHEMA, closed, job_of
from tests.platforms.rendering import ON_S3
from tests.platforms.test_jobset import manifests

pytestmark = pytest.mark.chart

TRAINS: dict[str, Any] = {"job": {"output_dir": "s3://studio/runs/x", "task": "train"}}
NODES = {**TRAINS, "nodes": 2, "gpusPerNode": 8, "jobSet": {"mustBeThere": False}}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_valid(version: str) -> None:
    import kubernetes_validate

    assert helm("lint", "--strict", str(CHART), "--values", str(OF_NODES)).returncode == 0
    for document in rendered(None, "--values", str(OF_NODES)):
        is_set = document["kind"] == "JobSet"
        if is_set:
            jsonschema.validate(document, closed(SCHEMA))
        kubernetes_validate.validate(job_of(document) if is_set else document, version, strict=True)


def test_it_is_the_one_that_render_makes() -> None:
    values = {**ON_S3, "task": "train", "audio_dir": None, "runtime": {"nodes": 2, "gpus": 8}}
    plain = manifests(values)[1]
    chart = one("JobSet", rendered({**NODES, "nodes": None, "gpusPerNode": None, "job": values}))
    mine, theirs = chart["spec"].pop("replicatedJobs"), plain["spec"].pop("replicatedJobs")
    assert chart["spec"] == plain["spec"]
    [mine], [theirs] = ([one["template"]["spec"] for one in jobs] for jobs in (mine, theirs))
    [ours], [its] = (one.pop("template")["spec"]["containers"] for one in (mine, theirs))
    assert mine == theirs
    for key in ("args", "env", "volumeMounts", "livenessProbe"):
        assert ours[key] == its[key], key
    assert ours["resources"]["limits"] == its["resources"]["limits"]


def test_a_cluster_without_jobset_is_told_of() -> None:
    has_none = {**NODES, "jobSet": {"mustBeThere": True}}
    assert tells(refused(has_none), "JobSet 0.10", "jobset.sigs.k8s.io", "jobSet.mustBeThere")
    there = rendered(has_none, "--api-versions", "jobset.x-k8s.io/v1alpha2")
    assert one("JobSet", there) == one("JobSet", rendered(NODES))
    assert not [found for found in there if found["kind"] == "Job"]


def test_several_gpus_of_one_node_are_a_job() -> None:
    job = one("Job", rendered({**TRAINS, "gpusPerNode": 4}))
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["launch", "--processes", "4", "train"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert job["spec"]["backoffLimit"] == 3


@pytest.mark.parametrize(
    ("job", "told"), [({"task": "pipeline"}, "preprocess"), ({"sweep": {"train.lr": [1e-4, 3e-4]}}, "sweep")]
)
def test_what_several_processes_cannot_do_is_refused(job: dict[str, Any], told: str) -> None:
    assert tells(refused({**NODES, "job": {**TRAINS["job"], **job}}), told)


def test_kueue_s_queue_and_the_bounds_are_the_jobset_s() -> None:
    given = {**NODES, "kueue": {"queueName": "gpus"}, "backoffLimit": 7, "activeDeadlineSeconds": 60}
    made = one("JobSet", rendered(given))
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "kueue" not in json.dumps(made["spec"]) and "suspend" not in json.dumps(made["spec"])
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert job_of(made)["spec"]["activeDeadlineSeconds"] == 60
    assert one("JobSet", rendered({**NODES, "backoffLimit": 0}))["spec"]["failurePolicy"]["maxRestarts"] == 0
    assert (
        one("JobSet", rendered({**NODES, "backoffLimit": None}))["spec"]["failurePolicy"]["maxRestarts"] == 6
    )


def test_what_cannot_change_is_in_its_name_which_is_short_enough() -> None:
    def name(**values: Any) -> str:
        return str(
            one("JobSet", rendered({**NODES, "fullnameOverride": "a" * 60, **values}))["metadata"]["name"]
        )

    names = [name(), name(backoffLimit=4), name(nodes=3), name(rerun=1), name(activeDeadlineSeconds=9)]
    assert len(set(names)) == 5 and name(ttlSecondsAfterFinished=9) == names[0]
    assert all(len(f"{one}-nodes-0-999-abcde") <= 63 for one in names)


def test_its_pods_reach_each_other_through_a_network_policy() -> None:
    policy = one("NetworkPolicy", rendered({**NODES, "networkPolicy": {"enabled": True}}))["spec"]
    peers = [{"podSelector": policy["podSelector"]}]
    assert {"from": peers} in policy["ingress"] and {"to": peers} in policy["egress"]
    alone = one("NetworkPolicy", rendered({**JOB, "networkPolicy": {"enabled": True}}))["spec"]
    assert "ingress" not in alone and "podSelector" not in json.dumps(alone["egress"])
