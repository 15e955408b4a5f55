"""The train task: tensors and a base model in, an adapter out."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidestep import adapters
from sidestep.acestep.layout import ALIASES
from sidestep.acestep.recompute import recompute_layers
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.workspace import Workspace, open_workspace
from sidestep.spec.schema import JobSpec
from sidestep.spec.yaml12 import dump_yaml
from sidestep.storage.commits import CommitLog, Record
from sidestep.storage.store import Store, open_store
from sidestep.storage.transfer import pull
from sidestep.tasks.model import Ground, prepare_ground, timestep_law
from sidestep.tasks.output import Output
from sidestep.training.checkpoint import (
    STATE_FILES,
    Progress,
    checkpoint_files,
    read_numbers,
    refuse_changed,
    restore,
)
from sidestep.training.dataset import dataset_digest, dataset_files
from sidestep.training.loop import Trainer
from sidestep.training.metrics import Metrics, loss_curve
from sidestep.training.optimizer import build_optimizer, check_optimizer
from sidestep.training.schedule import Group, Schedule

log = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"
CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True)
class TrainResult:
    """What a finished run made. Losses are on fixed draws, before the first step and after the last."""

    adapter: str  # its place
    runs: str  # the place of the TensorBoard logs
    steps: int
    first_loss: float
    last_loss: float


def train(spec: JobSpec) -> TrainResult:
    """Train an adapter as `spec` says, or go on where an earlier attempt stopped, and publish it.

    Raises MissingInputError or BadDataError for tensors or weights that are not there or not sound,
    BadSpecError where the output was begun with other settings, MachineError for a missing GPU or package.
    """
    workspace = open_workspace(spec)
    output = Output.open(spec, workspace)
    commits = CommitLog(output.store)
    recipe = recipe_of(spec)
    if done := commits.done():
        if spec.train.resume_from:
            log.warning("This run is finished, so --resume-from plays no part")
        return _already_finished(output, commits, done, recipe, workspace)

    check_optimizer(spec.train)
    ground = prepare_ground(spec, workspace)
    _say_what_is_trained(spec, ground)
    trainer = build_trainer(spec, ground)
    progress = _resume(spec, trainer, commits, recipe, workspace)
    output.keep_spec(spec)

    def save(progress: Progress, group: Group) -> None:
        if folder := _checkpoint_due(spec, progress, group, trainer.schedule):
            metrics.flush()
            output.send("runs", "logs")
            files = checkpoint_files(trainer.adapter, trainer.optimizer, progress, recipe)
            commits.commit(folder, progress.step, files)
            commits.retain(spec.train.checkpoint.keep)
            log.info("Saved %s, loss %.4f", folder, progress.losses[-1])

    with Metrics(output.path("runs"), progress.step + 1) as metrics:
        metrics.describe(dump_yaml(spec.model_dump(mode="json")).decode(), recipe)
        trainer.run(progress, metrics, spec.train.log_every, spec.train.log_heavy_every, save)

    output.store.write_bytes("loss.png", loss_curve(progress.losses, progress.evaluations, spec.name))
    _publish(output.store, commits, commits.finish(), workspace)
    result = _result(output, progress)
    if progress.skipped:
        log.warning(
            "%d of %d steps were skipped: see above, and skipped_steps", progress.skipped, result.steps
        )
    log.info("Loss on fixed draws: %.4f at the start, %.4f at the end", result.first_loss, result.last_loss)
    log.info("Adapter: %s", result.adapter)
    output.send("runs", "logs")
    return result


def build_trainer(spec: JobSpec, ground: Ground) -> Trainer:
    """Put the adapter into the decoder and set both up to be trained. Everything is keyed by the seed."""
    transformer = ground.model.transformer
    adapter = adapters.inject(transformer, spec.train.adapter, spec.train.seed)
    if spec.train.gradient_checkpointing:
        recompute_layers(transformer, spec.train.gradient_checkpointing_ratio)
    fabric = ground.machine.fabric()
    return Trainer(
        fabric=fabric,
        model=fabric.setup_module(transformer),
        adapter=adapter,
        optimizer=build_optimizer(adapter, spec.train),
        samples=ground.samples,
        null_condition=ground.null_condition,
        law=timestep_law(spec, ground.model.config),
        schedule=Schedule.of(spec.train, len(ground.samples)),
        max_grad_norm=spec.train.max_grad_norm,
    )


def recipe_of(spec: JobSpec) -> dict[str, Any]:
    """All settings that decide the adapter's numbers. A run goes on only with the same ones."""
    changes_nothing = {"resume_from", "log_every", "log_heavy_every", "checkpoint"}
    changes_nothing |= {"gradient_checkpointing", "gradient_checkpointing_ratio"}
    train = spec.train.model_dump(mode="json", exclude=changes_nothing)
    tensors = dataset_files(open_store(spec.tensors_place, spec.storage))
    return {
        "model_variant": ALIASES.get(spec.model_variant, spec.model_variant),
        "dataset": dataset_digest(tensors),
        **{f"train.{key}": value for key, value in train.items()},
    }


def _say_what_is_trained(spec: JobSpec, ground: Ground) -> None:
    songs = len(ground.samples)
    kind = {"lora": "LoRA", "lokr": "LoKR"}[spec.train.adapter.type]
    log.info(
        "Training a %s on %s in %s mode: %d song%s, %d epochs",
        *(kind, ground.model.variant, spec.train.mode, songs, "s" * (songs != 1), spec.train.epochs),
    )
    if ground.model.is_turbo and spec.train.mode == "corrected":
        log.warning(
            "%s is distilled at eight timesteps, and corrected mode trains at logit-normal ones between "
            "them: vanilla mode samples just those eight.",
            ground.model.variant,
        )


def _checkpoint_due(spec: JobSpec, progress: Progress, group: Group, schedule: Schedule) -> str | None:
    """Where to save after this step; None where nothing is due.

    Nothing is within a row of skipped steps: should it stop the run, the newest checkpoint is from before.
    """
    epoch, every = group.epoch + 1, spec.train.checkpoint.every_epochs
    is_last = progress.step == schedule.total_steps
    if progress.skipped_in_row and not is_last:
        return None
    if group.ends_epoch and (epoch % every == 0 or is_last):
        return f"{CHECKPOINTS_FOLDER}/checkpoint-epoch-{epoch}"
    return f"{CHECKPOINTS_FOLDER}/checkpoint-step-{progress.step}" if is_last else None


def _resume(
    spec: JobSpec, trainer: Trainer, commits: CommitLog, recipe: dict[str, Any], workspace: Workspace
) -> Progress:
    """Put the checkpoint asked for, else the newest, into `trainer`; where there is none, begin anew."""
    with workspace.temporary() as temporary:
        folder = Path(temporary)
        if spec.train.resume_from:
            folder = _find_checkpoint(spec, spec.train.resume_from.rstrip("/"), commits.store, workspace)
        elif not commits.fetch_newest(folder):
            return Progress()
        progress = restore(folder, trainer.adapter, trainer.optimizer, recipe)
    log.info("Going on after step %d of %d", progress.step, trainer.schedule.total_steps)
    return progress


def _find_checkpoint(spec: JobSpec, wish: str, output: Store, workspace: Workspace) -> Path:
    """The checkpoint at `wish`, a path or URI, or the one of that name under <output_dir>/checkpoints."""
    places = [wish, f"{output.place}/{CHECKPOINTS_FOLDER}/{wish.rpartition('/')[2]}"]
    for place in places:
        store = open_store(place, spec.storage)
        files = [file for file in store.list() if "/" not in file.path]
        if set(STATE_FILES) <= {file.path for file in files}:
            log.info("Resuming from %s", store.place)
            return pull(store, files, workspace, title="Pulling the checkpoint")
    there = sorted({file.path.split("/")[1] for file in output.list(CHECKPOINTS_FOLDER)})
    raise MissingInputError(
        f"no checkpoint at {places[0]} or {places[1]}\n  there: {', '.join(there) or 'none yet'}\n"
        "  without --resume-from, training goes on from the newest by itself"
    )


def _publish(store: Store, commits: CommitLog, done: Record, workspace: Workspace) -> None:
    """Copy the adapter's files of the last commit to adapter/, from the committed bytes."""
    with workspace.temporary() as folder:
        commits.fetch(done, Path(folder))
        for name in done.files:
            if name not in STATE_FILES:
                store.write_bytes(f"{ADAPTER_FOLDER}/{name}", Path(folder, name).read_bytes())


def _already_finished(
    output: Output, commits: CommitLog, done: Record, recipe: dict[str, Any], workspace: Workspace
) -> TrainResult:
    """A run that had finished before: make sure that it is this one and that its adapter is there."""
    before, progress = read_numbers(output.store.read_bytes(f"{done.folder}/{STATE_FILES[0]}"), done.folder)
    refuse_changed(before, recipe, output.store.place)
    _publish(output.store, commits, done, workspace)
    result = _result(output, progress)
    log.info("Already finished after %d steps. Adapter: %s", result.steps, result.adapter)
    return result


def _result(output: Output, progress: Progress) -> TrainResult:
    return TrainResult(
        adapter=f"{output.store.place}/{ADAPTER_FOLDER}",
        runs=f"{output.store.place}/runs",
        steps=progress.step,
        first_loss=progress.evaluations[min(progress.evaluations)],
        last_loss=progress.evaluations[max(progress.evaluations)],
    )
