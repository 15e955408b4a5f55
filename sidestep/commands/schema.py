"""`sidestep schema`: the job spec as a JSON schema, for editors and other programs."""

import json

from sidestep.commands.command import Call
from sidestep.commands.parser import Parser
from sidestep.runtime.console import write


def add_arguments(parser: Parser) -> None:
    """It takes nothing."""


def run(call: Call) -> None:
    call.options()

    from pydantic.json_schema import GenerateJsonSchema

    from sidestep.config.job import JobSpec

    schema = {"$schema": GenerateJsonSchema.schema_dialect, **JobSpec.model_json_schema()}
    write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", exactly=True)
