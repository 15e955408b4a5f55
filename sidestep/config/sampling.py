"""Steps, guidance and shift that each model generates with: one table, for samples and for cards."""

from dataclasses import dataclass

README = "ACE-Step 1.5, README and inference guide"
PROVIDER = "a hosting provider's page of this model"
_FOLDER = "acestep-v15-"


@dataclass(frozen=True)
class Sampling:
    """How to generate with a model.

    Attributes:
        steps: Euler steps.
        guidance: scale of classifier-free guidance; 1 is without.
        shift: of the timesteps, t → shift · t / (1 + (shift − 1) · t).
        source: where the numbers are from.
    """

    steps: int
    guidance: float
    shift: float
    source: str

    @property
    def takes_guidance(self) -> bool:
        return self.guidance != 1.0

    @property
    def most_steps(self) -> int:
        """That the inference guide allows: 1 to 20 for turbo, 1 to 200 for the others."""
        return 200 if self.takes_guidance else 20


SAMPLING = {
    "turbo": Sampling(8, 1.0, 3.0, README),
    "base": Sampling(50, 7.0, 1.0, README),
    "sft": Sampling(50, 7.0, 1.0, README),
    "xl-turbo": Sampling(8, 1.0, 3.0, PROVIDER),
    "xl-base": Sampling(50, 7.0, 1.0, f"as base; {README}"),
    "xl-sft": Sampling(50, 7.0, 1.0, PROVIDER),
}
"""By the variant's name. Those of turbo are distilled to eight steps, and know no guidance."""


def sampling_of(variant: str, base_model: str | None = None, *, is_turbo: bool = False) -> Sampling:
    """What to generate with, by a variant's name or its folder's.

    Args:
        base_model: the model that a fine-tune was made from.
        is_turbo: by the model's own config.json, for a fine-tune of which nobody says what it was made from.
    """
    for name in (variant, base_model or ""):
        if found := SAMPLING.get(name.removeprefix(_FOLDER)):
            return found
    return SAMPLING["turbo" if is_turbo else "base"]
