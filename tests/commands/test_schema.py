"""`sidestep schema`: a JSON schema that explains itself."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from sidestep.cli import main


def test_schema_is_a_json_schema_with_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"] == "Side-Step job spec"
    assert "Seconds" in schema["$defs"]["PreprocessSpec"]["properties"]["max_duration"]["description"]
    assert not Path("sidestep.log").exists()
