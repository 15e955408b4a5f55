"""Helm: a values file for the chart in helm/, which makes the same Job as the plain manifests."""

from typing import Any

from sidestep.places import kubernetes
from sidestep.places.job import Job
from sidestep.places.place import Place, Rendered
from sidestep.places.yaml11 import dump


def values(job: Job) -> dict[str, Any]:
    """The chart's values that differ from its defaults."""
    repository, _, tag = job.image.rpartition(":")
    secret = {"existingSecret": kubernetes.SECRET} if job.secrets else {}
    return {"image": {"repository": repository, "tag": tag}, **secret, "job": job.values}


def render(job: Job) -> Rendered:
    """The values, and `helm install`."""
    return Rendered(dump(values(job)), f"helm install {job.label} helm/side-step -f {job.file}")


PLACE = Place(
    name="helm",
    suffix=".values.yaml",
    reclaim="as kubernetes: the chart makes the same Job",
    notice="as kubernetes",
    next_attempt="as kubernetes",
    render=render,
)
