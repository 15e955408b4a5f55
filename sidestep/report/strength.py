"""`strength.json` in an output: the held-out loss of its adapter at several strengths; see `tasks.calibrate`.

{
  "format": 1,
  "adapter": "<sha256>",            of the adapter's files: of another one, it says nothing
  "songs": 3, "draws": 16,          held-out songs, and the noise levels of each
  "losses": [{"strength": 0.0, "loss": 1.4142}, …],    null: not finite
  "best": 0.75,                     the strength with the lowest loss; null: none is finite
  "in_card": false                  whether the adapter's card is to name it
}
"""

from pydantic import BaseModel, ConfigDict

from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import Amount, Count, Number, parse_as
from sidestep.storage.store import Store

FILE = "strength.json"


class At(BaseModel):
    """The held-out loss at a strength."""

    model_config = ConfigDict(frozen=True)
    strength: Amount
    loss: Number | None


class Calibration(BaseModel):
    """The content of strength.json."""

    model_config = ConfigDict(frozen=True)
    format: int = 1
    adapter: str
    songs: Count
    draws: Count
    losses: tuple[At, ...]
    best: Amount | None
    in_card: bool = False

    def content(self) -> bytes:
        return json_bytes(self.model_dump(mode="json"))


def read_calibration(store: Store) -> Calibration | None:
    """What an output says of strengths; None for nothing. Raises BadDataError where it is damaged."""
    if store.stat(FILE) is None:
        return None
    found = parse_as(Calibration, store.read_small(FILE), f"{store.place}/{FILE}")
    if found.format != 1:
        raise BadDataError(
            f"{store.place}/{FILE} has format {found.format}, which this version does not know"
        )
    return found
