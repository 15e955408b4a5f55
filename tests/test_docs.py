"""The pages of docs/: their commands work as they stand there, and their links and flags are real."""

import argparse
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep.acestep.config import RELEASES
from sidestep.commands import COMMANDS
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec
from sidestep.data.entries import read_dataset
from sidestep.tasks import demo
from tests.documents import GUIDE, QUICK, ROOT, Block, blocks, run

ALL_PAGES = sorted((ROOT / "docs").glob("*.md"))
ELSEWHERE = {  # in tests/image, chart, wizard, torture and bench
    *("container", "kubernetes", "wizard", "reliability", "evidence", "performance"),
}
GENERATED = {"cli-reference"}
PAGES = [page for page in ALL_PAGES if page.stem not in ELSEWHERE | GENERATED]
FIRST = "getting-started.md"  # makes the tensors that the other pages train on


def test_the_pages_that_the_guide_leads_to_are_there() -> None:
    titles = re.findall(r"^- \[\[(.+)\]\]", GUIDE.read_text(), re.M)
    slugs = {title.lower().removesuffix(" guide").replace(" ", "-") for title in titles}
    assert len(slugs) == 5
    assert slugs | {"training-guide"} <= {page.stem for page in ALL_PAGES}


@pytest.fixture(scope="session")
def workshop(tiny_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: checkpoints, songs, and the tensors of the first page."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(tiny_checkpoints, folder / "checkpoints")
    shutil.copytree(tiny_checkpoints / "acestep-v15-base", folder / "checkpoints" / "my-custom-finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SECONDS", 3.0)
        patch.setattr(demo, "TUNES", demo.TUNES[:2])
        demo.write_songs(folder / "my_songs")
    places: dict[str, Any] = {"audio_dir": folder / "my_songs", "dataset_dir": folder / "my_tensors"}
    sidestep.run(JobSpec.load(None, task="preprocess", checkpoint_dir=folder / "checkpoints", **places))
    return folder


@pytest.mark.slow  # every command is a process that loads torch
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_works_as_it_stands(page: Path, workshop: Path) -> None:
    for name in ("checkpoints", "my_songs"):
        Path(name).symlink_to(workshop / name)
    if page.name != FIRST:
        shutil.copytree(workshop / "my_tensors", "my_tensors")
    commands = [block for block in blocks(page) if block.kind in ("bash", "python")]
    assert commands
    for block in commands:
        run(block, **QUICK)
    for output in re.findall(r"--output-dir (\S+-lora)", "\n".join(block.text for block in commands)):
        assert Path(output, "adapter", "adapter_model.safetensors").exists()


def test_the_dataset_json_is_one() -> None:
    (block,) = (block for block in blocks(ROOT / "docs" / "dataset-preparation.md") if block.kind == "json")
    dataset = read_dataset(block.text.encode(), "the page")
    assert not dataset.problems and not dataset.unused_fields
    assert len(dataset.entries) == len(json.loads(block.text)["samples"])


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"](docs/{page.name})" in text for page in ALL_PAGES)


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert all((page.parent / link).exists() for link in links if not link.startswith("http"))


def test_the_generated_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text() == generate.reference(), "run `make docs`"
    assert generate.PLACES.read_text() == generate.places(), "run `make docs`"
    for field in spec_fields().values():
        assert f"**`{field.name}`**" in generate.PAGE.read_text()


@pytest.mark.parametrize("page", [*ALL_PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_lines_are_short(page: Path) -> None:
    """But for tables, whose rows are lines."""
    lines = page.read_text().splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def all_flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """With those of the actions that a command has: `presets save`."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from all_flags(inner)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_flags_exist(page: Path) -> None:
    """Also those that stand in a sentence or a table."""
    known = {flag for command in COMMANDS for flag in all_flags(COMMANDS[command].parser())}
    others = {
        "--version",
        "--help",
        "--help-all",
        "--logdir",
        "--stop-timeout",
        "--signal",
        "--requeue",
        "--array",
        "--dependency",
        "--num-jobs",
        "--for",
        "--bucket",
        "--lifecycle-configuration",
        "--number",
        "--only",
        "--extra-index-url",
        "--torch-backend",
        "--local-dir",
        "--exclude",
        "--python",
        *("--gpus", "--gpus-per-node", "--kill-on-bad-exit"),
        *("--parsable", "--dependency", "--kill-on-invalid-dep", "--for", "--timeout", "--secret"),
    }  # ours; the rest of others
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text())) <= known | others


def test_what_the_pages_say_of_the_releases() -> None:
    text = (ROOT / "docs" / "model-management.md").read_text()
    for values in RELEASES.values():
        mu = str(values["timestep_mu"]).replace("-", "−")
        assert f"| {mu}, {values['timestep_sigma']} |" in text
        assert f"| {values['timbre_fix_frame']} |" in text


def test_a_failing_command_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no command 'trian'"):
        run(Block("bash", "sidestep trian\ntrue"))
