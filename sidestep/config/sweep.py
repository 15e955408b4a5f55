"""A sweep: one spec that stands for many runs, one for each combination of the values that it lists.

    sweep: {train.lr: [1e-4, 3e-4], train.adapter.rank: [16, 64]}

A run's folder is a digest of the swept settings and their values alone. So it stays the same when a value is
added, when the rest of the spec changes, and when newer code has more settings: nothing runs twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from itertools import product
from math import prod
from operator import getitem
from typing import Any, Generic, TypeVar

from pydantic import ValidationError, create_model

from sidestep.config.adapter import OWN_ESTIMATE
from sidestep.config.fields import FieldPath, nearest_field, spec_fields, spec_sections
from sidestep.config.problems import Problem, invalid_values, report
from sidestep.config.schema import JobFields
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.words import as_typed, set_at

Spec = TypeVar("Spec", bound=JobFields)

MOST = 1000
"""Runs of one sweep."""

DIGITS = 12
"""Of a run's folder, in hex."""

OF_AN_ATTEMPT = ("resume_from", "new_attempt", "extend", "accept_other_weights")
"""Fields of `train` that say how an attempt goes on, and nothing of what is trained."""


@dataclass(frozen=True)
class Member(Generic[Spec]):
    """One run of a sweep.

    Attributes:
        folder: its place below the sweep's output, by the values alone.
        values: of the swept settings, by name, in plain values.
        spec: of the run, on the tensors that all share.
        whole: the same as a job with the sweep's own task, as if it made all by itself: to be looked at.
    """

    folder: str
    values: Mapping[str, Any]
    spec: Spec
    whole: Spec

    @property
    def name(self) -> str:
        """What people know it by: `train.adapter.rank=16 train.lr=0.0001`."""
        return called(self.values)


def called(values: Mapping[str, Any]) -> str:
    """The name of the run with these values of the swept settings, which come in one order."""
    return " ".join(f"{name}={as_typed(value) or 'null'}" for name, value in sorted(values.items()))


def folder_of(values: Mapping[str, Any]) -> str:
    """The folder of the run with these values of the swept settings."""
    return sha256(json_bytes(dict(values))).hexdigest()[:DIGITS]


def members_of(spec: Spec) -> list[Member[Spec]]:
    """The runs that `spec` stands for, in the order of its values: the last setting changes the fastest.

    Raises BadSpecError with everything that is wrong with its sweep.
    """
    members, problems = expanded(spec)
    if problems:
        raise BadSpecError(report(problems))
    return members


def shared_of(spec: Spec, members: Sequence[Member[Spec]], task: str) -> Spec:
    """The spec of what the runs of a sweep share, `task` being preprocess or estimate: the prompts that any
    of them needs are encoded at once."""
    prompts = {name for member in members for name in member.spec.alternates} | {*spec.alternates}
    return _changed(spec, {"task": task, "sweep": {}, "preprocess.alternates": sorted(prompts)})


def expanded(spec: Spec, origin: str = "sweep") -> tuple[list[Member[Spec]], list[Problem]]:
    """The runs as `members_of` has them, and what is wrong; `origin` is where the sweep is from."""
    problems = [
        Problem(f"sweep.{name}", trouble, origin)
        for name, values in spec.sweep.items()
        if (trouble := _trouble(name, values))
    ]
    if spec.sweep and spec.train.resume_from:
        problems.append(
            Problem("train.resume_from", "names one run's checkpoint, and a sweep has many runs", origin)
        )
    if (count := prod(map(len, spec.sweep.values()))) > MOST:
        problems.append(Problem("sweep", f"makes {count:,} runs; at most {MOST:,} are allowed", origin))
    if problems or not spec.sweep:
        return [], problems
    members: dict[str, Member[Spec]] = {}
    for combination in product(*spec.sweep.values()):
        try:
            member = _member(spec, dict(zip(spec.sweep, map(_plain, combination), strict=True)))
        except ValidationError as error:
            origins: dict[FieldPath, str] = defaultdict(lambda: origin)
            problems += [
                Problem(f"sweep.{found.field}", found.message, origin, found.value)
                for found in invalid_values(error, origins)
            ]
        else:
            if member.folder in members:
                problems.append(Problem("sweep", f"lists {member.name} twice", origin))
            members[member.folder] = member
    return list(members.values()), list({str(problem): problem for problem in problems}.values())


def _trouble(name: str, values: Sequence[Any]) -> str:
    """What is wrong with a swept setting; an empty text where it is fine."""
    path = tuple(name.split("."))
    if path in spec_sections():
        return "is a section; a sweep lists values of single settings, such as train.lr"
    if path not in spec_fields():
        meant = nearest_field(path)
        hint = f"did you mean {'.'.join(meant)}?" if meant else "`sidestep schema` lists all fields"
        return f"is not known; {hint}"
    if path[0] != "train":
        return "cannot be swept: the runs of a sweep share all but settings of train"
    if path[1] in OF_AN_ATTEMPT:
        return "cannot be swept: it is about an attempt, and nothing of what is trained"
    return "" if values else "needs one value or more, as a list"


def _plain(value: Any) -> Any:
    """What a flag or a variable says for null is text."""
    return None if value == "null" else value


def _member(spec: Spec, values: Mapping[str, Any]) -> Member[Spec]:
    """The run with these values. Raises ValidationError where they are no spec together."""
    tried = _changed(spec, {**values, "sweep": {}}).model_dump(mode="json")
    checked = {name: reduce(getitem, name.split("."), tried) for name in values}
    folder = folder_of(checked)
    own: dict[str, Any] = {
        "sweep": {},
        "name": f"{spec.name[: 62 - DIGITS]}-{folder}",
        "output_dir": f"{spec.output_place.rstrip('/')}/{folder}",
        "dataset_dir": spec.tensors_place,
    }
    estimate = {}
    if tried["train"]["adapter"]["rank_from"] == OWN_ESTIMATE:
        estimate["train.adapter.rank_from"] = spec.output_place
    whole = _changed(spec, {**checked, **own})
    return Member(folder, checked, _changed(whole, {"task": "train", **estimate}), whole)


def _changed(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """The same spec with other values, by dotted names. Raises ValidationError, of a model that has it."""
    plain = spec.model_dump()
    for name, value in values.items():
        set_at(plain, name.split("."), value)
    made: Spec = create_model("Holder", spec=(type(spec), ...)).model_validate({"spec": plain}).spec  # type: ignore[attr-defined]
    return made
