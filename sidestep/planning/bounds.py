"""What bounds a job: hours, cost and attempts of them all together, how long each may hang or wait."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidestep.config.job import JobSpec
from sidestep.config.schema import RuntimeSpec
from sidestep.runtime.errors import ExitCode
from sidestep.runtime.words import some

NOT_SEEN = (
    "Hours and cost count while the process runs. The time before it (waiting for a machine, pulling the "
    "image, booting) is paid for, and no bound sees it."
)


@dataclass(frozen=True)
class Bound:
    """A bound of a job, which `runtime.<setting>` sets. Where it is off, `value` is None."""

    setting: str
    value: float | None
    unit: str
    code: int  # what the process ends with where the bound is reached
    phases: tuple[str, ...]  # of the task, in which it holds
    says: str


def bounds_of(spec: JobSpec, seconds_by_card: Mapping[str, float]) -> list[Bound]:
    """Every bound of the task of `spec`, also those that are off; cards that take longer are named."""
    runtime = spec.runtime
    all_of_it = ("preprocess", "estimate", "train") if spec.task == "pipeline" else (spec.task,)
    hours = f"{runtime.max_hours:g} h of all attempts" if runtime.max_hours else "off"
    guarded = None if runtime.on_exit == "none" else runtime.hung_minutes
    bounds = [
        Bound(
            *("max_hours", runtime.max_hours, "hours", ExitCode.BUG, all_of_it),
            hours + _too_little(runtime.max_hours, seconds_by_card),
        ),
        Bound(
            *("max_cost", runtime.max_cost, "of price_per_hour", ExitCode.BUG, all_of_it),
            _cost(runtime) + _too_little(_hours_of_cost(runtime), seconds_by_card),
        ),
        Bound(
            *("max_attempts", runtime.max_attempts, "attempts", ExitCode.BUG, all_of_it),
            f"{runtime.max_attempts} in a row without progress",
        ),
        Bound(
            *("stall_minutes", runtime.stall_minutes, "minutes", ExitCode.STALLED, all_of_it),
            _minutes(runtime.stall_minutes, "in which nothing advances"),
        ),
        Bound(
            *("hung_minutes", guarded, "minutes", ExitCode.STALLED, all_of_it),
            _minutes(guarded, "in which nothing advances and the job does not end itself"),
        ),
    ]
    if "train" in all_of_it:
        bounds += [
            Bound(
                *("first_step_minutes", runtime.first_step_minutes, "minutes", ExitCode.STALLED, ("train",)),
                _minutes(runtime.first_step_minutes, "until the first step of training"),
            ),
            Bound(
                *("lease_seconds", runtime.lease_seconds, "seconds", ExitCode.TAKEN, ("train",)),
                f"{runtime.lease_seconds:g} s to see whether another writer still lives",
            ),
        ]
    return [
        *bounds,
        Bound(
            *("grace_seconds", runtime.grace_seconds, "seconds", ExitCode.AGAIN, all_of_it),
            f"{runtime.grace_seconds:g} s from a notice to the end",
        ),
    ]


def _hours_of_cost(runtime: RuntimeSpec) -> float | None:
    """After how many hours max_cost is reached; None: never."""
    return runtime.max_cost / runtime.price_per_hour if runtime.max_cost and runtime.price_per_hour else None


def _cost(runtime: RuntimeSpec) -> str:
    if runtime.max_cost is None:
        priced = f"; price_per_hour {runtime.price_per_hour:g}" if runtime.price_per_hour is not None else ""
        return f"off{priced}"
    hours = _hours_of_cost(runtime)
    reached = f"{hours:.3g} h of all attempts" if hours else "never reached"
    return f"{runtime.max_cost:g} at {runtime.price_per_hour:g} an hour: {reached}"


def _minutes(minutes: float | None, of_what: str) -> str:
    return "off" if minutes is None else f"{minutes:g} min {of_what}"


def _too_little(hours: float | None, seconds_by_card: Mapping[str, float]) -> str:
    """Cards on which the GPU's work alone takes longer."""
    slow = [name for name, seconds in seconds_by_card.items() if hours and seconds > hours * 3600]
    return f"; too little for {some(slow)}" if slow else ""
