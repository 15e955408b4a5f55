"""What many tests type, and what comes of it."""

from pathlib import Path

from sidestep.config.job import JobSpec
from sidestep.lifecycle.status import Status

from .terminal import Terminal

MENU = "What would you like to do?"
NEXT = "Next: [start]"


def to_rank(terminal: Terminal, kind: str = "lora", preset: str = "none", depth: str = "basic") -> None:
    for question, answer in (
        (MENU, "train"),
        ("Adapter:", kind),
        ("Mode:", ""),
        ("Models:", "checkpoints"),
        ("Model:", "xlb"),
        ("Tensors:", ""),
        ("Output:", "out"),
        ("Preset:", preset),
        ("Questions:", depth),
    ):
        terminal.answer(question, answer)


def to_review(terminal: Terminal) -> None:
    to_rank(terminal)
    for question in ("Rank:", "Epochs:", "Optimizer:"):
        terminal.answer(question)
    terminal.wait(lambda: NEXT in terminal.line, "the review")


def save(terminal: Terminal) -> JobSpec:
    terminal.answer(NEXT, "save")
    terminal.answer("Save as:", "mine.yaml")
    terminal.see("Saved.")
    return JobSpec.load("mine.yaml")


def stands(output: str) -> Status:
    """How the run with this output stands; a fresh one where it has not begun."""
    file = Path(output, "status.json")
    return Status.read(file.read_bytes(), output) if file.exists() else Status(name="", task="train")
