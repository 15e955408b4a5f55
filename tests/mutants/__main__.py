"""`python -m tests.mutants`: see README.md beside this file."""

import os
import signal
import sys

from tests.mutants.command import main

PRELOAD = (
    *("torch", "transformers", "diffusers", "peft", "lycoris", "lightning_fabric"),
    *("accelerate", "bitsandbytes.optim", "prodigyopt", "numpy", "matplotlib.figure", "tensorboard.summary"),
    *(
        "av",
        "boto3",
        "fsspec",
        "moto.server",
        "jsonschema",
        "pydantic_settings",
        "ruamel.yaml",
        "rich.console",
    ),
)
"""What the tests import of others, and takes longest."""

os.environ["OMP_NUM_THREADS"] = "1"  # as tests/conftest.py has it, and before torch reads it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the Makefile has it
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that forks and copies go, too

sys.exit(main(preload=PRELOAD))
