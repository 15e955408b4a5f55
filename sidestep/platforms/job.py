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

from sidestep.config.fields import FieldPath, spec_fields, variable
from sidestep.config.job import JobSpec
from sidestep.runtime.words import nested
from sidestep.storage.open import local_path

GPU_MEMORY_GB = 24
"""Of the GPU that is asked for: enough for every model in bf16 at the default rank."""

DISK_GB = 100
"""Of the workspace: a model with its encoders takes 6 to 20 GB, and everything else is pulled there too."""

WORKSPACE = "/workspace"
"""The one folder of the image that is written to."""

STOP_MARGIN = 10
"""Seconds more than `runtime.grace_seconds` that a platform is told to wait before it kills."""

CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}
"""The variables that carry each scheme's credentials. gs:// is reached as the machine's own account."""

TEMPORARY = {"s3": ("AWS_SESSION_TOKEN",)}
"""What a shell with temporary credentials has besides. They end within hours, so no platform keeps them."""


@dataclass(frozen=True)
class Job:
    """A checked spec on its way to a platform.

    `given` holds, in plain values, what somebody said of the spec, by path; what nobody said is left to the
    image, whose defaults are the same. `config` is the spec's own file, and `from_config` the paths of what
    it says. `file` is the rendered file's name, quoted for the shell.
    """

    spec: JobSpec
    given: Mapping[FieldPath, Any]
    image: str
    file: str
    config: str | None = None
    from_config: frozenset[FieldPath] = frozenset()

    @property
    def label(self) -> str:
        """The spec's name as a DNS label (RFC 1123) of at most 30 characters, for platforms that want one."""
        return re.sub(r"[^a-z0-9]+", "-", self.spec.name.lower())[:30].strip("-")

    @property
    def wants_gpu(self) -> bool:
        return self.spec.runtime.device != "cpu"

    @property
    def stop_seconds(self) -> int:
        """Whole seconds between a platform's first signal and its second, where the platform is told."""
        return math.ceil(self.spec.runtime.grace_seconds) + STOP_MARGIN

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the environment variables that hold this job's credentials."""
        return tuple(name for scheme in self._schemes for name in CREDENTIALS.get(scheme, ()))

    @property
    def secrets_of_a_shell(self) -> tuple[str, ...]:
        """Those that a platform's client passes on from the shell that starts it, where they are set."""
        return self.secrets + tuple(name for scheme in self._schemes for name in TEMPORARY.get(scheme, ()))

    @property
    def _schemes(self) -> list[str]:
        """Of the places that are reached with credentials."""
        found = {place.partition("://")[0].lower() for place in places(self.spec).values() if "://" in place}
        return sorted(found - {"s3"} if self.spec.storage.anonymous else found)

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
    """Every place that the job reads or writes, those of the defaults too, by path."""
    paths = (path for path, field in spec_fields().items() if field.is_place)
    found: dict[FieldPath, Any] = {path: reduce(getattr, path, spec) for path in paths}
    found["output_dir",] = spec.output_place
    return {path: place for path, place in found.items() if place is not None}


def local_places(spec: JobSpec) -> dict[FieldPath, Path]:
    """Those that are paths, absolute. `resume_from: checkpoint-epoch-50` is a name within the output."""
    return {
        path: folder
        for path, place in places(spec).items()
        if not (path[-1] == "resume_from" and "/" not in place) and (folder := local_path(place)) is not None
    }


def flattened(given: Mapping[FieldPath, Any]) -> dict[str, str]:
    """{("train", "lr"): 1e-4} as {"SIDESTEP_TRAIN__LR": "0.0001"}: the spec for platforms without files.

    An empty mapping is left out: it is every mapping's default, and an empty variable counts as not set.
    """
    return {variable(path): _as_text(value) for path, value in given.items() if value != {}}


def digest(*parts: Any) -> str:
    """Eight hex digits that change with any of the parts, which are plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={_as_text(number)}" for key, number in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)
