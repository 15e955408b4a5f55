"""The figures of a job itself: its songs, steps, adapter and checkpoints."""

from sidestep.acestep.releases import Configs
from sidestep.config.job import JobSpec
from sidestep.config.processes import rounds, said_of_idle
from sidestep.lifecycle.best import Best
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.planning.figures import Basis, Figure, gigabytes
from sidestep.planning.hearing import SOUNDS, sound_figures, sounds_of
from sidestep.planning.memory import Memory
from sidestep.planning.phase import Phase
from sidestep.planning.phases import (
    flops_per_song,
    samples_at_once,
    schedule_of,
    steps_flops,
    training_memory,
    trains,
    validation_flops,
    validation_passes,
)
from sidestep.planning.songs import TOKEN_BYTES, Songs
from sidestep.runtime.words import counted, duration
from sidestep.training.schedule import Schedule

_TERA = 1e12


def figures_of(spec: JobSpec, configs: Configs, songs: Songs, phases: list[Phase]) -> dict[str, Figure]:
    count, sound = len(songs.seconds), sum(songs.seconds)
    figures = {"songs": Figure(count, f"{count}, {duration(sound)} of sound ({songs.source})", songs.basis)}
    if spec.task == "preprocess":
        figures["longest"] = Figure(songs.longest, f"{songs.longest:.0f} s, in tiles of 30 s", songs.basis)
    else:
        longest = songs.trained.longest
        seen = min(longest, spec.train.chunk_duration or longest)
        figures["longest"] = Figure(seen, f"{seen:.0f} s of a song in a step", songs.basis)
    tokens = f"up to {counted(songs.tokens, 'tokens')} a song"
    figures["conditions"] = Figure(songs.tokens, tokens, songs.tokens_basis)
    if spec.alternates and spec.task in ("preprocess", "pipeline"):
        size = len(spec.alternates) * count * songs.tokens * TOKEN_BYTES
        which = ", ".join(["its own", *spec.alternates])
        figures["prompts"] = Figure(
            size, f"of a song: {which}: up to {gigabytes(size)} more of tensors", songs.tokens_basis
        )
    if spec.task in ("estimate", "pipeline"):
        batches = spec.estimate.batches
        figures["estimate"] = Figure(batches, f"{counted(batches, 'batches')} of one song", "computed")
    total = sum(phase.flops for phase in phases)
    per_song = ""
    if trains(spec):
        figures |= _training(spec, configs, songs.trained)
        figures |= _validation(spec, configs, songs)
        if sounds := sounds_of(spec, configs, songs, schedule_of(spec, songs.trained)):
            work = {phase.name: phase.flops for phase in phases}
            heard = sum(flops for name, flops in work.items() if name.startswith(SOUNDS))
            figures |= sound_figures(configs, sounds, heard / (heard + work["train"]))
        per_song = f"{flops_per_song(spec, configs, songs.trained) / _TERA:,.1f} TFLOP a song in training, "
    figures["compute"] = Figure(total, f"{per_song}{total / _TERA:,.0f} TFLOP in all", "computed")
    return figures


def _training(spec: JobSpec, configs: Configs, songs: Songs) -> dict[str, Figure]:
    schedule, adapter = schedule_of(spec, songs), spec.train.adapter.title
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    memory = training_memory(spec, configs, songs, precision)
    trace = memory.trace
    epoch = {}
    if schedule.samples != len(songs.seconds):
        said = f"{counted(schedule.samples, 'samples')}, as songs are repeated"
        epoch["an epoch"] = Figure(schedule.samples, said, "computed")
    return {
        **epoch,
        "steps": Figure(
            schedule.total_steps,
            f"{schedule.total_steps:,} ({counted(schedule.epochs, 'epochs')} of {schedule.steps_per_epoch})",
            songs.basis if songs.basis == "assumed" else "computed",
        ),
        **_gpus(spec, schedule),
        "micro-batch": micro_batch(spec, songs),
        "adapter": Figure(
            trace.adapter_parameters,
            f"{adapter}, {trace.adapter_parameters:,} parameters in {trace.adapter_tensors} tensors",
            "computed",
        ),
        "checkpoints": _checkpoints(spec, schedule, memory),
    }


def gpus_of(spec: JobSpec) -> int:
    """How many GPUs the task of `spec` asks a platform for."""
    return spec.runtime.gpus * spec.runtime.nodes if spec.task == "train" else 1


def _gpus(spec: JobSpec, schedule: Schedule) -> dict[str, Figure]:
    """How many train together, where several do, and how they share a step's samples."""
    if (count := gpus_of(spec)) == 1:
        return {}
    nodes, samples = spec.runtime.nodes, min(schedule.samples_per_step, schedule.samples)
    made_of = f" ({nodes} nodes × {spec.runtime.gpus})" if nodes > 1 else ""
    in_a_step = f"{counted(samples, 'samples')} in {counted(rounds(samples, count), 'rounds')}"
    figures = {"GPUs": Figure(count, f"{count}{made_of}, a step's {in_a_step}", "computed")}
    if said_of_idle(spec.train, count, schedule.samples):
        idle = f"{count - samples} of {count}: a step has no sample for them"
        figures["idle GPUs"] = Figure(count - samples, idle, "computed")
    return figures


def _validation(spec: JobSpec, configs: Configs, songs: Songs) -> dict[str, Figure]:
    """What is held out of the training, and what the loss on it costs."""
    if songs.outlook is None:
        return {}
    count, out_of = songs.outlook.count, len(songs.seconds)
    basis: Basis = "computed" if songs.outlook.is_known else "assumed"
    figures = {"held out": Figure(count, f"{count} of {counted(out_of, 'songs')}, not trained on", basis)}
    if passes := validation_passes(spec, songs):
        validating = validation_flops(spec, configs, songs)
        share = validating / (validating + steps_flops(spec, configs, songs.trained))
        said = f"{passes:,} forward passes, {share:.1%} of the training's time"
        figures["validation"] = Figure(passes, said, basis)
    return figures


def _checkpoints(spec: JobSpec, schedule: Schedule, memory: Memory) -> Figure:
    """The bytes of all checkpoints that the output holds at the end, each with adapter and optimizer."""
    size = 2 * memory.adapter + memory.average + memory.optimizer
    newest, stay = spec.train.checkpoint.keep, CheckpointPolicy(spec.train.checkpoint, schedule).milestones
    stay += Best(spec.train).is_kept
    kept = (newest + stay) * size
    return Figure(kept, f"{newest + stay} ({stay} for good), {gigabytes(kept)} in the output", "computed")


def micro_batch(spec: JobSpec, songs: Songs) -> Figure:
    """What batches gain for these songs: how many samples of a step are computed at once."""
    chosen, most = spec.train.batch_size, spec.train.samples_per_step
    found, possible = (round(samples_at_once(spec, songs, size), 1) for size in (chosen, most))
    if found > 1:
        says = f"{found:g} samples at once (train.batch_size {chosen})"
    elif most == 1:
        says = "one sample, which is all of a step"
    elif possible > 1:
        says = f"one by one; batch_size {most}: {possible:g} at once, for a GPU"
    else:
        says = "one by one: batches gain nothing, lengths differ"
    return Figure(found, says, songs.basis if songs.basis == "assumed" else "computed")
