"""The flags: one for each field, named as the guide names them, grouped, and explained."""

import argparse
import re

import pytest

from sidestep.commands.flags import add_flags, misspelt_flags
from sidestep.commands.parser import Parser
from sidestep.config.fields import spec_fields
from sidestep.config.groups import GROUPS
from sidestep.config.sources import Given

GUIDE = """
    --checkpoint-dir --model-variant --base-model --audio-dir --dataset-json --tensor-output --dataset-dir
    --output-dir --resume-from --adapter-type --optimizer-type --scheduler --target-modules --log-heavy-every
    --estimate-batches --top-k --epochs --lr
"""


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_flags(parser)
    return parser


def parse(parser: argparse.ArgumentParser, line: str) -> list[Given]:
    given: list[Given] = parser.parse_args(line.split()).given
    return given


def test_every_field_has_a_flag_and_no_two_share_one(parser: argparse.ArgumentParser) -> None:
    flags = [flag for field in spec_fields().values() for flag in field.flags]
    assert len(flags) == len(set(flags))
    assert set(GUIDE.split()) <= set(flags)
    assert all(field.flags[0].startswith("--") for field in spec_fields().values())


def test_a_flag_says_what_was_written_where(parser: argparse.ArgumentParser) -> None:
    assert parse(parser, "--learning-rate 1e-4 --timestep-mu -0.4") == [
        Given(("train", "lr"), "1e-4", "--learning-rate"),
        Given(("train", "timestep_mu"), "-0.4", "--timestep-mu"),
    ]
    assert parse(parser, "--max-steps null --name null") == [
        Given(("train", "max_steps"), None, "--max-steps"),
        Given(("name",), "null", "--name"),
    ]


def test_lists_take_several_words(parser: argparse.ArgumentParser) -> None:
    assert parse(parser, "--target-modules q_proj v_proj --epochs 2")[0].value == ["q_proj", "v_proj"]


def test_switches_go_both_ways(parser: argparse.ArgumentParser) -> None:
    given = parse(parser, "--anonymous --no-gradient-checkpointing")
    assert [(item.value, item.origin) for item in given] == [
        (True, "--anonymous"),
        (False, "--no-gradient-checkpointing"),
    ]


def test_two_names_of_one_field_must_agree(parser: argparse.ArgumentParser) -> None:
    assert len(parse(parser, "--dataset-dir a --tensor-output a")) == 2
    assert parse(parser, "--lr 1 --lr 2")[-1].value == "2"
    with pytest.raises(argparse.ArgumentError, match="--dataset-dir"):
        parse(parser, "--dataset-dir a --tensor-output b")


def test_help_is_grouped_and_complete() -> None:
    parser = Parser(prog="sidestep train")
    add_flags(parser)
    text = " ".join(parser.format_help().split())
    assert "adapter: LoKR: --lokr-factor N LoKR: size of" in text
    assert "--weight-decay X Decoupled weight decay. (0 to 1; default 0.01)" in text
    assert "1.0 for prodigy. (more than 0, at most 10)" in text
    assert "--adapter-type {lora,lokr}" in text
    assert "--optimizer-type, --optimizer NAME adamw; adamw8bit (a quarter" in text
    assert "--base-model NAME The model that a fine-tune was made from; supplies what its own " in text
    assert "leaves out. (turbo, base, sft, xl-turbo, xl-base, xl-sft)" in text
    assert "--target-modules NAME [NAME ...]" in text
    assert "(default q_proj k_proj v_proj o_proj)" in text
    assert "--[no-]deterministic" in text
    assert "--grace-seconds SECONDS" in text
    assert "1.5 times as long. (default on)" in text


def test_every_field_is_in_one_group() -> None:
    assert sorted(path for group in GROUPS for path in group.paths) == sorted(spec_fields())


def test_the_short_help_has_what_is_basic_to_the_tasks_it_is_about() -> None:
    parser = Parser(prog="sidestep preprocess", usage="sidestep preprocess [flags]")
    parser.add_help_all()
    add_flags(parser, about=["preprocess"])
    short, full = parser.format_help(), parser.format_help_all()
    assert "--max-duration" in short
    assert not any(word in short for word in ("--target-db", "training:", "--epochs"))
    assert all(field.flags[0].removeprefix("--") in full for field in spec_fields().values())
    left_out = len(re.findall("^  --", full, re.M)) - len(re.findall("^  --", short, re.M))
    assert f"{left_out} more settings, with good defaults: `sidestep preprocess --help-all`." in short


def test_fields_left_out_have_no_flag() -> None:
    parser = Parser()
    add_flags(parser, leave_out={("task",)})
    assert "--task" not in parser.flags
    assert "--task" not in parser.format_help()


@pytest.mark.parametrize(
    ("rest", "facts"),
    [
        (["--epcohs", "3"], ["--epcohs", "--epochs?"]),
        (["--tensor_output=x"], ["--tensor_output", "--tensor-output?"]),
        (["--train.epochs", "3"], ["--train.epochs", "--epochs?"]),
        (["--api-token=hunter2"], ["--api-token", "--help"]),
        (["--task", "train"], ["--task", "decides task"]),
        (["job.yaml"], ["'job.yaml'", "--config job.yaml"]),
    ],
)
def test_misspelt_flags(rest: list[str], facts: list[str]) -> None:
    parser = Parser()
    add_flags(parser, leave_out={("task",)})
    (problem,) = misspelt_flags(rest, parser.flags)
    assert [fact for fact in facts if fact not in str(problem)] == []
    assert "hunter2" not in str(problem)
