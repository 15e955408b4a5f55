"""Songs that are quick to train on."""

from tests.songs import make_spec

__all__ = ["make_spec"]
