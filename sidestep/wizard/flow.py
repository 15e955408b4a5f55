"""A flow is a list of steps over one dict of answers. Going back keeps what was answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sidestep.config.fields import Path
from sidestep.wizard.ask import Back, ask

Answers = dict[Path, str]
"""What was said of the spec, by field, as a flag would say it."""


@dataclass
class Talk:
    """What a flow has found out so far, and how it says something."""

    write: Callable[[str], None]
    answers: Answers = field(default_factory=dict)
    said: Answers = field(default_factory=dict)  # what was typed, also where it is what would be anyway
    words: dict[str, str] = field(default_factory=dict)  # what was said that is not of the spec, by question
    preset: str = "none"
    is_advanced: bool = False

    @property
    def preset_or_none(self) -> str | None:
        return None if self.preset == "none" else self.preset

    def say(self, text: str) -> None:
        self.write(f"  {text}\n")


@dataclass(frozen=True)
class Step:
    """One question, and whether it is asked at all after what was answered before."""

    ask: Callable[[Talk], None]
    applies: Callable[[Talk], bool] = lambda talk: True


def word(
    question: str,
    default: str = "",
    choices: Callable[[Talk], Mapping[str, str]] | None = None,
    applies: Callable[[Talk], bool] = lambda talk: True,
) -> Step:
    """A step whose answer is kept in `talk.words` under its question."""

    def put(talk: Talk) -> None:
        offered = choices(talk) if choices else None
        before = talk.words.get(question, default)
        talk.words[question] = ask(question, before, choices=offered, problem=_not_nothing)

    return Step(put, applies)


def _not_nothing(text: str) -> str | None:
    return None if text else "it needs an answer"


def walk(steps: Sequence[Step], talk: Talk) -> None:
    """Ask them in order; Back asks the one before again, and leaves the flow at its first."""
    asked: list[int] = []
    here = 0
    while here < len(steps):
        if steps[here].applies(talk):
            try:
                steps[here].ask(talk)
                asked.append(here)
            except Back:
                if not asked:
                    raise
                here = asked.pop()
                continue
        here += 1
