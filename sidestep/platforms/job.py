"""One job as a platform needs to know it: the spec, what of it was given, what it asks of a machine."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from sidestep.config.adapter import OWN_ESTIMATE
from sidestep.config.fields import FieldPath, spec_fields, variable
from sidestep.config.job import JobSpec
from sidestep.config.shards import is_sharded
from sidestep.config.sweep import members_of
from sidestep.config.trackers import TRACKERS, Tracker
from sidestep.platforms.disk import workspace_gib
from sidestep.platforms.wishes import NO_WISHES, Wishes
from sidestep.runtime.driver import OLDEST_DRIVER
from sidestep.runtime.words import nested
from sidestep.storage.access import ACCESS, NONE, Access
from sidestep.storage.open import local_path

GPU_MEMORY_GB = 24
"""Of the GPU that is asked for: enough for every model in bf16 at the default rank."""

COMPUTE_CAPABILITY = 8.0
"""Of the GPU: those with bf16, from Ampere on."""

CPUS = 4
"""Of the machine, for each process."""

MEMORY_GB = 16
"""Of the machine, for each process."""

SHARED_MEMORY_GB = 2
"""What the processes of a machine exchange in memory (/dev/shm), of which a container has 64 MB by itself."""

WORKSPACE = "/workspace"
"""The one folder of the image that is written to."""

STOP_MARGIN = 10
"""Seconds more than `runtime.grace_seconds` that a platform is told to wait before it kills."""

SHARED = (
    "With task pipeline one of\n"
    "them makes the tensors, and the others wait for it: task preprocess, as a job before this one, makes\n"
    "them on one machine."
)
MERGED = (
    "The next\n"
    "phase (task estimate or train) is a job after all of them: it merges what they have made, or says\n"
    "which one is missing."
)

_RANK_FROM = ("train.adapter.rank_from", "sweep.train.adapter.rank_from")

METRICS_FILE: FieldPath = ("runtime", "metrics_file")

WEBHOOK: FieldPath = ("runtime", "webhook")
"""A secret of the spec's own, which no rendered file has: its variable carries it."""


@dataclass(frozen=True)
class Job:
    """A checked spec on its way to a platform.

    `given` holds, in plain values, what somebody said of the spec, by path; what nobody said is left to the
    image, whose defaults are the same. `config` is the spec's own file, and `from_config` the paths of what
    it says. `file` is the rendered file's name, quoted for the shell. `wishes` are what is asked of the
    platform beside the spec, and `cuda` is the major version of CUDA that the image is for.
    """

    spec: JobSpec
    given: Mapping[FieldPath, Any]
    image: str
    file: str
    config: str | None = None
    from_config: frozenset[FieldPath] = frozenset()
    wishes: Wishes = NO_WISHES
    cuda: int = 13

    @property
    def label(self) -> str:
        """The spec's name as a DNS label (RFC 1123) of at most 30 characters, for platforms that want one.

        The one shard that the spec names is in it: shards of one output are jobs beside each other.
        """
        spec = self.spec.preprocess
        one = f"-{spec.shard}-of-{spec.shards}" if is_sharded(self.spec) and spec.shard is not None else ""
        name = re.sub(r"[^a-z0-9]+", "-", self.spec.name.lower())
        return name[: 30 - len(one)].strip("-") + one

    @property
    def driver(self) -> str:
        """What the image asks of a machine, for a comment in a file that cannot ask for it."""
        return f"The machine's NVIDIA driver must be {OLDEST_DRIVER[self.cuda]} or newer"

    @property
    def workspace_gib(self) -> int:
        """What the workspace's disk must have."""
        return self.wishes.disk or workspace_gib(self.spec)

    @property
    def machine(self) -> str:
        """The name of the machine that is rented for it: one for each output, which has one writer, or for
        each shard."""
        return f"sidestep-{self.label}-{digest(self.spec.output_place)}"

    @property
    def runs(self) -> int:
        """How many runs its sweep has; 0 where it is no sweep."""
        return len(members_of(self.spec)) if self.spec.is_sweep else 0

    @property
    def nodes(self) -> int:
        """How many machines train together. The other tasks are done by one process."""
        return self.spec.runtime.nodes if self.spec.task == "train" else 1

    @property
    def gpus(self) -> int:
        """GPUs, and so processes, of each machine."""
        return self.spec.runtime.gpus if self.spec.task == "train" else 1

    @property
    def is_launched(self) -> bool:
        """Whether several processes train, which `sidestep launch` starts on each machine."""
        return self.nodes * self.gpus > 1

    @property
    def words(self) -> list[str]:
        """Of the command, behind `sidestep`."""
        if not self.is_launched:
            return ["run"]
        nodes = ["--nodes", str(self.nodes)] if self.nodes > 1 else []
        return ["launch", "--processes", str(self.gpus), *nodes, "train"]

    @property
    def cpus(self) -> int:
        return CPUS * self.gpus

    @property
    def memory_gb(self) -> int:
        return MEMORY_GB * self.gpus

    @property
    def shards(self) -> int:
        """How many shards are made, each by a job; 0 where this one makes all tensors, or the one shard that
        its spec names."""
        is_one = self.spec.preprocess.shard is not None
        return self.spec.preprocess.shards if is_sharded(self.spec) and not is_one else 0

    @property
    def jobs(self) -> int:
        """How many jobs its file starts, each with an index of its own; 0 where it is one without."""
        return self.runs or self.shards

    def many(self, each: str) -> str:
        """For a comment in a file that starts many jobs, `each` being what one of them is there."""
        if self.shards:
            return f"{self.shards} shards of the songs, each {each} of its own. {MERGED}\n"
        return f"A sweep of {self.runs} runs, each {each} of its own. {SHARED}\n" if self.runs else ""

    @property
    def wants_gpu(self) -> bool:
        return self.spec.runtime.device != "cpu"

    @property
    def stop_seconds(self) -> int:
        """Whole seconds between a platform's first signal and its second, where the platform is told."""
        return math.ceil(self.spec.runtime.grace_seconds) + STOP_MARGIN

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the environment variables that hold this job's credentials and its other secrets."""
        own = (variable(WEBHOOK),) if self.spec.runtime.webhook else ()
        of_places = (name for access in self._accesses for name in access.variables)
        of_trackers = (name for tracker in self._trackers for name in tracker.variables)
        return tuple(dict.fromkeys((*of_places, *of_trackers, *own)))

    @property
    def optional_secrets(self) -> tuple[str, ...]:
        """Those of them without which the job may do: what it reads may be public."""
        needed = {name for tracker in self._trackers for name in tracker.variables}
        return tuple(
            name
            for access in self._accesses
            if not access.is_needed
            for name in access.variables
            if name not in needed
        )

    @property
    def secrets_of_a_shell(self) -> tuple[str, ...]:
        """Those that a platform's client passes on from the shell that starts it, where they are set."""
        more = (name for access in self._accesses for name in (*access.instead, *access.beside))
        of_trackers = (name for tracker in self._trackers for name in tracker.beside)
        return (*self.secrets, *more, *of_trackers, *self.key_files)

    @property
    def key_files(self) -> tuple[str, ...]:
        """The names of the variables that may name a key's file, where no variable holds the key itself."""
        return tuple(access.file for access in self._accesses if access.file and not access.variables)

    @property
    def clouds(self) -> tuple[str, ...]:
        """Whose machines alone reach the job's places as themselves, where no variable holds credentials."""
        return tuple(access.cloud for access in self._accesses if access.cloud and not access.variables)

    @property
    def reached(self) -> set[tuple[str, FieldPath]]:
        """The schemes of places that are reached with credentials, each with the path of such a place."""

        def is_anonymous(access: Access, path: FieldPath) -> bool:
            return self.spec.storage.anonymous and (
                access.anonymous == "always" or (access.anonymous == "to read" and path not in self.written)
            )

        of_places = ((scheme_of(place), path) for path, place in places(self.spec).items())
        return {
            (scheme, path)
            for scheme, path in of_places
            if (access := ACCESS.get(scheme, NONE)).ways and not is_anonymous(access, path)
        }

    @property
    def _trackers(self) -> list[Tracker]:
        return [TRACKERS[name] for name in dict.fromkeys(self.spec.runtime.trackers)]

    @property
    def _accesses(self) -> list[Access]:
        return [ACCESS[scheme] for scheme in sorted({scheme for scheme, _ in self.reached})]

    @property
    def written(self) -> set[FieldPath]:
        """The places that the task writes to."""
        makes_tensors = self.spec.task in ("preprocess", "pipeline")
        return {("output_dir",), *([("dataset_dir",)] if makes_tensors else [])}

    @property
    def values(self) -> dict[str, Any]:
        """What was given, nested as a spec is."""
        return nested(self.given)

    @property
    def environment(self) -> dict[str, str]:
        """What was given, as SIDESTEP_ variables."""
        return flattened(self.given)


def places(spec: JobSpec) -> dict[FieldPath, str]:
    """Every place that the job reads or writes, those of the defaults too, by path; of a sweep's values each
    as `("sweep", "train.init_from", "0")`."""
    paths = [path for path, field in spec_fields().items() if field.is_place]
    found: dict[FieldPath, Any] = {path: reduce(getattr, path, spec) for path in paths}
    found["output_dir",] = spec.output_place
    for name, values in spec.sweep.items() if spec.is_sweep else ():
        if tuple(name.split(".")) in paths:
            found |= {("sweep", name, str(number)): value for number, value in enumerate(values)}
    return {path: place for path, place in found.items() if place not in (None, "null")}


def scheme_of(place: str) -> str:
    """A place's scheme, in small letters; "file" for a path."""
    scheme, colon, _ = place.partition("://")
    return scheme.lower() if colon else "file"


def local_places(spec: JobSpec) -> dict[FieldPath, Path]:
    """Those that are paths, absolute. Two may be names within the output: `resume_from: checkpoint-epoch-50`,
    and `rank_from: estimate`, which may be swept."""
    return {
        path: folder
        for path, place in places(spec).items()
        if not (path[-1] == "resume_from" and "/" not in place)
        and not (place == OWN_ESTIMATE and ".".join(path).startswith(_RANK_FROM))
        and (folder := local_path(place)) is not None
    }


def metrics_file(spec: JobSpec) -> Path | None:
    """The file for a collector on the job's machine, absolute."""
    return Path(spec.runtime.metrics_file).expanduser().absolute() if spec.runtime.metrics_file else None


def flattened(given: Mapping[FieldPath, Any]) -> dict[str, str]:
    """{("train", "lr"): 1e-4} as {"SIDESTEP_TRAIN__LR": "0.0001"}: the spec for platforms without files.

    An empty mapping is left out: it is every mapping's default, and an empty variable counts as not set.
    """
    return {variable(path): _as_text(value) for path, value in given.items() if value != {}}


def digest(*parts: Any) -> str:
    """Eight hex digits that change with any of the parts, which are plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _as_text(value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(item, list) for item in value.values()):
        return _sweep_as_text(value)
    if isinstance(value, dict):
        return ",".join(f"{key}={_as_text(number)}" for key, number in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _sweep_as_text(sweep: Mapping[str, list[Any]]) -> str:
    """`train.lr=0.0001,0.0003 train.seed=1,2` where that says it all: some clients pass no quotes on."""
    words = {name: [_as_text(value) for value in values] for name, values in sweep.items()}
    is_plain = all(not isinstance(value, list | dict) for values in sweep.values() for value in values)
    if is_plain and all(re.fullmatch(r"[\w.+:/@-]+", word) for group in words.values() for word in group):
        return " ".join(f"{name}={','.join(group)}" for name, group in words.items())
    return json.dumps(sweep)
