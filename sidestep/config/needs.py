"""The places that a task cannot do without: asked of a spec that is to be run, not of every spec."""

from collections.abc import Mapping
from typing import Any

from sidestep.config.problems import Problem, report
from sidestep.config.schema import JobFields
from sidestep.runtime.errors import BadSpecError

Need = tuple[tuple[str, ...], str]
"""Fields, one of which has to be given, and what for; the first is the one that is asked for."""

_SONGS: Need = (("audio_dir", "dataset_json"), "the place of the songs (or a dataset_json that names them)")
_RESULTS: Need = (("output_dir",), "a place for its results")
_TENSORS = ("dataset_dir", "output_dir")

NEEDS: dict[str, tuple[Need, ...]] = {
    "preprocess": (_SONGS, (_TENSORS, "a place for the tensors (flag --tensor-output)")),
    "estimate": ((_TENSORS, "the place of the tensors"),),
    "train": (_RESULTS,),
    "pipeline": (_SONGS, _RESULTS),
}


def reads_encoders(spec: JobFields) -> bool:
    """Whether the task reads VAE, text encoder and condition encoder: to make tensors, or sounds."""
    return spec.task in ("preprocess", "pipeline") or (spec.task == "train" and spec.train.sample.is_on)


def missing_places(values: Mapping[str, Any]) -> list[Problem]:
    """A problem for each place that the task in `values` needs and that they do not give.

    `values` are the spec's at its top, checked or not, so that this can be said beside all other problems.
    """
    task = values.get("task") or JobFields.model_fields["task"].default
    # An empty place is given: the schema says what is wrong with it. So it does of a task that there is not.
    return [
        Problem(fields[0], f"task {task} needs {what}{_way_on(task, fields[0], values)}", "not given")
        for fields, what in (NEEDS.get(task, ()) if isinstance(task, str) else ())
        if all(values.get(field) is None for field in fields)
    ]


def _way_on(task: object, field: str, values: Mapping[str, Any]) -> str:
    """What else may be meant: tensors without songs are something to train on."""
    has_tensors = task == "pipeline" and field == "audio_dir" and values.get("dataset_dir") is not None
    return (
        "; to train on the tensors in dataset_dir, take task train (flag --task train)" if has_tensors else ""
    )


def check_needs(spec: JobFields) -> None:
    """Raises BadSpecError where `spec` lacks a place that its task needs: a spec made in Python may."""
    if missing := missing_places(dict(spec)):
        raise BadSpecError(report(missing))
