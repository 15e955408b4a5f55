"""The schema's part about how a run judges itself: held-out songs, and when it has learnt enough."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, field_validator

from sidestep.config.section import Section, setting, split_names


class ValidationSpec(Section):
    """Songs that are held out of the training, and the loss on them. Off where none is held out."""

    share: float = setting(
        0,
        "Share of the songs to hold out: which ones is decided by their content, and at least two are.",
        ge=0,
        le=0.5,
        flag="--validation-share",
    )
    songs: Annotated[tuple[str, ...], BeforeValidator(split_names)] = setting(
        (),
        'Songs to hold out by name, as in live-01 "Night Drive" demo-*; others are held out by share alone.',
        flag="--validation-songs",
    )
    every_epochs: int = setting(
        5, "Epochs between validations.", ge=1, unit="epochs", flag="--validate-every"
    )
    draws: int = setting(
        16, "Noise levels at which each song's loss is taken.", ge=1, le=256, flag="--validation-draws"
    )
    window: int = setting(
        3,
        "The best checkpoint and the stop go by the mean of this many validations.",
        ge=1,
        le=100,
        flag="--validation-window",
    )

    @field_validator("every_epochs", "draws", "window")
    @classmethod
    def _songs_are_held_out(cls, value: Any, info: ValidationInfo) -> Any:
        """Where none is, nothing is validated. Defaults may be written, as in a run's job.yaml."""
        is_off = not info.data.get("share", True) and not info.data.get("songs", True)
        if is_off and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError(
                "is for held-out songs, and there are none: set train.validation.share, or name "
                "train.validation.songs"
            )
        return value

    @property
    def is_on(self) -> bool:
        """Whether songs are held out."""
        return self.share > 0 or bool(self.songs)


class StopSpec(Section):
    """When a run ends before its last epoch because it gets no better."""

    patience: int | None = setting(
        None,
        "Validations in a row without improvement after which the run ends.",
        ge=1,
        unit="validations",
    )
    min_delta: float = setting(
        0, "How much lower the held-out loss must be to count as an improvement for patience.", ge=0
    )

    @field_validator("min_delta")
    @classmethod
    def _patience_counts_by_it(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("patience", 1) is None:
            raise ValueError("is for patience alone, and there is none: set train.stop.patience")
        return value
