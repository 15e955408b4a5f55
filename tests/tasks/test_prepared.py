"""Which kind of machine a run's steps are made on, as its receipt claims equal bytes for that kind alone."""

import sys
from dataclasses import replace
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest

from sidestep.runtime import versions as versions_module
from sidestep.tasks.prepared import kind_of
from sidestep.training.machine import choose_machine
from sidestep.training.numbers import LAW
from sidestep.training.team import Team
from tests.songs import MakeSpec


@pytest.mark.parametrize(("batch_size", "law", "written"), [(1, LAW, None), (2, LAW, 2), (2, 1, None)])
def test_how_many_samples_are_computed_at_once(
    make_spec: MakeSpec, batch_size: int, law: int, written: int | None
) -> None:
    """Under law 1 it is one, whatever is asked for."""
    spec = make_spec(batch_size=batch_size, accumulation=2)
    assert kind_of(choose_machine(spec.runtime), spec, law, Team()).get("batch_size") == written


def test_a_step_of_fewer_samples_than_ranks_computes_one_at_once(make_spec: MakeSpec) -> None:
    team = Team()
    team.count = 4
    spec = make_spec(batch_size=4, accumulation=1)
    assert "batch_size" not in kind_of(choose_machine(spec.runtime), spec, LAW, team)


@pytest.mark.parametrize(
    ("optimizer", "quantize", "attention", "said"),
    [
        ("adamw", "none", "sdpa", set()),
        ("adamw", "int8", "sdpa", set()),
        ("adamw", "nf4", "sdpa", {"bitsandbytes"}),
        ("adamw8bit", "none", "sdpa", {"bitsandbytes"}),
        ("prodigy", "none", "sdpa", {"prodigyopt"}),
        ("adamw", "none", "flash", {"flash-attn"}),
    ],
)
def test_the_versions_of_what_a_run_uses(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    quantize: str,
    attention: Any,
    said: set[str],
) -> None:
    monkeypatch.setattr(
        versions_module, "version", lambda name: "2.8" if name == "flash-attn" else version(name)
    )
    spec = make_spec(optimizer_type=optimizer)
    machine = choose_machine(spec.runtime)
    kind = kind_of(replace(machine, attention=attention), spec, LAW, Team(), quantize)
    assert kind["versions"].keys() - machine.kind()["versions"].keys() == said


@pytest.mark.parametrize(("says", "found"), [({"__version__": "2.8.3+own"}, "2.8.3+own"), ({}, "unknown")])
def test_a_package_without_metadata_is_of_the_version_that_its_module_says(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, says: dict[str, str], found: str
) -> None:
    """flash-attn is often built by hand, and copied."""
    module = ModuleType("flash_attn")
    module.__dict__.update(says)
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    spec = make_spec()
    machine = replace(choose_machine(spec.runtime), attention="flash")
    assert kind_of(machine, spec, LAW, Team())["versions"]["flash-attn"] == found
