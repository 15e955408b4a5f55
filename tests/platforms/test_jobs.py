"""jobs/: every example is a job, says the same as variables, and what is rendered of it is current."""

import shutil
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.job import resolve
from sidestep.platforms.job import flattened
from sidestep.platforms.render import said
from tests.documents import blocks, run
from tests.platforms.committed import rendered_files
from tests.platforms.rendering import ROOT, SPECS

EXAMPLES = sorted(SPECS.glob("*/*.yaml"))


def test_there_is_an_example_of_every_kind_in_every_kind_of_place() -> None:
    kinds = ("preprocess", "estimate", "lora", "lokr", "fine-tune", "pipeline")
    assert {str(file.relative_to(SPECS)) for file in EXAMPLES} == {
        f"{where}/{kind}.yaml" for where in ("local", "s3") for kind in kinds
    }


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_an_example_is_a_job(file: Path) -> None:
    spec, origins = resolve(config=file, environ={})
    task = {"lora": "train", "lokr": "train", "fine-tune": "train"}.get(file.stem, file.stem)
    assert spec.task == task
    places = [spec.checkpoint_dir, spec.output_place, spec.tensors_place, spec.audio_dir, spec.dataset_json]
    start = "s3://" if file.parent.name == "s3" else "/data/"
    assert all(place.startswith(start) for place in places if place)

    assert resolve(environ=flattened(said(spec, origins)))[0] == spec


def test_what_was_rendered_is_current() -> None:
    """`make jobs` renders them anew."""
    rendered = dict(rendered_files())
    committed = {file.relative_to(ROOT) for file in (ROOT / "jobs").rglob("*") if file.is_file()}
    assert committed == set(rendered) | {file.relative_to(ROOT) for file in EXAMPLES} | {
        Path("jobs/README.md")
    }
    for file, text in rendered.items():
        assert (ROOT / file).read_text(encoding="utf-8") == text, f"{file} is not what `make jobs` writes"


def test_the_command_writes_the_same_files() -> None:
    shutil.copytree(SPECS, "jobs/specs")
    for file, text in rendered_files():
        where = "local" if file.stem.startswith("pipeline-local") else "s3"
        main(["render", file.parts[1], f"jobs/specs/{where}/pipeline.yaml", "--output", str(file)])
        assert file.read_text(encoding="utf-8") == text


def test_the_readme_s_command_works_as_it_stands() -> None:
    shutil.copy(SPECS / "s3" / "lora.yaml", "my-job.yaml")
    (block,) = blocks(ROOT / "jobs" / "README.md")
    run(block)
    assert "my-lora" in Path("my-job.sky.yaml").read_text()
