"""A check, its finding, and how findings are printed and raised."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import counted

WIDTH = 80

State = Literal["ok", "FAIL", "skipped"]
STATES: tuple[State, ...] = ("ok", "FAIL", "skipped")


class Skipped(Exception):
    """A check that is not made, as another one has failed that it builds on, or as nobody wants it."""


@dataclass(frozen=True)
class Check:
    """One check of a job. `look` returns what it found in words, or raises a SideStepError or Skipped.

    None: there is nothing to look at, and no line that says so.
    """

    name: str  # the spec's field that it is about, or what else it looks at
    look: Callable[[], str | None]


@dataclass(frozen=True)
class Finding:
    """The outcome of a check."""

    name: str
    said: str
    error: SideStepError | None = None
    was_made: bool = True

    @property
    def state(self) -> State:
        return "FAIL" if self.error else "ok" if self.was_made else "skipped"


def run_checks(checks: Iterable[Check]) -> list[Finding]:
    """Run all checks, also after one has failed."""
    found = []
    for check in checks:
        try:
            if (said := check.look()) is not None:
                found.append(Finding(check.name, said))
        except Skipped as reason:
            found.append(Finding(check.name, str(reason), was_made=False))
        except SideStepError as error:
            found.append(Finding(check.name, _without(check.name, error), error))
    return found


def skipped(names: Iterable[str], why: str) -> list[Finding]:
    """Findings of checks that are not made, and why."""
    return [Finding(name, f"not looked at: {why}", was_made=False) for name in names]


def summary(found: Sequence[Finding]) -> dict[State, int]:
    """How many checks ended how."""
    return {state: sum(finding.state == state for finding in found) for state in STATES}


def summary_in_words(found: Sequence[Finding]) -> str:
    """`All 8 checks are ok`, said only where each was made; else `6 of 8 checks ok, 2 skipped`."""
    counts, every = summary(found), counted(len(found), "checks")
    if counts["ok"] == len(found):
        return f"All {every} are ok" if len(found) > 1 else "The one check is ok"
    not_ok = {"failed": counts["FAIL"], "skipped": counts["skipped"]}
    return f"{counts['ok']} of {every} ok, " + ", ".join(f"{n} {state}" for state, n in not_ok.items() if n)


def raise_problems(found: Iterable[Finding]) -> None:
    """Raise one error of the first problem's kind with the messages of all, where there are any."""
    problems = [(finding.name, finding.error) for finding in found if finding.error]
    if problems:
        _, first = problems[0]
        said = "\n".join(f"{name}: {_without(name, error)}" for name, error in problems)
        raise type(first)(said) from first


def _without(name: str, error: SideStepError) -> str:
    """What it says, without the name of the field where it begins with that."""
    return str(error).removeprefix(f"{name}: ")


def in_lines(found: list[Finding]) -> str:
    """A line for each finding, and more where a problem has more to say."""
    name_width = max(len(finding.name) for finding in found)
    state_width = max(4, *(len(finding.state) for finding in found))
    lines = []
    for finding in found:
        head = f"{finding.state:{state_width}}  {finding.name:{name_width}}  "
        for line in finding.said.splitlines():
            lines += wrap(
                line.strip(),
                width=WIDTH,
                initial_indent=head,
                subsequent_indent=" " * len(head),
                break_long_words=False,
                break_on_hyphens=False,
            )
            head = " " * len(head)
    return "\n".join(lines) + "\n"
