"""The estimate task: the same ranking for the same songs, as files and as a line to paste."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sidestep.commitlog.leftovers import DAY
from sidestep.config.adapter import ATTENTION_MODULES
from sidestep.config.job import JobSpec
from sidestep.data.index import Index, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import Sides
from sidestep.lifecycle.job import Job
from sidestep.report.contents import Ranking
from sidestep.runtime.atomic import TEMPORARY
from sidestep.storage.open import open_store
from sidestep.tasks import estimate as module
from sidestep.tasks.estimate import estimate
from tests.runs import run_task, train
from tests.songs import MakeSpec, flip_a_bit, song, write_songs


@pytest.fixture
def spec(make_spec: MakeSpec, tmp_path: Path) -> JobSpec:
    values = make_spec().model_dump() | {"task": "estimate", "estimate": {"batches": 4, "top_k": 5}}
    return JobSpec.load(None, **values)


def test_the_report(spec: JobSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    norms = run_task(estimate, spec)
    assert len(norms) == 4 * 2 * 4  # layers, self and cross attention, q k v o
    assert list(norms.values()) == sorted(norms.values(), reverse=True)
    report = json.loads((tmp_path / "out" / "estimate" / "report.json").read_text())
    assert {entry["module"]: entry["norm"] for entry in report["modules"]} == norms
    assert (tmp_path / "out" / "estimate" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert module.report(spec) == report
    line = "--target-modules " + " ".join(list(norms)[:5])
    assert line in caplog.text


def test_its_line_can_be_trained(spec: JobSpec, make_spec: MakeSpec) -> None:
    best = list(run_task(estimate, spec))[:5]
    assert train(make_spec("trained", adapter={"target_modules": best})).steps == 4


def test_it_is_made_once(
    spec: JobSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    first = run_task(estimate, spec)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_measure", lambda *_: pytest.fail("measured again"))
        assert run_task(estimate, spec) == first
    assert "Already estimated" in caplog.text
    more = JobSpec.load(None, **(spec.model_dump() | {"estimate": {"batches": 6}}))
    assert run_task(estimate, more) != first


def test_a_report_of_other_weights_or_songs_is_not_shown_again(
    spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the same names, and of the same size."""
    copy = shutil.copytree(Path(spec.checkpoint_dir), tmp_path / "copy")
    spec = spec.changed({"checkpoint_dir": str(copy)})
    tensors = open_store(spec.tensors_place, spec.storage)
    keys = {file.path.removesuffix(".pt") for file in tensors.list_files()}
    write_index(tensors, Index(samples={key: key for key in keys}, tensors=dict.fromkeys(keys, "before")))
    measured: list[str] = []

    def measure(
        job: Job, dataset: Preprocessed, frozen: Sides | None
    ) -> tuple[dict[str, float], Sides | None]:
        measured.append(job.spec.name)
        return {"layers.0": 1.0}, frozen

    monkeypatch.setattr(module, "_measure", measure)
    monkeypatch.setattr(module, "_picture", lambda *given: Figure())

    run_task(estimate, spec)
    run_task(estimate, spec)
    assert len(measured) == 1
    write_index(tensors, Index(samples={key: key for key in keys}, tensors=dict.fromkeys(keys, "now")))
    run_task(estimate, spec)
    assert len(measured) == 2
    [weights] = (copy / "acestep-v15-base").glob("*.safetensors")
    flip_a_bit(weights)
    run_task(estimate, spec)
    assert len(measured) == 3

    report = tmp_path / "out" / "estimate" / "report.json"
    older = {key: json.loads(report.read_bytes())[key] for key in ("recipe", "modules")}
    for key in module.SINCE_DIGESTS:
        del older["recipe"][key]
    for folder in folders(tmp_path / "out"):  # which older versions did not make
        shutil.rmtree(folder)
    report.write_text(json.dumps(older))
    run_task(estimate, spec)
    assert len(measured) == 3


def test_what_a_killed_attempt_was_writing_is_cleared_a_day_later(spec: JobSpec, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "estimate"
    folder.mkdir(parents=True)
    old, young = folder / f"{TEMPORARY}1", folder / f"{TEMPORARY}2"
    for file, age in ((old, 2 * DAY), (young, DAY / 2)):
        file.write_bytes(b"half a picture")
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    run_task(estimate, spec)
    assert not old.exists() and young.exists()


@pytest.mark.parametrize("name", ["report.png", "report.json"])
@pytest.mark.parametrize("damage", ["gone", "a bit"])
def test_a_damaged_report_or_picture_is_made_again(
    spec: JobSpec, tmp_path: Path, name: str, damage: str
) -> None:
    norms = run_task(estimate, spec)
    file = tmp_path / "out" / "estimate" / name
    made = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        place = made.index(b'"norm": 0.') + 12 if name == "report.json" else len(made) // 2
        file.write_bytes(made[:place] + bytes([made[place] ^ 1]) + made[place + 1 :])
    assert run_task(estimate, spec) == norms
    assert file.read_bytes() == made


def folders(output: Path) -> list[Path]:
    return sorted(file.parent for file in (output / "estimate").glob("*/report.json"))


def test_each_dataset_has_a_report_of_its_own(spec: JobSpec, tmp_path: Path) -> None:
    """The newest is beside them; asked for again, a report is the newest again, as it was made."""
    out, first = tmp_path / "out", run_task(estimate, spec)
    (of_first,) = folders(out)
    assert len(of_first.name) == 8 and int(of_first.name, 16) >= 0
    made = {file.name: file.read_bytes() for file in of_first.iterdir()}
    other = spec.changed({"dataset_dir": str(write_songs(tmp_path / "others", [song(7, frames=40)]))})
    second = run_task(estimate, other)
    assert second != first and len(folders(out)) == 2
    assert {file.name: file.read_bytes() for file in of_first.iterdir()} == made
    newest = out / "estimate"
    assert module.report(spec)["modules"][0]["norm"] == next(iter(second.values()))
    assert run_task(estimate, spec) == first
    assert {name: (newest / name).read_bytes() for name in made} == made
    (of_second,) = {*folders(out)} - {of_first}
    assert json.loads((of_second / "report.json").read_text())["modules"][0]["norm"] == max(second.values())
    assert (of_second / "report.png").read_bytes() != made["report.png"]


def test_a_report_of_an_older_version_is_shown_and_gets_a_folder(
    spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms, newest = run_task(estimate, spec), tmp_path / "out" / "estimate" / "report.json"
    (own,) = folders(tmp_path / "out")
    shutil.rmtree(own)
    older = {key: json.loads(newest.read_bytes())[key] for key in ("recipe", "modules", "picture")}
    older["sha256"] = Ranking.model_validate(older).digest()
    newest.write_text(json.dumps(older))
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("measured again"))
    assert run_task(estimate, spec) == norms
    assert (own / "report.json").read_bytes() == newest.read_bytes()


def test_layers_are_ranked_as_a_whole(
    spec: JobSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same measurement."""
    caplog.set_level(logging.INFO)
    norms = run_task(estimate, spec)
    layers = {layer["layer"]: layer["norm"] for layer in module.report(spec)["layers"]}
    of_layer = [norm for name, norm in norms.items() if name.startswith("layers.2.")]
    assert len(of_layer) == 8
    assert layers["layers.2"] == pytest.approx(sum(norm**2 for norm in of_layer) ** 0.5)
    assert list(layers.values()) == sorted(layers.values(), reverse=True) and len(layers) == 4
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("measured again"))
    caplog.clear()
    run_task(estimate, spec.changed({"estimate.granularity": "layer", "estimate.top_k": 2}))
    line = next(message for message in caplog.messages if "--target-modules" in message)
    targets = line.partition("--target-modules ")[2].split()
    assert len(targets) == 16 and set(targets) < norms.keys()
    assert {".".join(target.split(".")[:2]) for target in targets} == {*list(layers)[:2]}


def test_the_picture_has_a_scale_for_each_column_and_the_numbers(spec: JobSpec) -> None:
    """So that a column of small norms is no pale stripe."""
    names = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in ATTENTION_MODULES]
    norms = {
        f"layers.{layer}.{name}": (layer + 1) * 10.0**-column
        for layer in range(12)
        for column, name in enumerate(names)
    }
    (axes,) = module._picture(norms, spec).axes
    (image,) = axes.images
    shades = image.get_array().tolist()
    assert len(shades) == 12 and all(len(row) == 9 for row in shades)
    for column in zip(*shades, strict=True):
        assert column == pytest.approx([layer / 11 for layer in range(12)])
    texts = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    assert (texts[0, 0], texts[1, 0], texts[0, 11]) == ("1", "0.1", "12") and len(texts) == 12 * 9
    assert [label.get_text() for label in axes.get_yticklabels()][9:] == ["layer 9", "layer 10", "layer 11"]
