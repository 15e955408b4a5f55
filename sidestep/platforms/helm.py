"""Helm: a values file for the chart in helm/, which makes the same Job as the plain manifests."""

from typing import Any

from sidestep.platforms import kubernetes
from sidestep.platforms.job import Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import dump

CHART = "helm/side-step"
"""The chart's folder in the repository."""


def values(job: Job) -> dict[str, Any]:
    """The chart's values that differ from its defaults."""
    repository, _, tag = job.image.rpartition(":")
    if not repository or "/" in tag:  # no tag: a colon there is a registry's port
        repository, tag = job.image, "latest"
    secret = {"existingSecret": kubernetes.SECRET} if job.secrets else {}
    return {"image": {"repository": repository, "tag": tag}, **secret, "job": job.values}


def render(job: Job) -> Rendered:
    """The values, and `helm upgrade --install`."""
    command = f"helm upgrade --install {job.label} {CHART} --values {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on Kubernetes, by the chart. Submit it:\n  {command}\n"
        "All values and what they mean: helm/side-step/values.yaml\n"
    )
    if job.secrets:
        comment += f"The credentials, once per namespace:\n  {kubernetes.secret_command(job)}\n"
    return Rendered(dump(values(job), comment=comment), command)


PLATFORM = Platform(
    name="helm",
    suffix=".values.yaml",
    reclaim="as kubernetes: the chart makes the same Job",
    notice="as kubernetes",
    next_attempt="as kubernetes",
    render=render,
)
