"""Songs that are quick to train on, and a real S3 server."""

from tests.s3 import moto_endpoint, s3_server
from tests.songs import make_spec

__all__ = ["make_spec", "moto_endpoint", "s3_server"]
