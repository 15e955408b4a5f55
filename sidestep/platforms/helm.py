"""Helm: a values file for the chart in helm/, which makes the same Job as the plain manifests."""

from typing import Any

from sidestep.platforms import jobset, kubernetes
from sidestep.platforms.job import Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import Rerun

CHART = "helm/side-step"
"""The chart's folder in the repository."""


def values(job: Job) -> dict[str, Any]:
    """The chart's values that differ from its defaults."""
    image = _image(job.image)
    secret = {"existingSecret": kubernetes.SECRET} if job.secrets else {}
    workspace = {"workspace": {"size": f"{job.workspace_gib}Gi"}} if job.wishes.disk else {}
    resources = {"requests": {"cpu": str(job.cpus), "memory": f"{job.memory_gb}Gi"}}
    several = {"resources": resources} if job.gpus > 1 else {}
    return {"image": image, **secret, **workspace, **several, "job": job.values}


def _image(reference: str) -> dict[str, str]:
    """An image's reference in the chart's parts. A digest says more than the tag beside it."""
    named, _, digest = reference.partition("@")
    repository, _, tag = named.rpartition(":")
    if not repository or "/" in tag:  # no tag: a colon there is a registry's port
        repository, tag = named, "latest"
    return {"repository": repository, **({"digest": digest} if digest else {"tag": tag})}


def render(job: Job) -> Rendered:
    """The values, and `helm upgrade --install`."""
    command = f"helm upgrade --install {job.label} {CHART} --values {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on Kubernetes, by the chart. Submit it:\n  {command}\n"
        "All values and what they mean: helm/side-step/values.yaml\n"
    )
    comment += job.many("a pod")
    if job.nodes > 1:
        comment += f"The cluster must have JobSet {jobset.OLDEST} or newer: https://jobset.sigs.k8s.io\n"
    if job.secrets:
        comment += f"The credentials, once per namespace:\n  {kubernetes.secret_command(job)}\n"
    if job.clouds:
        comment += (
            f"{' and '.join(job.clouds)}: the pod has the access of its service account (serviceAccount.*)\n"
            "by workload identity, or of its node. No other cluster has it.\n"
        )
    return Rendered(dump(values(job), comment=comment), command)


PLATFORM = Platform(
    name="helm",
    suffix=".values.yaml",
    reclaim="as kubernetes: the chart makes the same Job",
    notice="as kubernetes",
    next_attempt="as kubernetes",
    after={
        Rerun.PERMANENT: "as kubernetes",
        Rerun.COUNTED: "as kubernetes, `backoffLimit` times at most",
        Rerun.AGAIN: "as kubernetes",
    },
    brings=kubernetes.PLATFORM.brings,
    render=render,
    many_gpus=True,
    many_nodes=True,
    starts_many=True,
    grants=frozenset({"disk"}),
)
