"""Outputs as a comparison reads them: from their commit logs and newest checkpoints, without torch."""

import hashlib
import logging
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from sidestep.commitlog.log import CommitLog, Record
from sidestep.config.training import TrainSpec
from sidestep.config.yaml12 import parse_yaml
from sidestep.data.sides import Sides, Song, by_hash
from sidestep.lifecycle.identity import flat_settings
from sidestep.lifecycle.output import SPEC
from sidestep.lifecycle.status import FILE as STATUS
from sidestep.lifecycle.status import Status
from sidestep.report.comparison import Run
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.runtime.parsing import Count, as_kind, parse_json
from sidestep.runtime.tensorfiles import HEADER_AT_MOST
from sidestep.storage.store import Store
from sidestep.training.numbers import NUMBERS_FILE, TENSORS_FILE, Numbers, Progress, read_numbers
from sidestep.training.verdict import judge

log = logging.getLogger(__name__)

JUDGED_BY = ("validation", "stop", "target_loss")


def read_run(store: Store) -> Run:
    """The run in `store`, finished or not, as its newest checkpoint has it. It is called by its folder.

    Raises MissingInputError where there is no checkpoint, BadDataError where that is damaged.
    """
    commits = CommitLog(store)
    tail = commits.tail()
    newest = commits.newest_commit(tail)
    if newest is None:
        raise MissingInputError(f"there is no checkpoint in {store.place}: no training has come so far there")
    numbers = _numbers(store, newest)
    progress = replace(numbers.progress, losses=_losses(store, newest, numbers.progress.step))
    where = f"{newest.folder}/{NUMBERS_FILE}"
    settings = flat_settings(numbers.recipe)
    if settings["dataset_content"] is not None:
        del settings["dataset"]  # of names and sizes: the content says it better
    train = as_kind(TrainSpec, _judged_by(numbers.recipe), f"{store.place}/{where}")
    status = _status(store)
    seconds = sum(status.spent.seconds.values()) if status else None
    price = _price(store)
    return Run(
        label=posixpath.basename(store.place),
        place=store.place,
        state=_state(newest, progress, train, status),
        adapter_step=_adapter_step(commits, tail, newest),
        settings=settings,
        songs=_held_out_songs(numbers.sides, progress),
        progress=progress,
        verdict=judge(progress, train),
        seconds=seconds,
        cost=None if seconds is None or price is None else seconds / 3600 * price,
    )


def called_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs with labels that tell them apart: their places where folders are called alike."""
    count = Counter(run.label for run in runs)
    return [run if count[run.label] == 1 else replace(run, label=run.place) for run in runs]


def _numbers(store: Store, record: Record) -> Numbers:
    path = f"{record.folder}/{NUMBERS_FILE}"
    data = store.read_small(path)
    if NUMBERS_FILE not in record.files or _sha256(data) != record.files[NUMBERS_FILE]["sha256"]:
        raise BadDataError(f"{store.place}/{path} is damaged: it is not what was committed")
    return read_numbers(data, f"{store.place}/{record.folder}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Losses(BaseModel):
    dtype: Annotated[str, Field(pattern="^F64$")]
    data_offsets: tuple[Count, Count]


class _Header(BaseModel):
    losses: Annotated[_Losses, Field(alias="history.losses")]


def _losses(store: Store, record: Record, steps: int) -> list[float]:
    """The loss of each step: the one tensor of the training state that is read, of gigabytes perhaps."""
    path = f"{record.folder}/{TENSORS_FILE}"
    name = f"{store.place}/{path}"
    size = int.from_bytes(store.read_range(path, 0, 8), "little")
    if not 0 < size <= HEADER_AT_MOST:
        raise BadDataError(f"{name} is damaged: it does not begin as a safetensors file does")
    header = parse_json(store.read_range(path, 8, size), name)
    start, end = as_kind(_Header, header, name).losses.data_offsets
    if end - start != 8 * steps:
        raise BadDataError(f"{name} is damaged: it has not a loss for each of {steps} steps")
    data = store.read_range(path, 8 + size + start, end - start) if steps else b""
    if len(data) != 8 * steps:
        raise BadDataError(f"{name} is damaged: it ends before its losses do")
    losses: list[float] = np.frombuffer(data, "<f8").tolist()
    return losses


def _judged_by(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the verdict of a run goes by; older runs say nothing of it."""
    return {key: recipe[f"train.{key}"] for key in JUDGED_BY if f"train.{key}" in recipe}


def _held_out_songs(sides: Sides | None, progress: Progress) -> tuple[str, ...]:
    """Digests of the songs that held-out losses are of, in their order; empty where that is not known."""
    if sides is None or not progress.validations:
        return ()
    songs = [Song("", song.latents, song.audio) for song in sides.songs if song.held_out]
    ordered = tuple(songs[number].latents for number in by_hash(songs, range(len(songs))))
    counts = {len(found.held_out.by_song) for found in progress.validations.values()}
    # Of copies one is measured, and nobody knows which; others may have left the dataset.
    return ordered if counts == {len(songs)} == {len(ordered)} else ()


def _adapter_step(commits: CommitLog, tail: Record | None, newest: Record) -> int:
    """The step of the checkpoint that adapter/ is; of an unfinished run, that it would be."""
    folder = commits.published(tail)
    if not folder:
        return newest.step
    records = (record for record in commits.back_from(tail) if record.folder == folder)
    return next((record.step for record in records), newest.step)


def _state(newest: Record, progress: Progress, train: TrainSpec, status: Status | None) -> str:
    if newest.kind == "done":
        end = judge(progress, train).end
        return {"patience": "ended by patience", "target_loss": "ended by target_loss", None: "finished"}[end]
    of = f" of {status.steps:,}" if status and status.steps else ""
    return f"not finished: step {progress.step:,}{of}"


def _status(store: Store) -> Status | None:
    try:
        return Status.read(store.read_small(STATUS), f"{store.place}/{STATUS}")
    except MissingInputError:
        return None
    except BadDataError as error:
        log.warning("Its time is not known: %s", error)
        return None


def _price(store: Store) -> float | None:
    """What an hour of the run's machine costs, where its job.yaml says so."""
    try:
        values, _ = parse_yaml(store.read_small(SPEC), f"{store.place}/{SPEC}")
    except MissingInputError:
        return None
    except (BadDataError, BadSpecError) as error:
        log.warning("Its cost is not known: %s", error)
        return None
    runtime = values.get("runtime")
    price = runtime.get("price_per_hour") if isinstance(runtime, dict) else None
    return float(price) if isinstance(price, int | float) and not isinstance(price, bool) else None
