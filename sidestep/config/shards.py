"""Which share of the songs this process preprocesses: `preprocess.shards` says how many there are, and the
platform, or `preprocess.shard`, which one this is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sidestep.config.index import numbered
from sidestep.config.problems import Problem, report
from sidestep.config.schema import MOST_SHARDS, JobFields
from sidestep.runtime.errors import BadSpecError

FOLDER = "shards"
"""In an output and beside its tensors: a folder for each shard, of what is not shared."""


@dataclass(frozen=True, order=True)
class Shard:
    """Number `k` of `of` shards, from 0 on."""

    k: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.k}-of-{self.of}"

    @property
    def folder(self) -> str:
        """Its own, relative to an output or to the tensors' place."""
        return f"{FOLDER}/{self.name}"

    @classmethod
    def called(cls, name: str) -> Self | None:
        """The shard of this name; None where it is no shard's."""
        found = re.fullmatch(r"(0|[1-9][0-9]{0,5})-of-([1-9][0-9]{0,5})", name)
        k, of = map(int, found.groups()) if found else (0, 0)
        return cls(k, of) if k < of <= MOST_SHARDS else None


def shards_of(of: int) -> list[Shard]:
    """All of so many."""
    return [Shard(k, of) for k in range(of)]


def is_sharded(spec: JobFields) -> bool:
    """Whether the job makes a share of the tensors."""
    return spec.task == "preprocess" and spec.preprocess.shards > 1


def shard_of(spec: JobFields, environ: Mapping[str, str]) -> Shard | None:
    """The shard that this process makes; None where it makes all songs.

    `environ` is read where `preprocess.shards` is set alone: an array of jobs with outputs of their own has
    an index, too. Raises BadSpecError where nothing says which one it is, or something else than it can be.
    """
    if problems := shard_problems(spec):
        raise BadSpecError(report(problems))
    if not is_sharded(spec):
        return None
    of, given, found = spec.preprocess.shards, spec.preprocess.shard, numbered(environ)
    said = f"preprocess.shards is {of}, and"
    if given is not None:
        if found and found.index != given:
            raise BadSpecError(
                f"{said} preprocess.shard says {given}, where {found.variable} says {found.index}\n"
                "  leave preprocess.shard out where the platform counts the jobs"
            )
        return Shard(given, of)
    if found is None:
        raise BadSpecError(
            f"{said} nothing says which of them this is: 0 to {of - 1} are allowed\n"
            "  `sidestep render` writes a file that starts all of them; or set preprocess.shard (--shard)"
        )
    if found.index >= of:
        raise BadSpecError(
            f"{said} {found.variable} says {found.index}: 0 to {of - 1} are allowed\n"
            f"  start {of} jobs, or set preprocess.shards to as many as there are"
        )
    if found.count not in (None, of):
        raise BadSpecError(
            f"{said} the platform has started {found.count} ({found.counted_by})\n"
            f"  start {of}: one that has nothing left to do ends at once; or name one with preprocess.shard"
        )
    return Shard(found.index, of)


def shard_problems(spec: JobFields, origins: Mapping[str, str] | None = None) -> list[Problem]:
    """What is wrong with the shards of a spec, by itself. `origins` say where a field's value is from."""
    of, given, problems = spec.preprocess.shards, spec.preprocess.shard, []

    def add(field: str, message: str, value: object) -> None:
        problems.append(Problem(field, message, (origins or {}).get(field, "the spec"), value))

    phases = "make phases of their own: task preprocess with shards, then task estimate or train without them"
    if given is not None and given >= of:
        add("preprocess.shard", f"must be below preprocess.shards, which is {of}", given)
    if of > 1 and spec.task == "pipeline":
        add("preprocess.shards", f"one process would train what others still make; {phases}", of)
    if of > 1 and spec.task == "preprocess" and spec.sweep:
        add(
            "preprocess.shards",
            "the index of a job would name a run of the sweep and a shard at once; make phases of their own: "
            "--sweep '{}' preprocesses (with preprocess.alternates for the prompts that runs need), then "
            "task train sweeps",
            of,
        )
    return problems
