"""What a torture came to."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one action, over one cell or all.

    Attributes:
        done: what was done to attempts, by kind: "killed: snapshot".
        codes: exit codes of all attempts; -9 is SIGKILL.
        came_to: how trials ended: "the same bytes".
        failures: what was wrong, and how to have it again.
        seconds: that it took.
    """

    done: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    came_to: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0

    def add(self, other: "Tally") -> None:
        self.done += other.done
        self.codes += other.codes
        self.came_to += other.came_to
        self.failures += other.failures
        self.seconds += other.seconds


def table(tallies: dict[str, Tally]) -> str:
    """A row for each action, and below it what was done in it."""
    rows = [("action", "done", "trials", "exit codes", "what they came to", "s")]
    for action, tally in tallies.items():
        codes = ", ".join(f"{_name(code)} × {count}" for code, count in sorted(tally.codes.items()))
        ends = ", ".join(f"{end} {count}" for end, count in sorted(tally.came_to.items()))
        done, trials = str(tally.done.total()), str(tally.came_to.total() + len(tally.failures))
        if tally.failures:
            ends = ", ".join([*([ends] if ends else []), f"FAILED {len(tally.failures)}"])
        rows.append((action, done, trials, codes, ends, f"{tally.seconds:.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows]
    for action, tally in tallies.items():
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.done.items()))
        lines.append(f"{action}: {kinds}")
    return "\n".join(line.rstrip() for line in lines)


def _name(code: int) -> str:
    return str(code) if code >= 0 else f"signal {-code}"
