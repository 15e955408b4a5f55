"""What a task does with the GPU, phase by phase: memory and FLOPs, from spec, songs and shapes."""

from collections import Counter

from sidestep.acestep.releases import Configs
from sidestep.config.job import JobSpec
from sidestep.planning.hearing import sound_phases, sounds_of
from sidestep.planning.memory import Memory, estimate_memory_of, memory_of
from sidestep.planning.passes import passes_of
from sidestep.planning.phase import Phase
from sidestep.planning.songs import Songs
from sidestep.planning.trace import Trace
from sidestep.training.batches import cut
from sidestep.training.schedule import Schedule

ESTIMATE = "estimate"


def phases_of(spec: JobSpec, configs: Configs, songs: Songs) -> list[Phase]:
    """What has the GPU one after the other in the task of `spec`."""
    phases: list[Phase] = []
    trained = songs.trained
    if spec.task in ("preprocess", "pipeline"):
        phases += passes_of(configs, songs, prompts=1 + len(spec.alternates))
    if spec.task in ("estimate", "pipeline"):
        wish = spec.runtime.precision
        phases.append(
            Phase(
                ESTIMATE,
                "fp32" if wish == "fp16" else wish,  # fp16 is for training
                lambda precision: _estimate(spec, configs, trained, precision).parts(),
                _estimate(spec, configs, trained, "bf16", _mean(trained)).trace.flops * spec.estimate.batches,
            )
        )
    if trains(spec):
        if sounds := sounds_of(spec, configs, songs, schedule_of(spec, trained)):
            phases += sound_phases(spec, configs, songs, sounds)
        phases.append(
            Phase(
                "train",
                spec.runtime.precision,
                lambda precision: training_memory(spec, configs, trained, precision).parts(),
                steps_flops(spec, configs, trained) + validation_flops(spec, configs, songs),
            )
        )
    return phases


def trains(spec: JobSpec) -> bool:
    return spec.task in ("train", "pipeline")


def schedule_of(spec: JobSpec, songs: Songs) -> Schedule:
    return Schedule.of(spec.train, songs.repeats)


def steps_flops(spec: JobSpec, configs: Configs, trained: Songs) -> float:
    return flops_per_song(spec, configs, trained) * _samples(schedule_of(spec, trained))


def validation_flops(spec: JobSpec, configs: Configs, songs: Songs) -> float:
    """Of the forward passes of all validations, which have no backward pass."""
    passes, validated = validation_passes(spec, songs), songs.validated
    return passes and passes * _trace(spec, configs, validated, _mean(validated)).forward


def validation_passes(spec: JobSpec, songs: Songs) -> int:
    """How many losses all validations of the run take."""
    schedule, settings = schedule_of(spec, songs.trained), spec.train.validation
    if not settings.is_on:
        return 0
    steps = range(schedule.total_steps + 1)
    validations = sum(schedule.is_validated(step, settings.every_epochs) for step in steps)
    return validations * len(songs.validated.seconds) * settings.draws


def _samples(schedule: Schedule) -> int:
    return min(schedule.total_steps * schedule.samples_per_step, schedule.epochs * schedule.samples)


def _seen(spec: JobSpec, songs: Songs) -> list[int]:
    """Of each song, the latents that a step sees."""
    return [songs.frames(seconds, spec.train.chunk_duration) for seconds in songs.seconds]


def largest_micro_batch(spec: JobSpec, songs: Songs) -> tuple[int, int]:
    """Latents and number of the samples of one length that take the most memory when they go together."""
    alike: Counter[int] = Counter()
    for frames, times in zip(_seen(spec, songs), songs.repeats, strict=True):
        alike[frames] += times
    batches = ((frames, min(count, spec.train.batch_size)) for frames, count in alike.items())
    return max(batches, key=lambda batch: (batch[0] * batch[1], batch))


def samples_at_once(spec: JobSpec, songs: Songs, batch_size: int) -> float:
    """The samples of a micro-batch, on the average over an epoch."""
    schedule, frames = schedule_of(spec, songs), _seen(spec, songs)
    groups = (schedule.group(step).samples for step in range(schedule.steps_per_epoch))
    return schedule.samples / sum(len(cut([frames[song] for song in group], batch_size)) for group in groups)


def _mean(songs: Songs) -> float:
    return sum(songs.seconds) / len(songs.seconds)


def _mean_of_samples(songs: Songs) -> float:
    """The mean length of what an epoch has, in which some songs come more than once."""
    samples = zip(songs.seconds, songs.repeats, strict=True)
    return sum(seconds * times for seconds, times in samples) / sum(songs.repeats)


def _frames(spec: JobSpec, songs: Songs, seconds: float | None) -> int:
    return songs.frames(songs.longest if seconds is None else seconds, spec.train.chunk_duration)


def training_memory(
    spec: JobSpec, configs: Configs, songs: Songs, precision: str, seconds: float | None = None
) -> Memory:
    """The memory of a step's largest micro-batch, or of one song of `seconds`."""
    frames, samples = (
        largest_micro_batch(spec, songs) if seconds is None else (_frames(spec, songs, seconds), 1)
    )
    return memory_of(spec, configs.model, precision, frames, songs.tokens, samples)


def _estimate(
    spec: JobSpec, configs: Configs, songs: Songs, precision: str, seconds: float | None = None
) -> Memory:
    """The same of an estimate's batch."""
    return estimate_memory_of(spec, configs.model, precision, _frames(spec, songs, seconds), songs.tokens)


def flops_per_song(spec: JobSpec, configs: Configs, songs: Songs) -> float:
    return _trace(spec, configs, songs, _mean_of_samples(songs)).flops


def _trace(spec: JobSpec, configs: Configs, songs: Songs, seconds: float) -> Trace:
    """Of training on one song of `seconds`."""
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    return training_memory(spec, configs, songs, precision, seconds).trace


def checkpoint_bytes(spec: JobSpec, configs: Configs, songs: Songs) -> float:
    """Bytes of a checkpoint."""
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    memory = training_memory(spec, configs, songs, precision)
    return memory.adapter + memory.average + memory.optimizer
