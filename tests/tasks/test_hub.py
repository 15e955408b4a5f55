"""Jobs whose model is a repository on the Hugging Face Hub: what they read, remember and refuse."""

import json
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.lifecycle.identity import differences
from sidestep.runtime.errors import BadSpecError
from tests.hub import Hub
from tests.runs import outcome, train
from tests.songs import MakeSpec


def files_below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def models(hub: Hub, tiny_checkpoints: Path) -> dict[str, bytes]:
    """What `hf://ace/step` holds."""
    files = files_below(tiny_checkpoints)
    hub.push("ace/step", files)
    return files


@pytest.mark.slow
def test_a_run_reads_its_model_at_one_commit_and_remembers_it(
    make_spec: MakeSpec, hub: Hub, models: dict[str, bytes], tmp_path: Path
) -> None:
    train(make_spec("local", epochs=1))
    first = train(make_spec("hub", epochs=1, checkpoint_dir="hf://ace/step"))
    assert outcome(make_spec("hub")) == outcome(make_spec("local"))
    (state,) = (tmp_path / "hub").glob("checkpoints/*/training_state.json")
    digest, _, commit = json.loads(state.read_bytes())["recipe"]["weights"].partition("@")
    assert commit in hub.files and len(digest) == 64
    receipt = json.loads((tmp_path / "hub" / "receipt.json").read_bytes())
    assert receipt["inputs"]["weights"] == f"{digest}@{commit}"

    # The same weights at another commit are the same; other weights are not.
    moved = hub.push("ace/step", {**models, "README.md": b"moved on"})
    extended = make_spec("hub", epochs=2, extend=True, checkpoint_dir="hf://ace/step")
    assert train(extended).steps == 2 * first.steps
    assert moved != commit
    config = next(path for path in models if path.endswith("base/config.json"))
    changed = json.loads(models[config])
    other = hub.push("ace/step", {**models, config: json.dumps(changed, indent=7).encode()})
    with pytest.raises(BadSpecError) as caught:
        train(make_spec("hub", epochs=3, extend=True, checkpoint_dir="hf://ace/step"))
    assert moved in str(caught.value) and other in str(caught.value)


def test_what_counts_of_weights() -> None:
    assert not differences({"weights": "a@1"}, {"weights": "a@2"})
    assert not differences({"weights": "a"}, {"weights": "a@2"})
    assert differences({"weights": "a@1"}, {"weights": "b@1"}) == {"weights": ("a@1", "b@1")}


@pytest.mark.parametrize(
    ("change", "code", "facts"),
    [
        ({"checkpoint_dir": "hf://ace/none"}, 66, ["checkpoint_dir", "hf://ace/none", "HF_TOKEN"]),
        ({"checkpoint_dir": "hf://ace/step@none"}, 66, ["checkpoint_dir", "hf://ace/step@none"]),
        ({"checkpoint_dir": "hf://ace/gated"}, 77, ["checkpoint_dir", "hf://ace/gated"]),
        ({"output_dir": "hf://ace/step"}, 78, ["output_dir", "hf://ace/step", "read"]),
        ({"checkpoint_dir": "hf://ace/alone"}, 66, ["hf download ace/alone", "vae"]),
    ],
)
def test_what_is_refused(
    make_spec: MakeSpec,
    hub: Hub,
    models: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    code: int,
    facts: list[str],
) -> None:
    hub.push("ace/gated", models)
    hub.gated.add("ace/gated")
    own = "acestep-v15-base/"
    hub.push(
        "ace/alone", {path.removeprefix(own): data for path, data in models.items() if path.startswith(own)}
    )
    Path("job.json").write_text(make_spec(epochs=1, **change).model_dump_json())
    for command in (["plan", "--check-only"], ["train"]):
        assert main([*command, "--config", "job.json"]) == code
        shown = capsys.readouterr()
        said = " ".join((shown.out + shown.err).split())
        assert all(fact in said for fact in facts), said
