"""What the chart's pod may reach, offers and takes: metrics, metadata, disk, memory, its end."""

import json

import pytest

from sidestep.config.job import JobSpec
from sidestep.platforms.disk import workspace_gib
from tests.chart.charted import (
    JOB,
    Manifest,
    one,
    rendered,
)

pytestmark = pytest.mark.chart


MONITORED: Manifest = {**JOB, "metrics": {"port": 9400, "podMonitor": {"enabled": True}}}


def test_without_a_port_there_is_no_endpoint() -> None:
    documents = rendered({**JOB, "networkPolicy": {"enabled": True}})
    text = json.dumps(documents)
    assert "METRICS_PORT" not in text and "containerPort" not in text and "PodMonitor" not in text
    assert "ingress" not in one("NetworkPolicy", documents)["spec"]  # and Ingress is among the types: nothing


@pytest.mark.parametrize(
    ("values", "port", "env"),
    [
        ({**JOB, "metrics": {"port": 9400}}, 9400, ["9400"]),
        ({"job": {**JOB["job"], "runtime": {"metrics_port": 9500}}}, 9500, []),  # the job reads its spec
        (
            {"job": {"output_dir": "s3://a/b", "runtime": {"metrics_port": 1}}, "metrics": {"port": 9400}},
            9400,
            ["9400"],
        ),
        ({"existingConfigMap": "mine", "metrics": {"port": 9400}}, 9400, ["9400"]),
    ],
    ids=["value", "spec", "both", "config map"],
)
def test_the_port_of_the_metrics(values: Manifest, port: int, env: list[str]) -> None:
    """Of the job alone: `helm test` serves none."""
    documents = rendered({**values, "extraEnv": [{"name": "OTHER", "value": "1"}]})
    [container] = one("Job", documents)["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": port}]
    variable = "SIDESTEP_RUNTIME__METRICS_PORT"
    assert [one["value"] for one in container["env"] if one["name"] == variable] == env
    assert JobSpec.model_validate({"runtime": {"metrics_port": port}}).runtime.metrics_port == port
    assert "metrics" not in json.dumps(one("Pod", documents)["spec"]["containers"]).lower()


def test_a_monitor_of_the_pod() -> None:
    """As the operator's API says: monitoring.coreos.com/v1, PodMonitorSpec."""
    values = {
        **MONITORED,
        "metrics": {"port": 9400, "podMonitor": {"enabled": True, "labels": {"release": "p"}}},
    }
    documents = rendered(values)
    monitor = one("PodMonitor", documents)
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "p"
    assert monitor["metadata"]["labels"]["app.kubernetes.io/name"] == "side-step"
    pod = one("Job", documents)["spec"]["template"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": pod["spec"]["containers"][0]["ports"][0]["name"]}  # /metrics is the default
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= pod["metadata"]["labels"].items()
    assert not selected <= one("Pod", documents)["metadata"].get("labels", {}).items()
    values["metrics"]["podMonitor"]["interval"] = "15s"
    assert one("PodMonitor", rendered(values))["spec"]["podMetricsEndpoints"][0]["interval"] == "15s"


def test_who_may_read_the_metrics() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    closed = one("NetworkPolicy", rendered({**MONITORED, "networkPolicy": {"enabled": True}}))
    assert "ingress" not in closed["spec"] and "Ingress" in closed["spec"]["policyTypes"]
    open_ = one(
        "NetworkPolicy", rendered({**MONITORED, "networkPolicy": {"enabled": True, "metricsFrom": peers}})
    )
    assert open_["spec"]["ingress"] == [{"from": peers, "ports": [{"port": 9400, "protocol": "TCP"}]}]


@pytest.mark.parametrize("metadata", [False, True])
def test_the_machine_s_metadata_is_out_of_reach_unless_asked_for(metadata: bool) -> None:
    policy = one("NetworkPolicy", rendered({**JOB, "networkPolicy": {"enabled": True, "metadata": metadata}}))
    rules = policy["spec"]["egress"]
    ports = {port["port"] for rule in rules for port in rule["ports"]}
    assert ports == ({53, 443, 80, 987, 988} if metadata else {53, 443})
    for rule in rules:  # plain http goes nowhere else
        if any(port["port"] not in (53, 443) for port in rule["ports"]):
            blocks = {peer["ipBlock"]["cidr"] for peer in rule["to"]}
            assert {"169.254.169.254/32", "169.254.169.252/32", "169.254.170.23/32"} <= blocks
            assert all(block.startswith(("169.254.", "fd00:ec2::")) for block in blocks)


@pytest.mark.parametrize(
    ("job", "size"),
    [
        ({}, "24Gi"),
        ({"model_variant": "acestep-v15-turbo"}, "24Gi"),
        ({"model_variant": "xl-sft"}, "40Gi"),
        ({"model_variant": "my-fine-tune", "train": {"adapter": {"rank": 129}}}, "46Gi"),
        ({"train": {"adapter": {"type": "lokr", "rank": 1024}}}, "24Gi"),
        ({"storage": {"cache_gb": 50}}, "71Gi"),
        ({"sweep": {"train.adapter.rank": [16, 129], "train.adapter.type": ["lokr", "lora"]}}, "30Gi"),
        ({"sweep": {"train.adapter.rank": [16, 129], "train.adapter.type": ["lokr"]}}, "24Gi"),
    ],
)
def test_the_disk_is_what_the_spec_needs(job: Manifest, size: str) -> None:
    """It is the same sum as the one in the code."""
    values = {**JOB["job"], **job}
    spec = JobSpec.model_validate(values)
    assert f"{workspace_gib(spec)}Gi" == size
    pod = one("Job", rendered({"job": values}))["spec"]["template"]["spec"]
    assert {"name": "workspace", "emptyDir": {"sizeLimit": size}} in pod["volumes"]
    assert pod["containers"][0]["resources"]["requests"]["ephemeral-storage"] == size


def test_another_s_spec_may_be_about_the_largest_model() -> None:
    assert "40Gi" in json.dumps(one("Job", rendered({"existingConfigMap": "mine"})))


def test_a_volume_of_the_pod_s_own_in_place_of_the_node_s_disk() -> None:
    values = {**JOB, "workspace": {"ephemeralVolume": {"enabled": True}}}
    pod = one("Job", rendered(values))["spec"]["template"]["spec"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "workspace"]
    assert volume["ephemeral"]["volumeClaimTemplate"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "24Gi"}},
    }
    assert "ephemeral-storage" not in json.dumps(pod["containers"][0]["resources"])
    assert "ephemeral" not in json.dumps(one("Pod", rendered(values))["spec"]["volumes"])


def test_the_reason_of_an_end_is_in_the_pod_s_status(documents: list[Manifest]) -> None:
    [container] = one("Job", documents)["spec"]["template"]["spec"]["containers"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_no_memory_is_set_aside_that_nobody_uses(documents: list[Manifest]) -> None:
    assert "Memory" not in json.dumps(documents) and "/dev/shm" not in json.dumps(documents)


def test_unset_a_deadline_is_not_there() -> None:
    """It counts from the Job's creation: one that waits for a GPU would fail in the queue."""
    assert "activeDeadlineSeconds" not in one("Job", rendered(JOB))["spec"]
