"""What the files of an output hold that the report and the estimate are made from, by their types."""

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.parsing import Amount, Count, Number, parse_as
from sidestep.storage.store import Store

RECEIPT, HISTORY, ESTIMATE = "receipt.json", "history.json", "estimate/report.json"
"""Of estimates, the newest; each dataset's has a folder beside it, see `estimate_of`."""


class Song(BaseModel):
    name: str
    seconds: Amount
    caption: str
    repeats: Count = 1
    weight: Amount = 1
    held_out: bool = False


class Validated(BaseModel):
    """A validation. `by_level` and `by_song` are of the held-out songs; None is not finite."""

    held_out: Number | None
    trained: Number | None
    smoothed: Number | None
    by_level: dict[str, Number | None]
    by_song: list[Number | None]


class History(BaseModel):
    """history.json; see `training.history`. None stands for what is not finite."""

    losses: list[Number | None]
    running_mean: list[Number | None]
    learning_rates: list[Number | None]
    evaluations: dict[Annotated[int, Field(ge=0, le=10**12)], Number | None]
    songs: list[Song]
    held_out: list[str] = []  # names, in the order of `by_song`
    validations: dict[Annotated[int, Field(ge=0, le=10**12)], Validated] = {}


class Inputs(BaseModel):
    model_variant: str
    weights: str
    dataset: str
    dataset_content: str | None = None


class File(BaseModel):
    """A file by its content."""

    size: Count
    sha256: str


class Ends(BaseModel):
    first: Number | None
    last: Number | None


class At(BaseModel):
    """What a validation found, and the folder of its checkpoint where that is kept."""

    step: Count
    held_out: Number | None
    trained: Number | None
    smoothed: Number | None
    checkpoint: str | None


class Gained(BaseModel):
    mean: Number
    standard_error: Amount


class Validation(BaseModel):
    """What the held-out songs say of a run."""

    songs_held_out: Count
    songs_trained: Count
    draws: Count
    window: Count
    first: At
    best: At | None
    last: At
    gain: Gained | None
    after_best: Gained | None = None


class Published(BaseModel):
    """The checkpoint that the run's end has made its adapter."""

    folder: str
    step: Count


class Receipt(BaseModel):
    """receipt.json, as far as it is read; see `lifecycle.receipt`."""

    name: str
    spec_sha256: str
    inputs: Inputs
    adapter: dict[str, File]
    steps: Count
    steps_skipped: Count
    loss_on_fixed_draws: Ends
    validation: Validation | None = None  # where songs were held out
    checkpoint: Published | None = None  # older versions had the last one
    ended_by: str = ""
    attempts: Count
    preemptions: Count
    steps_repeated: Count
    seconds: dict[str, Amount]
    gpu_seconds: Amount
    cost: Amount | None
    bit_equality: str


class Module(BaseModel):
    module: str
    norm: Amount


class Layer(BaseModel):
    layer: str
    norm: Amount


class Ranking(BaseModel):
    """estimate/report.json: attention modules by how much a dataset moves them, and what decided that."""

    model_config = ConfigDict(extra="allow")

    recipe: dict[str, Any] = Field(default_factory=dict)
    modules: list[Module]
    layers: list[Layer] = Field(default_factory=list)  # older reports have none
    picture: str = ""  # sha256 of report.png
    sha256: str = ""  # of all the rest; older reports have neither

    def digest(self) -> str:
        """What `sha256` is where nothing has been changed since."""
        content = self.model_dump(mode="json", exclude={"sha256"} | (set() if self.layers else {"layers"}))
        return hashlib.sha256(json_bytes(content)).hexdigest()

    @property
    def norms(self) -> dict[str, float]:
        """The mean gradient norm by module."""
        return {entry.module: entry.norm for entry in self.modules}


def read_history(store: Store) -> History:
    return parse_as(History, store.read_small(HISTORY), f"{store.place}/{HISTORY}")


def read_receipt(store: Store) -> Receipt:
    return parse_as(Receipt, store.read_small(RECEIPT), f"{store.place}/{RECEIPT}")


def read_ranking(store: Store, path: str = ESTIMATE) -> Ranking:
    return parse_as(Ranking, store.read_small(path), f"{store.place}/{path}")


def estimate_of(content: str) -> str:
    """The path of a dataset's own report; `content` is the digest of what is in its tensors."""
    folder, _, name = ESTIMATE.rpartition("/")
    return f"{folder}/{content[:8]}/{name}"
