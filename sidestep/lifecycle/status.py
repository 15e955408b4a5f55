"""What a job is doing, as its output says in status.json."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sidestep.runtime.gpus import Gpu
from sidestep.runtime.parsing import Amount, Count, Number, parse_as
from sidestep.runtime.words import duration

FILE = "status.json"
HEARTBEAT_SECONDS = 5.0

State = Literal["running", "preempted", "failed", "done"]
Phase = Literal["pull", "preprocess", "estimate", "train", "publish"]


class Spent(BaseModel):
    """What a job has cost so far, over all its attempts, as far as their last words tell."""

    attempts: Count = 0
    preemptions: Count = 0  # attempts that ended by notice or without a word
    steps_repeated: Count = 0  # steps made again, as the machine vanished before they were committed
    seconds: dict[str, Amount] = Field(default_factory=dict)  # wall time by phase
    gpu_seconds: Amount = 0


class Commit(BaseModel):
    """A checkpoint that is safe in the output."""

    folder: str
    step: Count
    at: AwareDatetime


class Validated(BaseModel):
    """What the newest validation found. A loss that is not finite is null; see `training.verdict`."""

    step: Count
    held_out: Number | None
    trained: Number | None
    gain: Number | None = None  # on the held-out songs since the start; None: too few say nothing
    gain_error: Amount | None = None  # its standard error
    best_step: Count | None = None
    best_held_out: Number | None = None  # smoothed

    def __str__(self) -> str:
        """`held-out 0.81 (-0.012 ± 0.004 against the start), trained 0.70, best so far step 30 (0.8)`"""
        gained = ""
        if self.gain is not None and self.gain_error is not None:
            gained = f" ({self.gain:+.4f} ± {self.gain_error:.4f} against the start)"
        best = ""
        if self.best_step is not None and self.best_held_out is not None:
            best = f", best so far step {self.best_step} ({self.best_held_out:.4f})"
        return f"held-out {_loss(self.held_out)}{gained}, trained {_loss(self.trained)}{best}"


class Validating(BaseModel):
    """How far a validation is that is being made."""

    step: Count
    done: Count
    total: Count


class Status(BaseModel):
    """The content of status.json. Times are UTC."""

    model_config = ConfigDict(extra="ignore")

    name: str
    task: str
    state: State = "running"
    phase: Phase = "pull"
    generation: Count = 0  # of the output's writer, once this attempt is it; before, of the one before
    attempt: Count = 1
    step: Count | None = None
    steps: Count | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    loss: Number | None = None
    learning_rate: Number | None = None
    steps_per_second: Amount | None = None
    seconds_left: Amount | None = None
    validation: Validated | None = None
    validating: Validating | None = None
    last_commit: Commit | None = None
    gpus: tuple[Gpu, ...] = ()  # those that the job sees, where there is a driver
    message: str = ""
    without: str = ""  # what was asked for and this attempt does without, and why
    exit_code: Count | None = None
    started: AwareDatetime = Field(default_factory=lambda: now())
    heartbeat: AwareDatetime = Field(default_factory=lambda: now())
    heartbeat_seconds: Amount = HEARTBEAT_SECONDS
    spent: Spent = Spent()

    @classmethod
    def read(cls, data: bytes, where: str) -> "Status":
        """The status in `data`. Raises BadDataError where it is none."""
        return parse_as(cls, data, where)

    def is_later_than(self, other: "Status") -> bool:
        """Whether an attempt that says this has the word, where another one says `other`.

        The writer of an output has it before all who have not become that; among those, the last one.
        """
        return (self.generation, self.attempt) > (other.generation, other.attempt)

    def silence(self) -> float:
        """Seconds since the last sign of life, by this machine's clock."""
        return (now() - self.heartbeat).total_seconds()

    @property
    def state_now(self) -> str:
        """The state; "lost" in place of a "running" that is not to be believed."""
        return "lost" if self.is_stale() else self.state

    def sign_of_life(self) -> str:
        """When a job that says "running" was last heard of, in words; nothing of the others."""
        if self.state != "running":
            return ""
        if not self.is_stale():
            return f"last sign of life {duration(max(self.silence(), 0))} ago"
        return (
            f"no sign of life for {duration(self.silence())}: it is probably gone. "
            "The same command goes on from what is saved"
        )

    def is_stale(self) -> bool:
        """Whether it says "running" and has not been heard of for far too long."""
        return self.state == "running" and self.silence() > 12 * self.heartbeat_seconds


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def now() -> datetime:
    """This moment, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
