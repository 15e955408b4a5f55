"""Presets: under everything else, safe to take from somebody else, and kept whole."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec, resolve
from sidestep.config.presets import BUILT_IN, all_presets, find_preset, user_folder
from sidestep.config.sources import Given
from sidestep.runtime.errors import BadSpecError, ExitCode
from sidestep.training.numbers import Progress
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

Said = Callable[..., str]
JOB = "audio_dir: songs\noutput_dir: out\n"
GIB = 2**30


@pytest.fixture(autouse=True)
def own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs `sidestep presets …`, which must end with `code`; returns all that it says."""

    def run(*words: str, code: ExitCode = ExitCode.DONE) -> str:
        assert main(["presets", *words]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_a_preset_lies_under_all_else_and_over_the_defaults() -> None:
    Path("job.yaml").write_text(JOB + "train: {epochs: 7, seed: 3}\n")
    spec, origins = resolve(
        flags=[Given(("train", "chunk_duration"), "60", "--chunk-duration")],
        environ={"SIDESTEP_TRAIN__SEED": "4"},
        config="job.yaml",
        preset="quick-test",
    )
    train = spec.train
    assert (train.chunk_duration, train.seed, train.epochs) == (60, 4, 7)
    assert (train.adapter.rank, train.adapter.alpha, train.adapter.dropout) == (16, 32, 0.1)
    assert origins["train.adapter.rank"] == "preset quick-test"
    assert origins["train.epochs"] == "job.yaml:3"
    assert origins["train.adapter.dropout"] == "default"
    assert JobSpec.load("job.yaml", preset="quick-test").train.adapter.rank == 16


def test_a_job_s_file_shows_what_a_preset_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text(JOB)
    assert main(["render", "slurm", "job.yaml", "--preset", "high-quality"]) == 0
    rendered = capsys.readouterr().out
    assert "128" in rendered and "--preset" not in rendered


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_presets_fit_the_schema_and_say_what_they_are_for(name: str) -> None:
    spec, origins = resolve(
        config=None, environ={}, arguments={"task": "estimate", "output_dir": "o"}, preset=name
    )
    assert spec.train.adapter.alpha == 2 * spec.train.adapter.rank
    assert f"preset {name}" in origins.values()
    assert len(find_preset(name).description) > 20


def test_recommended_is_what_the_defaults_are() -> None:
    job = {"audio_dir": "songs", "output_dir": "out"}
    assert resolve(arguments=job, preset="recommended")[0] == resolve(arguments=job)[0]


PUBLISHED = ("fast-start", "timbre")
"""What others have found, and nobody has here."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_findings_of_others_are_named_as_such_and_hold_songs_out(name: str, said: Said) -> None:
    text = said("show", name)
    assert "Source: " in text and "not reproduced here" in find_preset(name).description
    row = next(row for row in said("list").splitlines() if row.startswith(f"{name} "))
    assert "not reproduced here" in row, "not cut off"
    train = JobSpec.load(None, preset=name, audio_dir="songs", output_dir="out").train
    assert train.validation.is_on
    assert {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} < {*train.adapter.target_modules}
    assert (train.lr, train.adapter.rank) == {"fast-start": (3e-4, 64), "timbre": (5e-4, 128)}[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_few_songs_take_one_word_more(name: str, make_spec: MakeSpec) -> None:
    """Three songs are too few to hold a share of: name some, or none; nothing else is to be changed."""
    settings = make_spec().model_dump(include={"task", "checkpoint_dir", "dataset_dir", "output_dir"})

    def run(**validation: Any) -> list[int]:
        small = {"max_steps": 1, "adapter": {"rank": 2, "alpha": 4}, "validation": validation}
        spec = JobSpec.load(None, preset=name, **settings, train=small)
        progress = Progress()
        list(trainer_of(spec).steps(progress))
        return list(progress.validations)

    with pytest.raises(BadSpecError, match=r"train\.validation\.songs, or set the share to 0"):
        run()
    assert run(share=0) == []
    assert run(songs=["1"]) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name.endswith("gb")])
def test_the_presets_of_gpus_fit_them(name: str) -> None:
    from sidestep.acestep.releases import released_config
    from sidestep.planning.memory import memory_of, on_a_card

    spec, _ = resolve(arguments={"audio_dir": "songs", "output_dir": "out"}, preset=name)
    variants = ["base", "xl-base"] if "XL" in find_preset(name).description else ["base"]
    for variant in variants:
        config, card = released_config(variant), int(name[:-2]) * GIB
        memory = memory_of(on_a_card(spec, config, card), config, "bf16", frames=240 * 25, tokens=400)
        assert memory.total < 0.9 * card, variant  # a desktop takes some of it too


def test_an_unknown_preset_is_refused_with_the_nearest_name(said: Said) -> None:
    assert "12gb?" in said("show", "12g", code=ExitCode.USAGE)
    unknown = said("show", "zzz", code=ExitCode.USAGE)
    assert all(name in unknown for name in BUILT_IN)


def test_list(said: Said) -> None:
    said("save", "mine", "--rank", "3", "--description", "rank\nthree")
    lines = said("list").splitlines()
    assert [line.split()[0] for line in lines] == [*BUILT_IN, "mine"]
    assert lines[-1].endswith("(yours) rank three")
    rows = json.loads(said("list", "--json"))
    assert rows[-1] == {"name": "mine", "built_in": False, "description": "rank three"}


def test_what_is_saved_is_what_was_said_but_for_what_is_a_job_s_own(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.yaml").write_text(JOB + "train: {epochs: 7}\nstorage: {region: eu}\n")
    monkeypatch.setenv("SIDESTEP_TRAIN__SEED", "5")
    said("save", "mine", "job.yaml", "--preset", "quick-test", "--lr", "1e-5")
    assert find_preset("mine").read() == {
        "train": {
            "adapter": {"type": "lora", "rank": 16},
            "epochs": 7,
            "lr": 1e-5,
            "chunk_duration": 30,
            "seed": 5,
        }
    }
    assert said("show", "mine") == find_preset("mine").file.read_text()


def test_nothing_is_saved_that_is_wrong_or_empty(said: Said) -> None:
    assert "train.lr = '-1'" in said("save", "mine", "--lr", "-1", code=ExitCode.BAD_SPEC)
    said("save", "mine", code=ExitCode.USAGE)
    assert "'../mine'" in said("save", "../mine", "--rank", "3", code=ExitCode.USAGE)
    assert "8gb" in said("save", "8gb", "--rank", "3", code=ExitCode.USAGE)
    assert not user_folder().exists()


def test_a_preset_is_replaced_only_when_told(said: Said) -> None:
    said("save", "mine", "--rank", "3")
    assert "--force" in said("save", "mine", "--rank", "4", code=ExitCode.USAGE)
    assert find_preset("mine").read() == {"train": {"adapter": {"rank": 3}}}
    said("save", "mine", "--rank", "4", "--force")
    assert find_preset("mine").read() == {"train": {"adapter": {"rank": 4}}}


def test_delete(said: Said) -> None:
    said("save", "mine", "--rank", "3")
    said("delete", "mine")
    assert "mine" not in all_presets()
    said("delete", "8gb", code=ExitCode.USAGE)
    assert "8gb" in all_presets()


def test_import_and_export_keep_the_file_as_it_is(said: Said) -> None:
    text = "# from a friend\ntrain: {lr: 2e-4}  # a comment\n"
    Path("friend.yaml").write_text(text)
    said("import", "friend.yaml", "--name", "theirs")
    said("export", "theirs")
    assert Path("theirs.yaml").read_text() == text
    assert "--force" in said("export", "theirs", code=ExitCode.USAGE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("output_dir: s3://elsewhere\n", "output_dir (preset friend)"),
        (
            "storage: {endpoint_url: http://elsewhere}\n",
            "storage.endpoint_url (preset friend)",
        ),
        ("train: {resume_from: x}\n", "train.resume_from (preset friend)"),
        ("runtime: {on_exit: terminate}\n", "runtime.on_exit (preset friend)"),
        ("train: {lr: fast}\n", "train.lr = 'fast' (preset friend)"),
        ("train: {learn: 1}\n", "train.learn (preset friend)"),
        ("a: [\n", "friend.yaml:2"),
    ],
)
def test_a_bad_preset_is_not_imported(text: str, problem: str, said: Said) -> None:
    Path("friend.yaml").write_text(text)
    assert problem in said("import", "friend.yaml", code=ExitCode.BAD_SPEC)
    assert "friend" not in all_presets()


def test_an_empty_preset_and_the_name_for_none_are_refused(said: Said) -> None:
    Path("empty.yaml").write_text("")
    assert "empty.yaml" in said("import", "empty.yaml", code=ExitCode.USAGE)
    assert "none" in said("save", "none", "--rank", "3", code=ExitCode.USAGE)
    assert not user_folder().exists()


def test_a_list_says_what_cannot_be_used_and_is_not_flooded(said: Said) -> None:
    said("save", "long", "--rank", "3", "--description", "word " * 100)
    (user_folder() / "broken.yaml").write_text("train: [\n")
    broken, long = said("list").splitlines()[-2:]
    assert "cannot be used: " in broken and "broken.yaml" in broken
    assert long.endswith(" …") and len(long) < 150


def test_a_user_s_file_does_not_stand_in_for_one_built_in() -> None:
    user_folder().mkdir(parents=True)
    (user_folder() / "8gb.yaml").write_text("train: {epochs: 1}\n")
    assert find_preset("8gb").is_built_in
    assert list(all_presets()) == list(BUILT_IN)


def test_a_file_that_was_spoilt_is_named_when_it_is_used() -> None:
    user_folder().mkdir(parents=True)
    (user_folder() / "mine.yaml").write_text("output_dir: s3://elsewhere\n")
    with pytest.raises(BadSpecError, match=re.escape("output_dir (preset mine)")):
        resolve(arguments={"audio_dir": "a", "output_dir": "o"}, preset="mine")
