"""A training of several nodes on Kubernetes: what JobSet takes, and what becomes of every end of its pods."""

import itertools
import re
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from sidestep.config.schema import RuntimeSpec
from sidestep.platforms.jobset import WHERE_NODE_0_IS
from sidestep.platforms.kubernetes import BACKOFF_LIMIT
from sidestep.runtime.errors import BadSpecError, ExitCode, Rerun, codes, rerun_after
from sidestep.runtime.ranks import Node, node_in
from tests.facts import facts
from tests.platforms.jobset_model import SCHEMA, Controllers, End, action_of, closed
from tests.platforms.rendering import ON_S3, render

TRAINS = {**ON_S3, "task": "train", "audio_dir": None, "runtime": {"nodes": 2, "gpus": 8}}
ENDS = [
    *(End(code) for code in (*ExitCode, 1, 134, 137, 139, 143)),
    End(137, True),
    End(75, True),
    End(78, True),
]
FAILURES = [end for end in ENDS if end.code]
MOST = RuntimeSpec.model_fields["max_attempts"].default


def manifests(values: dict[str, Any] = TRAINS) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(render("kubernetes", values).text))


JOBSET = manifests()[1]


def kind(end: End) -> Rerun:
    """The class of an end: a pod that had to go is run again, whatever its code."""
    return Rerun.AGAIN if end.disrupted else rerun_after(end.code)


def test_it_is_a_jobset_by_jobset_s_own_schema() -> None:
    schema = closed(SCHEMA)
    jsonschema.validate(JOBSET, schema)
    misspelt = {**JOBSET, "spec": {**JOBSET["spec"], "failurePolicy": {"maxRestart": 1}}}
    with pytest.raises(jsonschema.ValidationError, match="maxRestart'"):
        jsonschema.validate(misspelt, schema)


def test_it_is_one_job_with_an_index_for_each_node() -> None:
    [replicated] = JOBSET["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 2, 2)
    assert job["backoffLimit"] == 0 and job["podReplacementPolicy"] == "Failed"
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert JOBSET["spec"]["failurePolicy"]["restartStrategy"] == "BlockingRecreate"
    assert JOBSET["spec"]["network"]["publishNotReadyAddresses"] is True
    [container] = job["template"]["spec"]["containers"]
    assert container["args"] == ["launch", "--processes", "8", "--nodes", "2", "train"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/dev/shm"}
    assert manifests({**TRAINS, "runtime": {"gpus": 8}})[1]["kind"] == "Job"


def test_a_node_finds_the_first_one() -> None:
    """By names that JobSet gives: JOBSET-JOB-0-INDEX, in a subdomain that is called as the JobSet is."""
    name = JOBSET["metadata"]["name"]
    environ = {"JOBSET_NAME": name, "JOB_COMPLETION_INDEX": "1"}
    own, where = WHERE_NODE_0_IS
    assert own["name"] == "JOBSET_NAME" and where["name"] == "MASTER_ADDR"
    environ["MASTER_ADDR"] = re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], str(where["value"]))
    [replicated] = JOBSET["spec"]["replicatedJobs"]
    assert node_in(environ, 2) == Node(1, 2, f"{name}-{replicated['name']}-0-0.{name}", 29500)


def test_names_have_room_for_jobset_s_parts() -> None:
    """https://jobset.sigs.k8s.io: a pod is called JOBSET-JOB-0-INDEX and five letters, by RFC 1035."""
    most = {"nodes": 1000, "gpus": 8}
    for name in ("A" + "_very.long-Name" * 4, "x", "a" * 23 + "-" + "b" * 39):
        jobset = manifests({**TRAINS, "name": name, "runtime": most})[1]
        [replicated] = jobset["spec"]["replicatedJobs"]
        pod = f"{jobset['metadata']['name']}-{replicated['name']}-0-999-abcde"
        assert len(pod) <= 63 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", pod), pod


def test_every_code_has_its_outcome() -> None:
    """Whatever the other pods end with once the Job has failed: its message is there by then."""
    wanted = {
        Rerun.PERMANENT: ("Failed", 0, 0),
        Rerun.COUNTED: ("Running", 1, 1),
        Rerun.AGAIN: ("Running", 1, 0),
    }
    for code in range(1, 256):
        jobset = Controllers(JOBSET)
        state = jobset.pods_ended(End(code), End(137))
        assert (state, jobset.restarts, jobset.counted) == wanted[rerun_after(code)], code


def test_a_training_that_has_finished_is_completed() -> None:
    assert Controllers(JOBSET).pods_ended(End(0), End(0)) == "Completed"


def test_every_pair_of_ends_comes_to_an_end() -> None:
    """However the pods are found, an attempt goes by the first of them. Where each attempt ends so and makes
    no progress, the job itself ends with 70 at last, and what hides that from the JobSet is counted."""
    for ends in itertools.product(FAILURES, FAILURES):
        first = Controllers(JOBSET)
        state = first.pods_ended(*ends)
        assert (state == "Failed") == (kind(ends[0]) is Rerun.PERMANENT), ends
        assert first.counted == (kind(ends[0]) is Rerun.COUNTED), ends
        jobset, attempts = Controllers(JOBSET), 0
        while jobset.state == "Running":
            attempts += 1
            assert attempts <= MOST + BACKOFF_LIMIT + 1, ends
            given_up = End(ExitCode.PEER), End(ExitCode.BUG)  # node 0 says so, and is found second
            jobset.pods_ended(*(ends if attempts <= MOST else given_up))
        assert jobset.state == "Failed", ends


@pytest.mark.parametrize("code", codes(Rerun.PERMANENT))
def test_a_permanent_code_behind_74_is_tried_a_few_times_at_most(code: int) -> None:
    """Nodes that have only lost another one end seconds later; where they are found first all the same, they
    count."""
    jobset = Controllers(JOBSET)
    for _ in range(BACKOFF_LIMIT):
        assert jobset.pods_ended(End(ExitCode.PEER), End(code)) == "Running"
    assert jobset.pods_ended(End(ExitCode.PEER), End(code)) == "Failed"
    assert Controllers(JOBSET).pods_ended(End(code), End(ExitCode.PEER)) == "Failed"


def test_spot_nodes_that_go_with_notice_never_count() -> None:
    """One node is told, all save and end with 75; or its time is over before, and the other has lost it."""
    jobset = Controllers(JOBSET)
    for _ in range(10 * BACKOFF_LIMIT):
        for ends in itertools.permutations((End(75, True), End(75))):
            assert jobset.pods_ended(*ends) == "Running"
        assert jobset.pods_ended(End(137, True), End(ExitCode.PEER)) == "Running"
    assert jobset.counted == 0


def test_what_ends_by_its_deadline_is_not_begun_again() -> None:
    assert (
        action_of(JOBSET, "DeadlineExceeded", "Job was active longer than specified deadline") == "FailJobSet"
    )
    assert (
        action_of(JOBSET, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        == "RestartJobSet"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"task": "pipeline", "audio_dir": "s3://studio/songs"}, ("runtime.nodes = 2", "--task preprocess")),
        ({"sweep": {"train.lr": [1e-4, 3e-4]}}, ("runtime.gpus = 8", "sweep")),
    ],
)
def test_what_several_processes_cannot_do_is_refused(more: dict[str, Any], told: tuple[str, ...]) -> None:
    with pytest.raises(BadSpecError, match=facts(*told)):
        render("kubernetes", {**TRAINS, **more})


def test_the_phases_before_are_jobs_of_one_process() -> None:
    """One spec serves all of them."""
    job = manifests({**TRAINS, "task": "preprocess", "audio_dir": "s3://studio/songs"})[1]
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert (job["kind"], container["args"]) == ("Job", ["run"])
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
