"""The plan of a training run: songs and steps, memory by part, time and cost by card."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.data.survey import in_words
from sidestep.planning.cards import CARDS, Card
from sidestep.planning.figures import Figure, gigabytes
from sidestep.planning.fit import changes_to_fit
from sidestep.planning.memory import Memory, memory_of
from sidestep.planning.preemption import RESTART_SECONDS, Preemptions, plan_for_preemptions
from sidestep.planning.songs import Songs
from sidestep.runtime.words import counted, duration
from sidestep.training.savings import Saving
from sidestep.training.schedule import Schedule

_TERA = 1e12


@dataclass(frozen=True)
class CardEstimate:
    """A run on one card. Without a price there is no cost."""

    card: Card
    precision: str
    memory: float  # bytes
    seconds: float
    cost: float | None

    @property
    def fits(self) -> bool:
        return self.memory <= self.card.memory


@dataclass(frozen=True)
class Fit:
    """The changes that make the job fit `limit` bytes: [] if it does already, None if nothing here does."""

    limit: float
    changes: list[Saving] | None
    memory: float  # bytes, with these changes or with all that there are


@dataclass(frozen=True)
class Plan:
    """The figures of a training run by name, and what follows from them."""

    name: str
    job: dict[str, Figure]
    precision: str
    memory: dict[str, Figure]
    cards: list[CardEstimate]
    preemptions: dict[str, Figure]
    fit: Fit | None
    dataset: dict[str, str]  # what can be said of the songs without decoding any


def make_plan(
    spec: JobSpec,
    config: dict[str, Any],
    songs: Songs,
    *,
    limit: float | None = None,
    hours_between_preemptions: float | None = None,
) -> Plan:
    """The plan of training `spec` on `songs` with the model of `config` (an original config.json).

    Args:
        limit: bytes that the job is to fit, if any.
        hours_between_preemptions: how long a machine is kept on the average, where it may be taken away.
    """
    schedule = Schedule.of(spec.train, len(songs.seconds))
    micro_batches = min(schedule.total_steps * schedule.accumulation, schedule.epochs * schedule.samples)
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    memory = _memory(spec, config, songs, precision)
    mean = sum(songs.seconds) / len(songs.seconds)
    flops_per_song = _memory(spec, config, songs, precision, seconds=mean).trace.flops
    flops = flops_per_song * micro_batches

    state = memory.adapter + memory.optimizer
    preemptions = (
        plan_for_preemptions(state, hours_between_preemptions * 3600) if hours_between_preemptions else None
    )
    stretch = 1 + preemptions.lost_share if preemptions else 1.0

    def card_estimates() -> Iterator[CardEstimate]:
        for card in CARDS:
            as_run = card.precision(spec.runtime.precision)
            if as_run == "bf16" and not card.has_bf16:
                continue
            seconds = card.seconds(flops, as_run) * stretch
            price = spec.runtime.price_per_hour
            cost = None if price is None else price * seconds / 3600
            yield CardEstimate(card, as_run, _memory(spec, config, songs, as_run).total, seconds, cost)

    return Plan(
        name=spec.name,
        job=_job(spec, songs, schedule, memory, flops_per_song, flops),
        precision=precision,
        memory=_parts(memory),
        cards=list(card_estimates()),
        preemptions=_preemptions(preemptions) if preemptions else {},
        fit=_fit(spec, config, songs, limit) if limit else None,
        dataset=in_words(songs.dataset) if songs.dataset else {},
    )


def _memory(
    spec: JobSpec, config: dict[str, Any], songs: Songs, precision: str, seconds: float | None = None
) -> Memory:
    """The memory of a step on the longest song, or on one of `seconds`."""
    frames = songs.frames(songs.longest if seconds is None else seconds, spec.train.chunk_duration)
    return memory_of(spec, config, precision, frames, songs.tokens)


def _job(
    spec: JobSpec, songs: Songs, schedule: Schedule, memory: Memory, flops_per_song: float, flops: float
) -> dict[str, Figure]:
    count, sound, trace = len(songs.seconds), sum(songs.seconds), memory.trace
    seen = min(songs.longest, spec.train.chunk_duration or songs.longest)
    adapter = {"lora": "LoRA", "lokr": "LoKR"}[spec.train.adapter.type]
    return {
        "songs": Figure(count, f"{count}, {duration(sound)} of sound ({songs.source})", songs.basis),
        "longest": Figure(seen, f"{seen:.0f} s of a song in a step", songs.basis),
        "conditions": Figure(
            songs.tokens, f"up to {counted(songs.tokens, 'tokens')} a song", songs.tokens_basis
        ),
        "steps": Figure(
            schedule.total_steps,
            f"{schedule.total_steps:,} ({counted(schedule.epochs, 'epochs')} of {schedule.steps_per_epoch})",
            songs.basis if songs.basis == "assumed" else "computed",
        ),
        "adapter": Figure(
            trace.adapter_parameters,
            f"{adapter}, {trace.adapter_parameters:,} parameters in {trace.adapter_tensors} tensors",
            "computed",
        ),
        "compute": Figure(
            flops, f"{flops_per_song / _TERA:,.1f} TFLOP a song, {flops / _TERA:,.0f} in all", "computed"
        ),
    }


def _parts(memory: Memory) -> dict[str, Figure]:
    parts = {
        name: Figure(size, gigabytes(size), "assumed" if name == "context" else "computed")
        for name, size in memory.parts().items()
    }
    return {**parts, "total": Figure(memory.total, gigabytes(memory.total), "computed")}


def _preemptions(found: Preemptions) -> dict[str, Figure]:
    minutes = max(found.interval / 60, 1)
    return {
        "machine kept": Figure(found.uptime, f"{duration(found.uptime)} on the average", "assumed"),
        "commit": Figure(found.commit, f"{duration(found.commit)} each", "assumed"),
        "restart": Figure(RESTART_SECONDS, f"{duration(RESTART_SECONDS)} each", "assumed"),
        "commit every": Figure(
            found.interval, f"{minutes:.0f} min (train.checkpoint.every_minutes)", "computed"
        ),
        "lost": Figure(found.lost_share, f"{found.lost_share:.1%} more time, in the table above", "computed"),
    }


def _fit(spec: JobSpec, config: dict[str, Any], songs: Songs, limit: float) -> Fit:
    def total(changed: JobSpec) -> float:
        precision = "bf16" if changed.runtime.precision == "auto" else changed.runtime.precision
        return _memory(changed, config, songs, precision).total

    changes, memory = changes_to_fit(spec, songs.longest, total, limit)
    return Fit(limit, changes, memory)
