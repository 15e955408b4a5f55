"""The rows of the list: what each mutant changes, and whether the row still fits the code."""

import ast
import contextlib
import subprocess
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

from pydantic import BaseModel, ConfigDict

ROWS = "tests/mutants/rows"
COMMITS_OF_A_LANDING = 20


class Mutant(BaseModel):
    """One small wrong change, and the tests that must notice it. Paths are relative to the root."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str  # what is wrong with it, in a few words
    file: str
    was: str  # stands in the file exactly once
    now: str
    tests: tuple[str, ...]  # as pytest takes them, the one that is likeliest to notice first
    timeout_kills: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"

    def apply(self, tree: Path) -> None:
        """Write the change into the copy `tree`."""
        file = tree / self.file
        file.write_text(file.read_text().replace(self.was, self.now))
        Path(cache_from_source(str(file))).unlink(missing_ok=True)

    @property
    def module(self) -> str | None:
        """The name under which the changed file is imported. None if it is no Python."""
        path = Path(self.file)
        if path.suffix != ".py":
            return None
        return ".".join(path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts)

    def misfit(self, root: Path) -> str | None:
        """What is wrong with the row as the code stands now. None if nothing is."""
        if not (root / self.file).is_file():
            return "there is no such file"
        text = (root / self.file).read_text()
        if (count := text.count(self.was)) != 1:
            return f"`was` stands in it {count} times, not once: {self.was!r}"
        if self.module:
            try:
                if _meaning(text.replace(self.was, self.now)) == _meaning(text):
                    return "the mutant is the same program"
            except SyntaxError as error:
                return f"the mutant is no Python: {error}"
        if not self.tests:
            return "it names no test"
        missing = [test for test in self.tests if not _is_there(root, test)]
        return f"there is no test {', '.join(missing)}" if missing else None


def _is_there(root: Path, test: str) -> bool:
    """Whether file, class and function of `test` exist; the values of parameters are not looked at."""
    file, *names = test.partition("[")[0].split("::")
    return (root / file).is_file() and _defined((root / file).read_text()).issuperset(names)


@cache
def _defined(text: str) -> set[str]:
    """The names of the functions and classes in a program."""
    nodes = ast.walk(ast.parse(text))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@cache
def _meaning(text: str) -> list[str]:
    """A program without its comments and layout, by statements. Raises SyntaxError where it is none."""
    lines, found = text.split("\n"), []
    for statement in ast.parse(text).body:
        start = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
        found.append(_dumped("\n".join(lines[start - 1 : statement.end_lineno])))
    return found


@cache
def _dumped(statement: str) -> str:
    """Of the hundreds of a file, a mutant changes one."""
    return ast.dump(ast.parse(statement))


def read_rows(root: Path) -> list[Mutant]:
    """All rows, file by file. Raises ValueError where one cannot be read."""
    files = sorted((root / ROWS).glob("*.toml"))
    return [mutant for file in files for mutant in _parse(file.read_text(), file)]


def _parse(text: str, file: Path | str) -> list[Mutant]:
    try:
        return [Mutant.model_validate(row) for row in tomllib.loads(text)["mutant"]]
    except (KeyError, ValueError) as error:  # those of tomllib and pydantic are ValueErrors
        raise ValueError(f"{file}: {error}") from error


def changed_since(root: Path, base: str, mutants: Iterable[Mutant]) -> list[Mutant]:
    """The rows that are new since the commit `base`, or whose file or one of whose tests' files changed."""
    files = set(_git(root, "diff", "--name-only", "-z", "--no-renames", base).split("\0"))
    files.update(_git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0"))
    old: set[Mutant] = set()
    with contextlib.suppress(ValueError):  # rows of another form are none of today's
        for name in _git(root, "ls-tree", "--name-only", "-z", base, f"{ROWS}/").split("\0"):
            if name.endswith(".toml"):
                old.update(_parse(_git(root, "show", f"{base}:{name}"), name))
    return [
        mutant
        for mutant in mutants
        if mutant not in old or files & {mutant.file, *(test.partition("::")[0] for test in mutant.tests)}
    ]


def landing_base(root: Path) -> str:
    """The commit that this work began from, as well as the repository at hand can tell.

    That is where it left origin/main. A clone that stands on main itself knows of no landing: there it is the
    commit `COMMITS_OF_A_LANDING` before, or the oldest that the clone has.
    """
    with contextlib.suppress(subprocess.CalledProcessError):
        base = _git(root, "merge-base", "HEAD", "origin/main").strip()
        if base != head(root):
            return base
    recent = _git(root, "rev-list", "--first-parent", f"--max-count={COMMITS_OF_A_LANDING + 1}", "HEAD")
    return recent.split()[-1]


def head(root: Path) -> str:
    """The hash of the commit that is checked out."""
    return _git(root, "rev-parse", "HEAD").strip()


def all_files(root: Path) -> list[str]:
    """The files of the working tree that git tracks or would track."""
    names = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    return [name for name in dict.fromkeys(names) if name and (root / name).is_file()]


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return run.stdout
