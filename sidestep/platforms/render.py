"""The table of platforms, and how a spec and one of them become a file and the command that submits it."""

import shlex
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import Any

from sidestep.config.fields import FieldPath, spec_fields
from sidestep.config.glimpse import ON_EXIT
from sidestep.config.job import JobSpec
from sidestep.config.sources import FileLine
from sidestep.platforms import docker, dstack, helm, kubernetes, runpod, skypilot, slurm, vast
from sidestep.platforms.access import troubles
from sidestep.platforms.image import cuda_of
from sidestep.platforms.job import METRICS_FILE, Job, local_places, metrics_file, places
from sidestep.platforms.platform import Platform
from sidestep.platforms.wishes import NO_WISHES, Wishes, flag
from sidestep.runtime.errors import BadSpecError, UsageError

PLATFORMS: dict[str, Platform] = {
    module.PLATFORM.name: module.PLATFORM
    for module in (docker, kubernetes, helm, skypilot, runpod, vast, dstack, slurm)
}
GRACE = ("runtime", "grace_seconds")
OF_THIS_MACHINE = ("runtime", "workspace")  # the image has its own


def job_for(
    platform: Platform,
    spec: JobSpec,
    origins: Mapping[str, str],
    image: str,
    file: str | None = None,
    wishes: Wishes = NO_WISHES,
    cuda: int | None = None,
) -> Job:
    """What `platform` is to know of the job, for its `render`.

    Args:
        origins: `resolve`'s. What nobody said is left to the image, and so is the workspace. The platform
            adds what it has to: not more time to save than it leaves, and that its machine is given back.
        image: the image's reference.
        file: the name that the file will have; by default it is the spec's own name.
        wishes: what is asked of the platform beside the spec.
        cuda: the major version of CUDA that the image is for, where its tag does not say it.

    Raises BadSpecError with everything of the spec that cannot be had on the platform, and UsageError where
    only wishes cannot.
    """
    given = {path: value for path, value in said(spec, origins).items() if path != OF_THIS_MACHINE}
    added: dict[FieldPath, Any] = {}
    if platform.local_paths:  # a path means the same in the container
        local = local_places(spec)
        added |= {path: str(folder) for path, folder in local.items() if path[0] != "sweep"}
        if metrics := metrics_file(spec):
            added[METRICS_FILE] = str(metrics)
    if platform.grace_seconds is not None:
        added[GRACE] = min(platform.grace_seconds, spec.runtime.grace_seconds)
    if platform.rented and ON_EXIT not in given:
        added[ON_EXIT] = "terminate"
    config, from_config = spec_file(origins)
    job = Job(
        spec.changed({".".join(path): value for path, value in added.items()}),
        {**given, **added},
        image,
        shlex.quote(file or default_file(platform, spec)),
        config,
        from_config - added.keys(),
        wishes=wishes,
        cuda=cuda_of(image, cuda, platform.cuda),
    )
    _check_suits(platform, job)
    return job


def said(spec: JobSpec, origins: Mapping[str, str]) -> dict[FieldPath, Any]:
    """What of the spec somebody said, in plain values; the rest are defaults. Secrets are left out."""
    plain = spec.model_dump(mode="json")
    return {
        path: reduce(getitem, path, plain)
        for path, field in spec_fields().items()
        if origins[field.name] != "default" and not field.is_secret
    }


def default_file(platform: Platform, spec: JobSpec) -> str:
    """The rendered file's name where nobody names it: my-lora.dstack.yml."""
    return f"{spec.name}{platform.suffix}"


def _check_suits(platform: Platform, job: Job) -> None:
    """Raise BadSpecError with everything that cannot be had on the platform, UsageError where all of it is
    wishes."""
    problems = [*troubles(job, platform, PLATFORMS), *_relative(job, platform), *_of_several(job.spec)]
    if job.gpus > 1 and not platform.many_gpus:
        many = ", ".join(name for name, other in PLATFORMS.items() if other.many_gpus)
        problems.append(f"it rents one GPU, and runtime.gpus is {job.gpus}: render for one of {many}")
    if job.nodes > 1 and not platform.many_nodes:
        many = ", ".join(name for name, other in PLATFORMS.items() if other.many_nodes)
        problems.append(f"it is one machine, and runtime.nodes is {job.nodes}: render for one of {many}")
    if platform.gpu_only and not job.wants_gpu:
        problems.append("it rents GPUs, and runtime.device is cpu")
    if not platform.rented and job.spec.runtime.on_exit != "none":
        rented = " and ".join(name for name, other in PLATFORMS.items() if other.rented)
        problems.append(f"runtime.on_exit = {job.spec.runtime.on_exit} is for machines of {rented} alone")
    if job.shards and not platform.starts_many:
        starting = ", ".join(name for name, other in PLATFORMS.items() if other.starts_many)
        problems.append(
            f"preprocess.shards = {job.shards}, and it starts one job: {starting} start one for each shard; "
            f"or give each job its preprocess.shard, 0 to {job.shards - 1}"
        )
    wishes = []
    for name in job.wishes.said:
        if name not in platform.grants:
            granting = ", ".join(one.name for one in PLATFORMS.values() if name in one.grants)
            wishes.append(f"{flag(name)} is for {granting} alone")
    if told := [*problems, *wishes]:
        kind = BadSpecError if problems else UsageError
        raise kind("\n".join([f"the spec does not suit {platform.name}", *(f"  {one}" for one in told)]))


def _relative(job: Job, platform: Platform) -> Iterator[str]:
    """A sweep's local places, which the job's machine would look for elsewhere. They are part of the folders'
    names, so they are not written out in full as others are."""
    if not platform.local_paths:
        return
    found = places(job.spec)
    for path, folder in local_places(job.spec).items():
        if path[0] == "sweep" and not found[path].lower().startswith(("/", "file:")):
            yield f"{'.'.join(path)} = {found[path]} is not a whole path, as a sweep needs it: {folder}"


def _of_several(spec: JobSpec) -> Iterator[str]:
    """What cannot be done by several processes."""
    several = " and ".join(
        f"runtime.{name} = {count}"
        for name, count in (("gpus", spec.runtime.gpus), ("nodes", spec.runtime.nodes))
        if count > 1
    )
    if several and spec.task == "pipeline":
        yield (
            f"several GPUs only train ({several}), and task is pipeline: render preprocess as a job of its "
            "own (--task preprocess), and after it train (--task train)"
        )
    if several and spec.is_sweep:
        yield f"a run of a sweep is one process, and {several}: leave sweep out, or train with one GPU each"


def spec_file(origins: Mapping[str, str]) -> tuple[str | None, frozenset[FieldPath]]:
    """The spec's own file, None if it has none, and the paths of what it says. `origins` are `resolve`'s."""
    files = {tuple(name.split(".")): at.file for name, at in origins.items() if isinstance(at, FileLine)}
    return next(iter(files.values()), None), frozenset(files)
