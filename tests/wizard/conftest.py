"""Fixtures of the wizard's tests."""

from tests.s3 import moto_endpoint, s3_server

__all__ = ["moto_endpoint", "s3_server"]
