"""A quick start: what takes seconds to import is imported where it is used."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def import_diffusers() -> None:
    """Import diffusers, and peft with it, without bitsandbytes."""
    if "diffusers" not in sys.modules:
        with without_bitsandbytes(), _without_collecting():
            import_module("peft")
            import_module("diffusers")


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Inside the block, no garbage is looked for. Of what modules make nothing is garbage, and looking for it
    in a million objects takes a fifth of the time of their import."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """While the block runs there is no bitsandbytes, unless it has been imported before.

    diffusers and peft import it wherever it is installed, for layers in 4 and 8 bits that no model here has:
    a second of each start, and a warning about kernels that it lacks. An optimizer that needs it imports it
    by itself.
    """
    if "bitsandbytes" in sys.modules:
        yield
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # how Python is told that there is none
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
