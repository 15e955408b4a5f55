"""Runs whose ranks are from an estimate: made once, frozen, and refused where they cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.acestep.tiny import tiny_config
from sidestep.config.adapter import OWN_ESTIMATE
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.ranks import check_estimate, with_known_ranks
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.tasks.estimate import estimate
from tests.facts import facts
from tests.runs import adapter, newest, outcome, run_task, train, train_until_stopped
from tests.songs import MakeSpec, song, write_songs

EVERY_EPOCH = {"epochs": 3, "checkpoint": {"every_epochs": 1}}


@pytest.fixture
def measured(make_spec: MakeSpec) -> Path:
    """An output that has an estimate of the songs."""
    values = make_spec("measured").model_dump() | {"task": "estimate", "estimate": {"batches": 2}}
    spec = JobSpec.load(None, **values)
    run_task(estimate, spec)
    return Path(spec.output_place)


def ranked(place: object, **changes: Any) -> dict[str, Any]:
    return {**EVERY_EPOCH, "adapter": {"rank": 8, "alpha": 24, "rank_from": str(place), **changes}}


def ranks_of(spec: JobSpec) -> dict[str, int]:
    config = json.loads(Path(spec.output_place, "adapter", "adapter_config.json").read_text())
    return dict(config["rank_pattern"])


def recipe(spec: JobSpec) -> dict[str, Any]:
    folder = Path(spec.output_place) / newest(spec).folder
    content = json.loads((folder / "training_state.json").read_text())
    return dict(content["recipe"]["train.adapter"])


def change_estimate(output: Path) -> None:
    """Another one of the same songs: in the other order."""
    for file in (output / "estimate").rglob("report.json"):
        content = json.loads(file.read_text())
        norms = [entry["norm"] for entry in content["modules"]]
        for entry, norm in zip(content["modules"], reversed(norms), strict=True):
            entry["norm"] = norm
        file.write_text(json.dumps(content | {"sha256": ""}))


def test_the_ranks_of_an_estimate_at_the_parameters_of_the_common_rank(
    make_spec: MakeSpec, measured: Path, tiny_checkpoints: Path
) -> None:
    by_folder, by_file = (
        make_spec("one", **ranked(measured)),
        make_spec("two", **ranked(measured / "estimate" / "report.json")),
    )
    for spec in (by_folder, by_file):
        train(spec)
    assert outcome(by_folder) == outcome(by_file)
    ranks = ranks_of(by_folder)
    assert ranks and min(ranks.values()) < 8 < max(ranks.values())
    written = recipe(by_folder)
    assert written["rank_pattern"] == ranks
    assert written["alpha_pattern"] == {path: 3 * rank for path, rank in ranks.items()}
    # It is the adapter of the same ranks, written out.
    patterns = {"rank_pattern": ranks, "alpha_pattern": written["alpha_pattern"]}
    plain = make_spec("plain", **EVERY_EPOCH, adapter={"rank": 8, "alpha": 24, **patterns})
    train(plain)
    assert adapter(plain) == adapter(by_folder)
    sizes = []
    for settings in ({"rank": 8}, {"rank": 8, **patterns}):
        transformer = load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer
        made = adapters.inject(transformer, make_spec(adapter=settings).train.adapter, 0)
        sizes.append(sum(parameter.numel() for parameter in made.parameters().values()))
    assert 0.99 * sizes[0] < sizes[1] <= sizes[0]
    report = json.loads((measured / "estimate" / "report.json").read_text())
    norms = {entry["module"]: entry["norm"] for entry in report["modules"]}
    queries = [path for path in norms if path.endswith("self_attn.q_proj")]  # of one shape
    assert max(queries, key=norms.__getitem__) == max(
        queries, key=lambda path: (ranks.get(path, 8), norms[path])
    )
    # What is planned for is what is trained.
    config = tiny_config("base")
    assert with_known_ranks(Job(by_folder), config).train.adapter.rank_pattern == ranks
    assert with_known_ranks(Job(make_spec(**ranked("nowhere"))), config).train.adapter.rank_pattern == {}


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["gone", "another"])
def test_a_run_keeps_the_ranks_that_it_began_with(
    make_spec: MakeSpec,
    measured: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fate: str,
) -> None:
    caplog.set_level("INFO", logger="sidestep")
    whole, cut = make_spec("whole", **ranked(measured)), make_spec("cut", **ranked(measured))
    train(whole)
    train_until_stopped(cut, monkeypatch, commits=1)
    if fate == "gone":
        shutil.rmtree(measured)
    else:
        change_estimate(measured)
    caplog.clear()
    train(cut)
    assert outcome(cut) == outcome(whole)
    assert recipe(cut) == recipe(whole)
    assert any("ranks" in line and "began with" in line for line in caplog.messages)
    caplog.clear()
    train(cut)
    assert "Already finished" in caplog.text
    with pytest.raises(BadSpecError, match="rank_from"):
        train(make_spec("cut", **ranked(measured, rank_from=None)))
    if fate == "another":  # a new run takes what is there now
        new = make_spec("new", **ranked(measured))
        train(new)
        assert ranks_of(new) != ranks_of(whole)


def test_a_run_without_ranks_of_an_estimate_does_not_take_them_later(
    make_spec: MakeSpec, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_stopped(make_spec(**ranked(measured, rank_from=None)), monkeypatch, commits=1)
    assert "rank_from" not in recipe(make_spec())
    with pytest.raises(BadSpecError, match=r"train\.adapter\.rank_from: not set then"):
        train(make_spec(**ranked(measured)))


def test_this_output_s_own_estimate(make_spec: MakeSpec, measured: Path) -> None:
    spec, other = make_spec("measured", **ranked(OWN_ESTIMATE)), make_spec("other", **ranked(measured))
    for each in (spec, other):
        train(each)
    assert ranks_of(spec) == ranks_of(other) != {}
    with pytest.raises(MissingInputError, match=r"report\.json"):
        train(make_spec("without", **ranked(OWN_ESTIMATE)))


@pytest.mark.slow
def test_an_estimate_of_other_songs_is_named_and_one_of_these_comes_first(
    make_spec: MakeSpec, measured: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    songs = write_songs(tmp_path / "others", [song(n) for n in range(7, 9)])
    train(make_spec("foreign", dataset_dir=songs, **ranked(measured)))
    assert any("another dataset_content" in line for line in caplog.messages)
    # Another dataset is estimated in the same output, and so is the newest there.
    values = make_spec("measured", dataset_dir=songs).model_dump() | {"task": "estimate"}
    run_task(estimate, JobSpec.load(None, **values))
    caplog.clear()
    train(make_spec("own", **ranked(measured)))
    assert not any("another dataset_content" in line for line in caplog.messages)


def test_an_estimate_that_is_not_there_is_found_before_the_work_begins(
    make_spec: MakeSpec, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object) -> None:
        raise AssertionError("the task has begun")

    monkeypatch.setattr("sidestep.tasks.train.train", begun)
    with pytest.raises(MissingInputError, match=r"train\.adapter\.rank_from"):
        train(make_spec(**ranked(measured / "nowhere")))
    spec = make_spec(**ranked(measured))
    assert check_estimate(Job(spec)) == f"32 modules in {measured}/estimate/report.json"
    assert (
        check_estimate(Job(spec.changed({"train.adapter.rank_from": OWN_ESTIMATE, "task": "pipeline"})))
        is None
    )
    assert check_estimate(Job(make_spec())) is None


def test_what_cannot_be_ranked_is_refused(make_spec: MakeSpec, measured: Path) -> None:
    with pytest.raises(MissingInputError):
        train(make_spec(**ranked(measured / "nowhere")))
    with pytest.raises(BadSpecError, match=facts("rank_from", "target_modules")):
        train(make_spec(**ranked(measured, target_modules=["up_proj"])))
    file = measured / "estimate" / "report.json"
    content = json.loads(file.read_text())
    lost = content["modules"].pop()["module"]
    file.write_text(json.dumps(content))
    with pytest.raises(BadDataError, match=r"report\.json"):  # its digest says so
        train(make_spec(**ranked(file)))
    file.write_text(json.dumps(content | {"sha256": ""}))
    with pytest.raises(BadSpecError, match=facts("rank_from", lost)):
        train(make_spec(**ranked(file)))


@pytest.mark.parametrize(
    "beside", [{"type": "lokr"}, {"rank_pattern": {"q_proj": 4}}, {"alpha_pattern": {"q_proj": 4}}]
)
def test_what_it_does_not_go_with(beside: dict[str, Any]) -> None:
    with pytest.raises(BadSpecError, match=r"train\.adapter\.rank_from"):
        JobSpec.load(
            None, task="train", output_dir="out", train={"adapter": {"rank_from": "estimate", **beside}}
        )
