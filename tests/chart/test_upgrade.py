"""`helm upgrade` on a Job that Kueue has in hand: what Helm sends, and what becomes of the Job.

Helm itself runs, against a stand-in for the API server, by both ways in which it can merge: three-way on the
client's side, as Helm 3 does, and server-side apply, the default of Helm 4.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.chart.api_server import ApiServer, api_server
from tests.chart.charted import CHART, HELM, JOB

pytestmark = pytest.mark.chart

Values = dict[str, Any]
IN_A_QUEUE: Values = {
    **JOB,
    "kueue": {"queueName": "gpus"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
WAITS: Values = {"spec": {"suspend": True}}
"""What Kueue's webhook makes of a Job that is created in a queue."""
STARTED: Values = {
    "spec": {
        "suspend": False,
        "template": {
            "metadata": {"labels": {"batch.kubernetes.io/controller-uid": "1"}},
            "spec": {
                "dnsPolicy": "ClusterFirst",
                "nodeSelector": {"disk": "ssd", "pool": "a100"},
                "tolerations": [
                    {"key": "nvidia.com/gpu", "operator": "Exists"},
                    {"key": "spot", "operator": "Exists"},
                ],
            },
        },
    }
}
"""What Kueue makes of it when it starts it: the flavor's nodes and tolerations are added. The label and the
policy are the API server's."""


def helm(server: ApiServer, action: str, values: Values, *flags: str, chart: Path = CHART) -> str:
    """Run helm against the stand-in; what it said when that failed, else nothing."""
    done = subprocess.run(
        [HELM, action, "x", str(chart), "--kube-apiserver", server.url, "--values", "-", *flags],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )
    return done.stderr if done.returncode else ""


@cache
def is_helm_3() -> bool:
    """It has no server-side apply, and no flag for it."""
    done = subprocess.run([HELM, "version", "--short"], capture_output=True, text=True, check=True)
    return done.stdout.startswith("v3")


def installed(server: ApiServer, way: str, *kueue: Values, chart: Path = CHART) -> None:
    if is_helm_3() and way == "true":
        pytest.skip("Helm 3 merges on the client's side alone")
    flags = ["--disable-openapi-validation", *([] if is_helm_3() else [f"--server-side={way}"])]
    assert helm(server, "install", IN_A_QUEUE, *flags, chart=chart) == ""
    for change in kueue:
        server.change("jobs", change)


def upgraded(server: ApiServer, chart: Path = CHART, **values: Any) -> str:
    """Helm merges the way that it has installed."""
    return helm(server, "upgrade", {**IN_A_QUEUE, **values}, "--disable-openapi-validation", chart=chart)


@pytest.fixture
def other_chart(tmp_path: Path) -> Callable[[str, str], Path]:
    """The chart with something else in its Job."""

    def make(was: str, now: str) -> Path:
        chart = Path(shutil.copytree(CHART, tmp_path / "side-step"))
        job = chart / "templates" / "job.yaml"
        text, number = re.subn(was, now, job.read_text(), flags=re.M)
        assert number == 1
        job.write_text(text)
        return chart

    return make


@pytest.mark.parametrize("way", ["false", "true"])
def test_a_job_that_has_started_goes_on(way: str) -> None:
    with api_server() as server:
        installed(server, way, WAITS, STARTED)
        name, spec = server.one("jobs")["metadata"]["name"], server.one("jobs")["spec"]
        assert upgraded(server, ttlSecondsAfterFinished=60, backoffLimit=7) == ""
        job = server.one("jobs")
    assert job["metadata"]["name"] == name
    assert job["spec"] == {**spec, "ttlSecondsAfterFinished": 60, "backoffLimit": 7}
    assert job["spec"]["suspend"] is False
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "ssd", "pool": "a100"}


def test_the_three_way_patch_holds_what_was_changed_alone() -> None:
    with api_server() as server:
        installed(server, "false", WAITS, STARTED)
        assert upgraded(server, ttlSecondsAfterFinished=60) == ""
        assert [patch for plural, patch in server.patches if plural == "jobs"] == [
            {"spec": {"ttlSecondsAfterFinished": 60}}
        ]


@pytest.mark.parametrize("way", ["false", "true"])
def test_a_job_that_waits_goes_on_waiting(way: str) -> None:
    with api_server() as server:
        installed(server, way, WAITS)
        assert upgraded(server, ttlSecondsAfterFinished=60) == ""
        assert server.one("jobs")["spec"]["suspend"] is True


def test_another_spec_takes_the_place_of_the_job() -> None:
    with api_server() as server:
        installed(server, "true", WAITS, STARTED)
        name = server.one("jobs")["metadata"]["name"]
        assert upgraded(server, job={**JOB["job"], "name": "other"}) == ""
        job = server.one("jobs")
    assert job["metadata"]["name"] != name
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "ssd"}  # Kueue's are added to it anew


@pytest.mark.parametrize(("way", "said"), [("false", ""), ("true", ".spec.suspend")])
def test_a_chart_that_sets_suspend_stops_it_or_is_refused(
    way: str, said: str, other_chart: Callable[[str, str], Path]
) -> None:
    """Why it does not, and that these tests would notice."""
    chart = other_chart("^spec:$", "spec:\n  suspend: true")
    with api_server() as server:
        installed(server, way, STARTED, chart=chart)
        assert said in upgraded(server, chart, ttlSecondsAfterFinished=60)
        assert server.one("jobs")["spec"]["suspend"] is (way == "false")


@pytest.mark.parametrize(("way", "said"), [("false", "immutable"), ("true", "nodeSelector")])
def test_a_chart_that_does_not_look_cannot_be_upgraded(
    way: str, said: str, other_chart: Callable[[str, str], Path]
) -> None:
    chart = other_chart("if .Values.kueue.queueName }}$(?=\n *{{- .live = lookup)", "if false }}")
    with api_server() as server:
        installed(server, way, WAITS, STARTED, chart=chart)
        assert said in upgraded(server, chart, ttlSecondsAfterFinished=60)
