"""Flags of the original Side-Step: they mean what they meant there, or it is said what stands for them."""

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import ExitCode
from tests.facts import tells
from tests.fake_tasks import Tasks

TRAIN = ["train", "--output-dir", "o", "--dataset-dir", "t"]


def spec_of(line: str, tasks: Tasks) -> JobSpec:
    assert main([*TRAIN, *line.split()]) == ExitCode.DONE
    spec: JobSpec = tasks.specs[-1]
    return spec


def test_other_spellings(tasks: Tasks) -> None:
    train = spec_of("-e 3 -r 8 -l 2e-4 -g 2 -b 3 -s 7 --cfg-ratio 0.1", tasks).train
    assert (train.epochs, train.adapter.rank, train.lr) == (3, 8, 2e-4)
    assert (train.batch_size, train.samples_per_step) == (3, 6)
    assert (train.accumulation, train.seed, train.cfg_dropout) == (2, 7, 0.1)


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("--num-workers 4", "--num-workers"),
        ("-y", "--yes"),
        ("--no-pin-memory", "--pin-memory"),
    ],
)
def test_what_changes_nothing_is_said(
    line: str, flag: str, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spec_of(line, tasks) == spec_of("", tasks)
    said = capsys.readouterr().err
    assert said.count(f"{flag} changes nothing") == 1


def test_what_is_for_generating_is_kept_and_changes_no_training(tasks: Tasks) -> None:
    spec, plain = spec_of("--shift 3 --num-inference-steps 8", tasks), spec_of("", tasks)
    assert (spec.inference.shift, spec.inference.num_inference_steps) == (3, 8)
    assert spec.changed({"inference": plain.inference.model_dump()}) == plain
    assert main([*TRAIN, "--shift", "0"]) == ExitCode.BAD_SPEC


def test_the_mlp_is_added_to_the_targets(tasks: Tasks) -> None:
    mlp = ("gate_proj", "up_proj", "down_proj")
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert spec_of("--target-mlp", tasks).train.adapter.target_modules == (*attention, *mlp)
    chosen = spec_of("--target-modules v_proj,up_proj --target-mlp", tasks).train.adapter.target_modules
    assert chosen == ("v_proj", "up_proj", "gate_proj", "down_proj")
    assert spec_of("--no-target-mlp", tasks).train.adapter.target_modules == attention


def test_what_there_is_not_says_what_stands_for_it(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--log-dir", "x"]) == ExitCode.BAD_SPEC
    assert tells(capsys.readouterr().err, "--log-dir", "<output_dir>/runs")


@pytest.mark.parametrize("written", ["0", "0.0", 0, 0.0])
def test_no_limit_of_a_song_is_the_longest(written: object) -> None:
    places = {"audio_dir": "a", "output_dir": "o"}
    assert (
        JobSpec.model_validate({**places, "preprocess": {"max_duration": written}}).preprocess.max_duration
        == 600
    )


def test_help_does_not_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help-all"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "--num-workers" not in shown and "--cfg-ratio" in shown
