"""The experiment trackers that a run can be sent to: one table of what each is called and is told by.

Where each keeps its runs, and under which key, its own environment variables say: none of it is in a spec.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator

from sidestep.config.section import split_words

TrackerName = Literal["wandb", "mlflow", "trackio"]

TrackerNames = Annotated[tuple[TrackerName, ...], BeforeValidator(split_words)]


@dataclass(frozen=True)
class Tracker:
    """One tracker. Its name is that of the extra, and of the module that the extra brings."""

    title: str
    variables: tuple[str, ...]  # what a job on another machine cannot do without
    beside: tuple[str, ...]  # what a shell may have besides


TRACKERS: Mapping[TrackerName, Tracker] = {
    "wandb": Tracker(
        "Weights & Biases",
        ("WANDB_API_KEY",),
        ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL", "WANDB_MODE"),
    ),
    "mlflow": Tracker(
        "MLflow",
        ("MLFLOW_TRACKING_URI",),
        (
            *("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_TOKEN"),
            *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
        ),
    ),
    "trackio": Tracker(
        "Trackio",
        ("HF_TOKEN", "TRACKIO_SPACE_ID"),
        ("TRACKIO_SERVER_URL", "TRACKIO_WRITE_TOKEN"),
    ),
}
