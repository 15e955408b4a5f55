"""The rooms of sidestep/ and what they import from each other. `python -m tests.house` prints the graph.

A file may import from its own room and from rooms on lower floors. An import counts wherever it stands: at
the top, in a function, under TYPE_CHECKING; and so does a module that a string names, as a table's row does.
What Python imports by itself, the packages above a module, does not count.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "sidestep"

FRONT = ("__init__", "__main__", "cli")  # the files that stand in no folder; together they are one room
FLOORS = (  # top to bottom; rooms on one floor do not import each other
    ("sidestep",),
    ("commands",),
    ("wizard",),
    ("tasks", "planning"),
    ("platforms",),
    ("preflight",),
    ("lifecycle",),
    ("report",),
    ("telemetry",),
    ("training", "sampling"),
    ("adapters",),
    ("data",),
    ("acestep",),
    ("commitlog",),
    ("storage",),
    ("config",),
    ("runtime",),
)
_FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}


def _by_floor(room: tuple[str, object]) -> tuple[int, str]:
    return _FLOOR.get(room[0], 0), room[0]


class Arrow(NamedTuple):
    """One import: the module `source` names the module `target` in this line."""

    source: str
    target: str
    line: int


class House:
    """The modules below a package's folder, and the arrows between them."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.name = package.name
        self.files = {self._module(file.relative_to(package)): file for file in sorted(package.rglob("*.py"))}

    def _module(self, file: Path) -> str:
        parts = file.with_suffix("").parts
        return ".".join([self.name, *(parts[:-1] if parts[-1] == "__init__" else parts)])

    @cached_property
    def arrows(self) -> list[Arrow]:
        return [
            Arrow(module, target, line)
            for module, file in self.files.items()
            for line, target in sorted(set(self._named(module, ast.parse(file.read_text(encoding="utf-8")))))
        ]

    def _named(self, module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
        """The line and the name of every module of ours that is named in the code of `module`."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = self._above(module, node.level)
                base = ".".join(filter(None, (above, node.module)))
                names = [f"{base}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                is_ours = node.value in self.files and not f"{module}.".startswith(f"{node.value}.")
                names = [node.value] if is_ours else []
            else:
                continue
            for name in names:
                if target := self._module_of(name):
                    yield node.lineno, target

    def _above(self, module: str, level: int) -> str:
        """What the dots of a relative import stand for."""
        if not level:
            return ""
        parts = module.split(".")
        is_package = self.files[module].name == "__init__.py"
        return ".".join(parts[: len(parts) - level + is_package])

    def _module_of(self, name: str) -> str | None:
        """The module that holds `name`; None where it is not ours."""
        while name and name not in self.files:
            name = name.rpartition(".")[0]
        return name or None

    def room(self, module: str) -> str:
        """The folder that a module stands in, or the package for those in none."""
        first = [*module.split("."), "__init__"][1]
        return self.name if first in FRONT else first

    @cached_property
    def rooms(self) -> dict[str, Counter[str]]:
        """Each room with the rooms that it imports from, and by how many arrows."""
        rooms: dict[str, Counter[str]] = {self.room(module): Counter() for module in self.files}
        for arrow in self.arrows:
            if (source := self.room(arrow.source)) != (target := self.room(arrow.target)):
                rooms[source][target] += 1
        return dict(sorted(rooms.items(), key=_by_floor))

    @cached_property
    def lines(self) -> Counter[str]:
        """Each room's lines."""
        lines: Counter[str] = Counter()
        for module, file in self.files.items():
            lines[self.room(module)] += len(file.read_text(encoding="utf-8").splitlines())
        return lines

    def faults(self) -> list[str]:
        """Everything that breaks a rule, one a line."""
        homeless = [f"no floor: {room}" for room in self.rooms if room not in _FLOOR]
        up = [
            f"up: {arrow.source}:{arrow.line} imports {arrow.target}"
            for arrow in self.arrows
            if self._runs_up(self.room(arrow.source), self.room(arrow.target))
        ]
        own = [
            f"own room's __init__: {arrow.source}:{arrow.line}"
            for arrow in self.arrows
            if arrow.target == self._init(self.room(arrow.source))
        ]
        files: dict[str, set[str]] = defaultdict(set)
        for arrow in self.arrows:
            files[arrow.source].add(arrow.target)
        rooms = {room: set(others) for room, others in self.rooms.items()}
        return [
            *homeless,
            *up,
            *own,
            *(f"circle of files: {', '.join(circle)}" for circle in circles(files)),
            *(f"circle of rooms: {', '.join(circle)}" for circle in circles(rooms)),
        ]

    def _init(self, room: str) -> str:
        """A room's own `__init__`, as a module."""
        return self.name if room == self.name else f"{self.name}.{room}"

    def _runs_up(self, source: str, target: str) -> bool:
        return source != target and _FLOOR.get(target, 0) <= _FLOOR.get(source, 0)


def circles(arrows: Mapping[str, Set[str]]) -> list[tuple[str, ...]]:
    """The groups of nodes in which each leads to every other, and the nodes that lead to themselves."""
    reached = {node: _reached(node, arrows) for node in arrows}
    return sorted(
        {
            tuple(sorted(other for other in reached[node] if node in reached.get(other, ())))
            for node in arrows
            if node in reached[node]
        }
    )


def _reached(start: str, arrows: Mapping[str, Set[str]]) -> set[str]:
    """All nodes that `start` leads to; itself too only if there is a way back."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def drawing(house: House) -> str:
    """The rooms by floors, with their lines and what they import from; then whatever breaks a rule."""
    rows = ["floor  room          lines  imports from (arrows)"]
    for room, others in house.rooms.items():
        below = ", ".join(f"{other} {count}" for other, count in sorted(others.items(), key=_by_floor))
        rows.append(f"{_FLOOR.get(room, 0):5}  {room:12} {house.lines[room]:6,}  {below}")
    between = sum(sum(others.values()) for others in house.rooms.values())
    counts = (
        f"{len(house.files)} files, {sum(house.lines.values()):,} lines of code, {len(house.arrows)} arrows "
        f"between files, {between} between rooms"
    )
    return "\n".join([*rows, "", counts, *(house.faults() or ["no circles, no arrows up"])])


if __name__ == "__main__":
    print(drawing(House()))
    sys.exit(bool(House().faults()))
