"""`sidestep plan`: its own flags, what it prints, and that it can do without any place."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.commands.plan import size_in_bytes
from tests.songs import MakeSpec


@pytest.mark.parametrize(("text", "size"), [("12GB", 12e9), ("12 g", 12e9), ("11.5GiB", 11.5 * 2**30)])
def test_sizes_are_read_as_people_write_them(text: str, size: float) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    "words",
    ["--fit 12", "--fit 0GB", "--fit=-1GB", "--fit infGB", "--songs 0", "--song-seconds nan", "--songs 2.5"],
)
def test_wrong_numbers_are_refused_before_anything_else(words: str, capsys: Any) -> None:
    assert main(["plan", "--offline", *words.split()]) == 64
    assert words.split("=")[0].split()[0] in capsys.readouterr().err


def test_the_command_on_a_job_s_own_places(make_spec: MakeSpec, capsys: Any) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["plan", "job.json", "--json", "--fit", "24GB"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert all(check["ok"] for check in data["checks"])
    assert data["plan"]["job"]["songs"] == {"value": 3, "says": data["plan"]["job"]["songs"]["says"]} | {
        "basis": "measured"
    }
    assert data["plan"]["fit"]["changes"] == []
    assert {check["state"] for check in data["checks"]} == {"ok"}
    assert main(["plan", "job.json", "--dataset-dir", "nowhere", "--json"]) == 66
    assert "plan" not in json.loads(capsys.readouterr().out)


def test_what_could_not_be_checked_is_not_called_ok(make_spec: MakeSpec, capsys: Any) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["plan", "job.json", "--check-only", "--checkpoint-dir", "nowhere", "--json"]) == 66
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    found = {
        name: (checks[name]["ok"], checks[name]["state"]) for name in ("checkpoint_dir", "train.adapter")
    }
    assert found == {"checkpoint_dir": (False, "FAIL"), "train.adapter": (False, "skipped")}
    assert "exit_code" not in checks["train.adapter"]
    assert main(["plan", "job.json", "--check-only", "--checkpoint-dir", "nowhere"]) == 66
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["skipped", "train.adapter"] in lines and ["ok", "dataset_dir"] in lines


def test_offline_needs_nothing_at_all(capsys: Any) -> None:
    """Neither places in the spec nor any access: the 2B model, whole."""
    assert main(["plan", "--offline", "--songs", "3", "--song-seconds", "30", "--price-per-hour", "1"]) == 0
    text = capsys.readouterr().out
    assert "LoRA, 44,040,192 parameters in 384 tensors" in text
    assert "3, 1 min 30 s of sound" in text
    assert not list(Path().glob("out*"))
