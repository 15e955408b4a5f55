"""Files of an output are damaged between two attempts, one by one: bits flip, ends are lost, names change.

What must come is the adapter that would have come anyway, or a refusal that names the file; with that out of
the way, the same adapter. Never another one, and never a bug.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.torture.field import CELLS, Field, same, store_of
from tests.torture.outcome import read_outcome
from tests.torture.tally import Tally

SETTINGS = CELLS["lora-adamw"] | {"max_steps": 4}
STATES: dict[str, tuple[str | None, int]] = {
    "unfinished tensors": ("encoded", 5),
    "half trained": ("after the record", 2),
    "finished": (None, 0),
}
"""What an output may be damaged in: where the attempt that left it so was killed."""

REFUSED = (65, 66, 78)


def flip_a_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut_short(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.choice([0, rng.randrange(len(data) + 1)])])


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def folder_in_its_place(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.randrange(2):
        (path / "something").write_text("in it")


def nested_deep(path: Path, rng: random.Random) -> None:
    path.write_text(rng.choice(["[", '{"a":']) * 100_000)


def other_types(path: Path, rng: random.Random) -> None:
    """JSON that is sound, and of another kind than it should be."""
    path.write_text(json.dumps(rng.choice([[], {}, None, "text", 1e400, {"samples": [1]}, {"kind": 3}])))


def another_file(path: Path, rng: random.Random) -> None:
    """The content of a file beside it."""
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if others:
        path.write_bytes(rng.choice(others).read_bytes())
    else:
        path.write_bytes(rng.randbytes(1000))


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(flip_a_bit, flip_a_bit, flip_a_bit, cut_short, cut_short, delete),
    *(folder_in_its_place, nested_deep, other_types, another_file),
)


def damage(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """One output in the state `cell`, with one of its files damaged."""
    output, whole = Path(field.prepared(cell, *STATES[cell], _spec_of(field))), _spec_of(field)
    reference = field.reference(whole)
    spec = whole(str(output))
    files = sorted(path for path in output.rglob("*") if path.is_file())
    kinds = sorted({path.relative_to(output).parts[0] for path in files})
    kind = rng.choice(kinds)
    victim = rng.choice([path for path in files if path.relative_to(output).parts[0] == kind])
    do = rng.choice(DAMAGES)
    do(victim, rng)
    tally.done[f"{kind}: {do.__name__.replace('_', ' ')}"] += 1
    what = f"{do.__name__} of {victim.relative_to(output)}"

    attempt = field.start(spec)
    try:
        code = attempt.end()
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error
    refused = code in REFUSED
    assert code == 0 or refused, f"{what}: exit code {code}: {attempt.said}"
    if refused:
        assert victim.name in attempt.said, f"{what}: {code} does not name it: {attempt.said}"
        _remove(victim)
        attempt = field.start(spec)
        assert attempt.end() == 0, f"{what}, and then removed: {attempt.said}"
    try:
        found = read_outcome(store_of(spec), damaged=kind)
        wanted = reference.outcome
        losses, curves = found.losses or wanted.losses, found.curves or wanted.curves
        same(replace(found, losses=losses, curves=curves, judged=found.judged or wanted.judged), wanted)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}: {attempt.said}") from error
    tally.came_to["refused, then the same bytes" if refused else "the same bytes"] += 1


def _spec_of(field: Field) -> Callable[[str], dict[str, Any]]:
    return lambda output: field.pipeline(output, SETTINGS)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
