"""A person at a terminal: the command in a pseudo-terminal, and what its screen shows."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

ESCAPE, CONTROL_C = "\x1b", "\x03"


class Terminal:
    """`sidestep` with these words, on a screen of so many columns and lines.

    Attributes:
        patience: seconds that a wait takes at most.
    """

    patience = 60.0

    def __init__(
        self, *words: str, columns: int = 100, lines: int = 200, kind: str = "xterm-256color"
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self.process = pexpect.spawn(
            str(Path(sys.executable).with_name("sidestep")),
            list(words),
            dimensions=(lines, columns),
            encoding="utf-8",
            env={**os.environ, "TERM": kind, "NO_COLOR": "1"},
        )
        self._screen.write_process_input = self.process.send  # type: ignore[method-assign]  # asks for the cursor
        self.raw = ""

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def line(self) -> str:
        """The line that the cursor is in."""
        return self._screen.display[self._screen.cursor.y].rstrip()

    def answer(self, question: str, answer: str = "") -> None:
        """Wait for the question, in the cursor's line; type the answer, and Enter."""
        self.wait(lambda: question in self.line, question)
        self.process.send(f"{answer}\r")
        self.wait(
            lambda: question not in self.line or f"] {answer}" not in self.line, f"what follows {question}"
        )

    def see(self, text: str) -> None:
        self.wait(lambda: text in self.text, text)

    def end(self) -> int:
        """Read what the process says until it is gone; its exit code."""
        self.wait(lambda: self.process.flag_eof, "the end")
        self.process.wait()
        return int(self.process.exitstatus)

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.patience
        while not is_so():
            assert time.monotonic() < deadline, f"not seen: {what}\n{self.text}"
            try:
                said = self.process.read_nonblocking(65536, 0.1)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert is_so(), f"ended before: {what}\n{self.text}"
                return
            self.raw += said
            self._stream.feed(said)
