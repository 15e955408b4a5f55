"""The schema's part about sounds that are made while a run trains. None of it changes what is trained."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sidestep.config.section import Section, setting, split_texts

LONGEST = 600.0  # seconds, of the model's silence
SECONDS = 30.0

Asked = Annotated[str, Field(min_length=1, max_length=20_000)]


class SampleSpec(Section):
    """Sounds of the adapter while it is trained, to hear what it learns. Off without every_epochs."""

    every_epochs: int | None = setting(
        None,
        "Make sounds with the adapter after each so many epochs and at the end, and save a checkpoint with "
        "them; before the first, with the base model. It changes nothing in the training itself.",
        ge=1,
        unit="epochs",
        flag="--sample-every",
    )
    prompts: Annotated[tuple[Asked, ...], BeforeValidator(split_texts)] = setting(
        (),
        "What they are of: captions, each with its lyrics in the lines that follow it, if any. By default "
        "those of three songs that are trained on and of the held-out ones, and the trigger word alone.",
        flag="--sample-prompts",
    )
    seconds: float = setting(
        SECONDS, "Length of each sound.", ge=1, le=LONGEST, unit="seconds", flag="--sample-seconds"
    )

    @field_validator("prompts", "seconds")
    @classmethod
    def _sounds_are_made(cls, value: Any, info: ValidationInfo) -> Any:
        """Defaults may be written, as in a run's job.yaml."""
        is_off = info.data.get("every_epochs", 1) is None
        if is_off and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError("is for sounds while training, and none are made: set train.sample.every_epochs")
        return value

    @property
    def is_on(self) -> bool:
        """Whether sounds are made."""
        return self.every_epochs is not None
