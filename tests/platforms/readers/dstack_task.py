"""Run in dstack's own environment: what its parser makes of the configuration in argv[1], as JSON."""

import sys
from pathlib import Path

import yaml
from dstack._internal.core.models.configurations import parse_run_configuration

print(parse_run_configuration(yaml.safe_load(Path(sys.argv[1]).read_text())).model_dump_json())
