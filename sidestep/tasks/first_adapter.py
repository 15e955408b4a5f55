"""The adapter that a new run begins from, `train.init_from`, where its spec names one."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidestep import adapters
from sidestep.acestep.loading import shapes_alone
from sidestep.adapters import Adapter
from sidestep.adapters.warm import begin_from
from sidestep.config.judging import ValidationSpec
from sidestep.data.sides import Sides, sides_in
from sidestep.lifecycle.adapter_files import digest_of, find_adapter
from sidestep.lifecycle.job import Job
from sidestep.runtime.errors import AccessError, MissingInputError, StorageError
from sidestep.runtime.tensorfiles import read_metadata
from sidestep.training.numbers import Numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstAdapter:
    """What a run began from, or begins from.

    Attributes:
        digest: of the adapter's files; "" where the run begins with a new adapter.
        place: of its weights, for messages.
        weights: its file on this machine; None where the run has a checkpoint and needs it no more.
    """

    digest: str = ""
    place: str = ""
    weights: Path | None = None

    @property
    def fingerprint(self) -> dict[str, str]:
        """Its part of the run's fingerprint; nothing where there is none, as in older runs."""
        return {"init_from": self.digest} if self.digest else {}

    @property
    def header(self) -> dict[str, str]:
        """The texts in the header of its weights; {} where there is none."""
        return read_metadata(self.weights) if self.weights else {}

    def sides(self, validation: ValidationSpec) -> Sides | None:
        """Which songs were held out of its training, which a new run takes over; None where it does not say.

        Raises BadDataError where what it says is damaged.
        """
        found = sides_in(self.header, self.place)
        if self.weights and found is None and validation.is_on:
            log.warning(
                "%s does not say which songs it was trained on: where held-out songs are among them, their "
                "loss shows what is memorized, too",
                self.place,
            )
        return found

    def begin(self, adapter: Adapter, config: dict[str, Any], *, resize: bool) -> None:
        """Let `adapter`, which is new and in the model of `config`, begin as this one; see `adapters.warm`.

        Raises MissingInputError and BadDataError as reading it does, BadSpecError where it does not fit.
        """
        if self.weights:
            transformer = shapes_alone(config)
            # What the lengths of the base's rows are decides whether a decomposed LoKR has an effect.
            transformer.load_state_dict(adapter.transformer.state_dict(), strict=False, assign=True)
            begin_from(adapter, adapters.load(transformer, self.weights), self.place, resize=resize)


def find_first_adapter(job: Job, before: Numbers | None) -> FirstAdapter:
    """The adapter that the spec names, pulled to this machine.

    A run with a checkpoint, `before`, goes on without it: where the spec names none any more, or one that
    cannot be read, it is the one that the run began from.

    Raises what finding and pulling it raises.
    """
    place = job.spec.train.init_from
    recorded = str(before.recipe.get("init_from") or "") if before else ""
    if not place:
        return FirstAdapter(recorded)
    try:
        found = find_adapter(place, job.spec.storage)
        weights = found.pull(job.workspace)
    except (MissingInputError, AccessError, StorageError) as error:
        if before is None:
            raise
        log.info("train.init_from plays no part any more, and cannot be read: %s", error)
        return FirstAdapter(recorded)
    return FirstAdapter(digest_of(weights), found.place, None if before else weights)
