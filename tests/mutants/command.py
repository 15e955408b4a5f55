"""The command: which mutants are tried, in which order, and what is said of each."""

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutants.forks import Outcome, Task, run_all, warm_up
from tests.mutants.mutant import Mutant, all_files, changed_since, head, landing_base, read_rows

BASELINE_LIMIT = 1200.0
SLOWDOWN = 5  # a mutant's tests may take that many times what they took without it, and `--grace`
OUTPUT_LINES = 15  # of a mutant that is neither dead nor alive


@dataclass(frozen=True)
class Result:
    """What became of a mutant: `what` is the test that killed it, or what went wrong."""

    state: Literal["killed", "SURVIVED", "ERROR"]
    what: str


def main(arguments: Sequence[str] | None = None, preload: Iterable[str] = ()) -> int:
    """Try the mutants. 0 where all are dead, 1 where one survived or could not be tried, 2 for bad rows."""
    options = _parser().parse_args(arguments)
    root = options.root.resolve()
    started = time.monotonic()
    try:
        rows = read_rows(root)
    except ValueError as error:
        print(error)
        return 2
    chosen = _choose(rows, options, root)
    if misfits := [f"{mutant}: {wrong}" for mutant in chosen if (wrong := mutant.misfit(root))]:
        print("These rows do not fit the code:", *misfits, sep="\n  ")
        return 2
    print(f"{len(chosen)} of {len(rows)} mutants", flush=True)
    if not chosen:
        return 0
    warm_up(preload)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder).resolve() / "tree"
        for name in all_files(root):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name, follow_symlinks=False)
        seconds = _baseline(tree, chosen, options.workers)
        if seconds is None:
            return 1
        results = _try(tree, chosen, seconds, options)
    return _sum_up(results, time.monotonic() - started)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    add = parser.add_argument
    add(
        "--changed",
        metavar="BASE",
        help="only what changed since the commit BASE (`landing`: since this work)",
    )
    add("--at-most", type=int, metavar="N", help="of those only N, others at each commit")
    add("--only", default="", metavar="TEXT", help="only rows with TEXT in `file` or `why`")
    add("--workers", type=int, default=2, metavar="N", help="mutants at a time (default: 2)")
    add("--grace", type=float, default=30, metavar="S", help="seconds over the usual ones (default: 30)")
    add("--root", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return parser


def _choose(rows: list[Mutant], options: argparse.Namespace, root: Path) -> list[Mutant]:
    chosen = [mutant for mutant in rows if options.only in str(mutant)]
    if options.changed:
        base = landing_base(root) if options.changed == "landing" else options.changed
        chosen = changed_since(root, base, chosen)
    if options.at_most is not None and len(chosen) > options.at_most:
        commit = head(root)
        chosen.sort(key=lambda mutant: hashlib.sha256(f"{commit} {mutant!r}".encode()).digest())
        chosen = chosen[: options.at_most]
    return chosen


def _baseline(tree: Path, mutants: list[Mutant], workers: int) -> dict[str, float] | None:
    """Run the tests that `mutants` name, without a mutant: the seconds of each. None if not all are green."""
    started = time.monotonic()
    named = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    files = sorted({test.partition("::")[0] for test in named})
    shares = [files[n::workers] for n in range(workers)]
    tasks = [
        Task(tree, tuple(test for test in named if test.partition("::")[0] in share), BASELINE_LIMIT)
        for share in shares
        if share
    ]
    seconds: dict[str, float] = {}
    green = True
    with closing(run_all(tasks, workers)) as outcomes:
        for _, outcome in outcomes:
            seconds |= outcome.seconds
            if outcome.failures or outcome.trouble or outcome.late:
                green = False
                print("Without a mutant, these tests are not green:")
                for failure in outcome.failures:
                    print(f"  {failure.test}: {failure.what}")
                print(_tail(outcome))
    for test in named:
        if green and not _of(test, seconds):
            green = False
            print(f"Without a mutant, {test} does not run: it is skipped, or has no such parameters")
    if green:
        took = time.monotonic() - started
        print(f"Without a mutant all {len(seconds)} tests are green ({took:.0f} s)", flush=True)
    return seconds if green else None


def _of(test: str, seconds: dict[str, float]) -> list[float]:
    """Of all that ran, the seconds of what `test` stands for."""
    return [took for ran, took in seconds.items() if ran == test or ran.startswith((f"{test}::", f"{test}["))]


def _try(
    tree: Path, mutants: list[Mutant], seconds: dict[str, float], options: argparse.Namespace
) -> dict[Mutant, Result]:
    tasks = []
    for one in mutants:
        usual = sum(sum(_of(test, seconds)) for test in one.tests)
        tasks.append(Task(tree, one.tests, options.grace + SLOWDOWN * usual, one))
    results: dict[Mutant, Result] = {}
    with closing(run_all(tasks, options.workers)) as outcomes:
        for task, outcome in outcomes:
            mutant = task.mutant
            assert mutant
            result = results[mutant] = verdict(mutant, outcome)
            print(f"{result.state:8} {outcome.took:5.1f} s  {mutant}  [{result.what}]")
            if result.state == "ERROR":
                print(_tail(outcome))
            sys.stdout.flush()
    return results


def verdict(mutant: Mutant, outcome: Outcome) -> Result:
    """What the `outcome` of its tests says of a mutant."""
    of = {failure.verdict: failure for failure in reversed(outcome.failures)}  # the first of each
    if killer := of.get("kills"):
        return Result("killed", killer.test)
    late = "its tests were ended, as they took too long" if outcome.late else None
    if "timeout" in of:
        late = f"{of['timeout'].test}: {of['timeout'].what}"
    if late:
        return Result("killed" if mutant.timeout_kills else "ERROR", f"time-out: {late}")
    if outcome.trouble:
        return Result("ERROR", outcome.trouble.splitlines()[0])
    if "broken" in of:
        return Result("ERROR", f"does not count: {of['broken'].test}: {of['broken'].what}")
    return Result("SURVIVED", f"{len(outcome.seconds)} tests")


def _tail(outcome: Outcome) -> str:
    text = f"{outcome.output}\n{outcome.trouble or ''}".strip()
    return "\n".join(f"    {line}" for line in text.splitlines()[-OUTPUT_LINES:])


def _sum_up(results: dict[Mutant, Result], took: float) -> int:
    for mutant, result in results.items():
        if result.state == "SURVIVED":
            was = [f"- {line}" for line in mutant.was.splitlines()]
            now = [f"+ {line}" for line in mutant.now.splitlines()]
            print(f"\n{mutant}", *was, *now, f"tests: {' '.join(mutant.tests)}", sep="\n  ")
    states = [result.state for result in results.values()]
    killed, survived, errors = (states.count(state) for state in ("killed", "SURVIVED", "ERROR"))
    print(f"\n{killed} killed, {survived} survived, {errors} errors; {took / 60:.1f} min")
    return int(killed < len(results))
