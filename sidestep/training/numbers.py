"""`training_state.json`: how far a run is, what it was begun with and on, and the optimizer's numbers.

Reading it loads no torch, so that a finished run is known for one in a moment. The state's tensors are in
`training_state.safetensors`, see `sidestep.training.checkpoint`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sidestep.data.card import Facts
from sidestep.data.index import FileRecord
from sidestep.data.sides import Sides
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import Count, Exact, Number, as_kind, parse_json, read_small

NUMBERS_FILE = "training_state.json"
TENSORS_FILE = "training_state.safetensors"
STATE_FILES = (NUMBERS_FILE, TENSORS_FILE)
LAW = 2
"""How a new run's random draws are made. It is a run's state, and no part of what makes two runs the same.

Under law 1, the adapter's dropout was one mask for the whole micro-batch from torch's global generator, and
LoKR had none. From law 2 on, each draw is keyed by the sample's number in the run.
"""
FORMATS = {1: 1, 2: 2}
"""Of a law (see `LAW`): the file's format, so that an older version refuses a law that it does not know."""
NUMERICS = {"fp32": 1, "bf16": 2, "fp16": 2}
"""By precision: to be counted up with every change of the code after which a run gives other numbers in it.

It stands in the kind of the machine for the version of Side-Step, most of which leave every number as it was.
"""


@dataclass(frozen=True)
class Losses:
    """Of some songs on the fixed draws of a validation; NaN where a draw was not finite."""

    by_song: tuple[float, ...]  # the mean over its draws, in the songs' order
    by_draw: tuple[float, ...]  # the mean over the songs, from the least noise to the most

    @property
    def mean(self) -> float:
        """Over all songs and draws."""
        return sum(self.by_song) / len(self.by_song)


@dataclass(frozen=True)
class Validation:
    """What a validation has found at one step."""

    held_out: Losses
    trained: Losses  # of as many songs that are trained on, as far as there are


@dataclass
class Progress:
    """How far a run is. All that changes while it trains, but for weights and optimizer."""

    step: int = 0
    losses: list[float] = field(default_factory=list)  # mean loss of each optimizer step so far
    evaluations: dict[int, float] = field(default_factory=dict)  # step → loss on fixed draws
    validations: dict[int, Validation] = field(default_factory=dict)  # by step
    timesteps: tuple[float, ...] = ()  # of a validation's draws, rising
    patient_from: int = (
        0  # the step after which `stop.patience` counts: a run that it ended was extended there
    )
    skipped: int = 0  # steps so far that changed nothing, as their loss or gradient was not finite
    skipped_in_row: int = 0  # those of them since the last one that did
    law: int = LAW  # see there
    loss_scale: dict[str, Any] = field(default_factory=dict)  # the gradient scaler's state, in fp16 alone


@dataclass(frozen=True)
class Numbers:
    """What `training_state.json` says of a run, without its weights."""

    recipe: dict[str, Any]  # the fingerprint that the run was begun with
    machine: dict[str, Any]  # the kind of machine that it was begun on
    progress: Progress  # without the losses, which are in the other file
    tensors: list[str]  # names of all that the other file holds
    optimizer: dict[str, Any]  # its class, and its state as far as that is no tensor
    dataset_files: dict[str, FileRecord] = field(default_factory=dict)  # trained on; older versions kept none
    sides: Sides | None = None  # which songs are held out; None: none is
    card: Facts | None = None  # what its adapter says of itself; runs of older versions say nothing

    @property
    def dataset(self) -> str:
        """The digest of the names and sizes of the tensors that it was begun with."""
        return str(self.recipe.get("dataset", ""))


def numbers_bytes(numbers: Numbers) -> bytes:
    """The content of `training_state.json`. The same numbers give the same bytes."""
    progress = numbers.progress
    content = {
        "format": FORMATS[progress.law],
        **({} if progress.law == 1 else {"law": progress.law}),  # a run begun before says what it said
        "step": progress.step,
        "skipped": progress.skipped,
        "skipped_in_row": progress.skipped_in_row,
        "loss_scale": progress.loss_scale,
        # JSON has no NaN.
        "evaluations": {
            str(step): loss if math.isfinite(loss) else None for step, loss in progress.evaluations.items()
        },
        "recipe": numbers.recipe,
        "machine": numbers.machine,
        "tensors": numbers.tensors,
        "optimizer": numbers.optimizer,
        "dataset_files": {
            name: {"size": record.size, "version": record.version, "sha256": record.sha256}
            for name, record in numbers.dataset_files.items()
        },
        # What only runs with held-out songs have: all others' files stay as they were.
        **({"sides": numbers.sides.as_json()} if numbers.sides else {}),
        **({"card": numbers.card.model_dump(mode="json", exclude_defaults=True)} if numbers.card else {}),
        **({"validations": _as_json(progress.validations)} if progress.validations else {}),
        **({"validation_timesteps": list(progress.timesteps)} if progress.validations else {}),
        **({"patient_from": progress.patient_from} if progress.patient_from else {}),
    }
    return json_bytes(content)


def _as_json(validations: Mapping[int, Validation]) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    def known(losses: tuple[float, ...]) -> list[float | None]:
        return [loss if math.isfinite(loss) else None for loss in losses]

    def both(losses: Losses) -> dict[str, list[float | None]]:
        return {"by_song": known(losses.by_song), "by_draw": known(losses.by_draw)}

    return {
        str(step): {"held_out": both(validation.held_out), "trained": both(validation.trained)}
        for step, validation in validations.items()
    }


def read_numbers(data: bytes, where: str) -> Numbers:
    """A checkpoint's `training_state.json`; messages name its folder, `where`.

    Raises BadDataError where it is damaged or of another version.
    """
    name = f"{where}/{NUMBERS_FILE}"
    content = parse_json(data, name)
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version not in FORMATS.values():
        raise BadDataError(
            f"{where} has checkpoint format {version}; this version of Side-Step reads up to "
            f"{max(FORMATS.values())}: go on with a newer one"
        )
    read = as_kind(_Content, content, name)
    progress = Progress(
        read.step,
        law=read.law,
        evaluations={step: math.nan if loss is None else loss for step, loss in read.evaluations.items()},
        validations={step: validation.made() for step, validation in read.validations.items()},
        timesteps=tuple(read.validation_timesteps),
        patient_from=read.patient_from,
        skipped=read.skipped,
        skipped_in_row=read.skipped_in_row,
        loss_scale=read.loss_scale,
    )
    machine, optimizer = read.machine.model_dump(exclude_unset=True), read.optimizer.model_dump()
    sides = Sides.of_json(read.sides, name) if read.sides is not None else None
    return Numbers(
        read.recipe, machine, progress, read.tensors, optimizer, read.dataset_files, sides, read.card
    )


def numbers_in(folder: Path) -> Numbers:
    """Those of the checkpoint in `folder`. Raises MissingInputError where it is not whole."""
    if missing := [name for name in STATE_FILES if not (folder / name).is_file()]:
        raise MissingInputError(f"{folder} cannot be resumed from: it has no {', '.join(missing)}")
    return read_numbers(read_small(folder / NUMBERS_FILE), str(folder))


class _Machine(BaseModel):
    """What later attempts take over of a machine's kind. The rest of it is compared alone."""

    model_config = ConfigDict(extra="allow")

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    attention: Literal["sdpa", "flash"] = "sdpa"
    threads: Annotated[int, Field(ge=1, le=4096, strict=True)] = 1


class _Optimizer(BaseModel):
    kind: str
    groups: list[dict[str, Any]] = []
    numbers: dict[str, dict[str, Exact]] = {}


class _Losses(BaseModel):
    by_song: Annotated[list[Number | None], Field(min_length=1)]
    by_draw: Annotated[list[Number | None], Field(min_length=1)]

    def made(self) -> Losses:
        def known(losses: list[float | None]) -> tuple[float, ...]:
            return tuple(math.nan if loss is None else loss for loss in losses)

        return Losses(known(self.by_song), known(self.by_draw))


class _Validation(BaseModel):
    held_out: _Losses
    trained: _Losses

    def made(self) -> Validation:
        return Validation(self.held_out.made(), self.trained.made())


class _Content(BaseModel):
    """What `training_state.json` holds, by its types. What it says must also fit the run: see `restore`."""

    format: Literal[1, 2]
    law: Literal[1, 2] = 1
    step: Count
    skipped: Count
    skipped_in_row: Count
    loss_scale: dict[str, Exact]
    evaluations: dict[Annotated[int, Field(ge=0)], Number | None]
    recipe: dict[str, Any]
    machine: _Machine
    tensors: list[str]
    optimizer: _Optimizer
    dataset_files: dict[str, FileRecord] = {}
    sides: list[Any] | None = None
    card: Facts | None = None
    validations: dict[Annotated[int, Field(ge=0)], _Validation] = {}
    validation_timesteps: list[Number] = []
    patient_from: Count = 0
