"""Which platform brings a job the credentials of which kind of place; what cannot work is refused."""

from collections.abc import Iterable, Iterator, Mapping

from sidestep.config.fields import FieldPath
from sidestep.platforms.job import Job, local_places, places, scheme_of
from sidestep.platforms.platform import Platform
from sidestep.runtime.credentials import hide_in_place
from sidestep.storage.access import ACCESS, Way

MEMORY = "memory"


def ways(scheme: str, platform: Platform) -> tuple[Way, ...]:
    """How a job on `platform` comes to what `scheme` is reached with; () where it does not.

    Variables are what is rendered, wherever they are enough.
    """
    has = [way for way in ACCESS[scheme].ways if way in platform.brings]
    return (Way.VARIABLES,) if Way.VARIABLES in has else tuple(has)


def is_reached(scheme: str, platform: Platform) -> bool:
    """Whether a job on `platform` can use places of `scheme` at all."""
    if scheme == "file":
        return platform.local_paths
    if scheme == MEMORY:
        return False
    return not ACCESS[scheme].ways or not ACCESS[scheme].is_needed or bool(ways(scheme, platform))


def troubles(job: Job, platform: Platform, platforms: Mapping[str, Platform]) -> Iterator[str]:
    """What of the job's places cannot be reached on `platform`: what, where, what is allowed, what to do."""
    if not platform.local_paths and (local := local_places(job.spec)):
        yield (
            f"its machines have none of this machine's folders: {_shown(job, local)}. "
            "Name places that they reach, such as s3://bucket/folder"
        )
    if not platform.local_paths and (file := job.spec.runtime.metrics_file):
        yield (
            f"nobody there would read runtime.metrics_file = {file}, which is for a collector on the job's "
            "machine. runtime.metrics_port gives the same at an endpoint"
        )
    of_scheme: dict[str, list[FieldPath]] = {}
    for path, place in places(job.spec).items():
        if scheme_of(place) == MEMORY or (scheme_of(place), path) in job.reached:
            of_scheme.setdefault(scheme_of(place), []).append(path)
    for scheme, paths in of_scheme.items():
        if is_reached(scheme, platform):
            continue
        if scheme == MEMORY:
            yield (
                f"memory:// is gone with the process that has it, and a job finds it empty: "
                f"{_shown(job, paths)}. Name places that last, such as s3://bucket/folder"
            )
            continue
        there = ", ".join(name for name, one in platforms.items() if is_reached(scheme, one))
        brings = " and ".join(f"{way} ({how})" for way, how in platform.brings.items())
        public = "storage.anonymous reads what is public; " if ACCESS[scheme].anonymous != "never" else ""
        yield (
            f"its machines have no credentials for {scheme}://: {_shown(job, paths)}. They are "
            f"{ACCESS[scheme].said}; {platform.name} gives a job {brings}. Name places that it reaches, such "
            f"as s3://bucket/folder, or render for one of {there}; {public}see docs/places.md, Credentials"
        )


def _shown(job: Job, paths: Iterable[FieldPath]) -> str:
    found = places(job.spec)
    return ", ".join(f"{'.'.join(path)} = {hide_in_place(found[path])}" for path in paths)
