"""The runner on a toy: what counts as a death, and what stops it before it begins."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.mutant import COMMITS_OF_A_LANDING, changed_since, head, landing_base, read_rows

ROOT = Path(__file__).parents[2]

PRODUCT = """
import time

def total(numbers):
    time.sleep(0)
    return sum(numbers) + 0

def mean(numbers):
    if not numbers:
        raise ValueError("no numbers")
    return total(numbers) / len(numbers)
"""
TESTS = """
import subprocess, sys
import pytest
from toy.sums import mean, total

@pytest.fixture
def three():
    return mean([1, 2, 6])

def test_total():
    assert total([1, 2]) == 3

def test_mean():
    assert mean([1, 3]) == 2

def test_no_numbers():
    with pytest.raises(ValueError):
        mean([])

def test_it_ends():
    assert total([]) is not None

def test_fixture(three):
    assert three == 3

def test_it_is_there():
    assert total

@pytest.mark.slow
def test_a_process():
    code = "from toy.sums import total; assert total([1]) == 1"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

@pytest.mark.skip
def test_skipped():
    assert False

def test_red():
    assert total([1]) == 7
"""


PYPROJECT = """
[tool.pytest.ini_options]
addopts = "--import-mode=importlib -m 'not slow'"
markers = ["slow"]
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "toy-project"
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "toy/__init__.py": "",
        "toy/sums.py": PRODUCT,
        "tests/test_sums.py": TESTS,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    commit(root)
    return root


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=toy", "-c", "user.email=toy@localhost")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "toy")


def write_rows(root: Path, rows: list[tuple[str, str, str]], more: str = "") -> None:
    """Rows of (was, now, test), each with its number as the reason."""
    folder = root / "tests/mutants/rows"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(
        f'[[mutant]]\nwhy = "number {number}"\nfile = "toy/sums.py"\nwas = {was!r}\nnow = {now!r}\n'
        f'tests = ["tests/test_sums.py::{test}"]\n{more}\n'
        for number, (was, now, test) in enumerate(rows)
    )
    (folder / "toy.toml").write_text(text)


def mutants(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the command, which warms up nothing, as the toy needs nothing."""
    code = "import sys; from tests.mutants.command import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--root", str(root), *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def states(output: str) -> dict[int, str]:
    """The state of each mutant, by its number."""
    return {int(n): state for state, n in re.findall(r"^(\w+) .* toy/sums\.py: number (\d+) ", output, re.M)}


def test_what_counts_as_a_death(toy: Path) -> None:
    write_rows(
        toy,
        [
            ("+ 0", "+ 1", "test_total"),  # an assertion
            ("not numbers", "False", "test_no_numbers"),  # pytest.raises sees another error of the product
            ('raise ValueError("no numbers")', "return 0", "test_no_numbers"),  # … and none at all
            ("/ len", "/ 0 / len", "test_mean"),  # an error of the product
            ("+ 0", "+ 1", "test_a_process"),  # seen in a process that a slow test starts
            ("+ 0", "+ 1", "test_it_is_there"),  # nobody looks
            ("import time", "import tyme", "test_total"),  # no module: cannot be imported
            ("def total", "def totl", "test_total"),  # the test cannot be collected
            ("sum(numbers)", "summe(numbers)", "test_total"),  # no such name
            ("/ len", "/ 0 / len", "test_fixture"),  # before the test begins
            ('raise ValueError("no numbers")', "raise KeyboardInterrupt", "test_no_numbers"),  # ends pytest
        ],
    )
    code, output = mutants(toy)
    dead = dict.fromkeys(range(5), "killed")
    broken = dict.fromkeys(range(6, 11), "ERROR")
    assert states(output) == {**dead, 5: "SURVIVED", **broken}, output
    assert code == 1 and "5 killed, 1 survived, 5 errors" in output
    assert (toy / "toy/sums.py").read_text() == PRODUCT


@pytest.mark.parametrize(("row_says_so", "state"), [(True, "killed"), (False, "ERROR")])
def test_a_time_out_kills_only_where_the_row_says_so(toy: Path, row_says_so: bool, state: str) -> None:
    more = "timeout_kills = true" if row_says_so else ""
    write_rows(toy, [("time.sleep(0)", "time.sleep(600)", "test_it_ends")], more)
    code, output = mutants(toy, "--grace", "2")
    assert states(output) == {0: state} and "time-out" in output
    assert code == (not row_says_so)


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        (("numbers", "numbrs", "test_total"), "times, not once"),
        (("no such text", "", "test_total"), "0 times, not once"),
        (("+ 0", "+ 0  # the same", "test_total"), "same program"),
        (("+ 0", "+ )", "test_total"), "no Python"),
        (("+ 0", "+ 1", "test_totl"), "tests/test_sums.py::test_totl"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error(toy: Path, row: tuple[str, str, str], fact: str) -> None:
    write_rows(toy, [row])
    code, output = mutants(toy)
    assert code == 2 and fact in output


@pytest.mark.parametrize("test", ["test_red", "test_skipped", "test_total[7]"])
def test_a_test_that_is_not_green_without_the_mutant_stops_all(toy: Path, test: str) -> None:
    write_rows(toy, [("+ 0", "+ 1", test), ("+ 0", "+ 2", "test_total")])
    code, output = mutants(toy)
    assert (code, states(output)) == (1, {}) and f"test_sums.py::{test}" in output


def test_only_what_changed(toy: Path) -> None:
    def changed() -> list[str]:
        mutants = changed_since(toy, "HEAD", read_rows(toy))
        commit(toy)
        return [mutant.why for mutant in mutants]

    write_rows(toy, [("+ 0", "+ 1", "test_total"), ("+ 0", "+ 2", "test_total")])
    assert changed() == ["number 0", "number 1"]
    assert changed() == []
    write_rows(toy, [("+ 0", "+ 1", "test_total"), ("+ 0", "+ 3", "test_total")])
    assert changed() == ["number 1"]  # a new row
    (toy / "toy/sums.py").write_text(PRODUCT + "\n")
    assert changed() == ["number 0", "number 1"]
    (toy / "tests/test_sums.py").write_text(TESTS + "\n")
    assert changed() == ["number 0", "number 1"]
    (toy / "toy/__init__.py").write_text("# other")
    assert changed() == []
    assert mutants(toy, "--changed", "HEAD") == (0, "0 of 2 mutants\n")
    assert len(states(mutants(toy, "--changed", "landing", "--at-most", "1")[1])) == 1


def test_where_a_landing_begins(toy: Path) -> None:
    """Where the work left origin/main; on main itself some commits before, as far as the clone reaches."""
    begin = head(toy)
    assert landing_base(toy) == begin
    git(toy, "update-ref", "refs/remotes/origin/main", begin)
    commit(toy)
    assert landing_base(toy) == begin
    for _ in range(COMMITS_OF_A_LANDING):
        commit(toy)
    assert landing_base(toy) == begin
    git(toy, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert landing_base(toy) not in (begin, head(toy))
