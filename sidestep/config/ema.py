"""The schema's part about the average of an adapter's weights over its steps."""

from typing import Any

from pydantic import ValidationInfo, field_validator

from sidestep.config.section import Section, setting


class EmaSpec(Section):
    """An exponential moving average of the adapter's weights, kept beside them. Off without a decay."""

    decay: float | None = setting(
        None,
        "Keep an average of the adapter's weights over the steps; each step leaves this much of it, such as "
        "0.999 (less in the first steps). It changes nothing in the training itself.",
        gt=0,
        lt=1,
        flag="--ema-decay",
    )
    use: bool = setting(
        True,
        "Evaluate and publish the average. Off: keep it in the checkpoints alone, and publish the weights as "
        "they are.",
        flag="--ema-use",
    )

    @field_validator("use")
    @classmethod
    def _there_is_an_average(cls, value: Any, info: ValidationInfo) -> Any:
        if not value and info.data.get("decay", 1) is None:
            raise ValueError("is for runs with an average: set train.ema.decay, or leave it out")
        return value
