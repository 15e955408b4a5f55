"""`sidestep tiny-checkpoint`: what was typed reaches the writer."""

from pathlib import Path
from typing import Any

import pytest

from sidestep.acestep import tiny
from sidestep.cli import main


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ck", (Path("ck"), ["base", "turbo", "xl-base"], 0)),
        ("ck --variants base turbo --seed 3", (Path("ck"), ["base", "turbo"], 3)),
    ],
)
def test_what_is_written(line: str, wanted: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(tiny, "write_tiny_checkpoint", lambda *args: calls.append(args))
    assert main(["tiny-checkpoint", *line.split()]) == 0
    assert calls == [wanted]
