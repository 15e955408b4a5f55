"""A quick start: what takes seconds to import is imported where it is used."""

import sys
from importlib import import_module


def import_diffusers() -> None:
    """Import diffusers, and peft with it, without bitsandbytes.

    Both import that wherever it is installed, for layers in 4 and 8 bits that no model here has: a second of
    each start. An optimizer that needs bitsandbytes imports it by itself.
    """
    if "diffusers" in sys.modules or "bitsandbytes" in sys.modules:
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # how Python is told that there is none
    try:
        import_module("peft")
        import_module("diffusers")
    finally:
        del sys.modules["bitsandbytes"]
