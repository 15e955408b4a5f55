"""The flags: one for each field, named as the guide names them, grouped, and explained."""

import argparse

import pytest

from sidestep.spec.fields import spec_fields
from sidestep.spec.flags import add_flags, misspelt_flags
from sidestep.spec.sources import Given

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
    assert all(flag.startswith("--") for flag in flags)


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
    with pytest.raises(argparse.ArgumentError, match="something else than --dataset-dir"):
        parse(parser, "--dataset-dir a --tensor-output b")


def test_help_is_grouped_and_complete(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    assert "train.adapter: What is trained: the adapter's kind, size and place in the model." in text
    assert "--weight-decay X Decoupled weight decay. (a number, at least 0, at most 1; default 0.01)" in text
    assert "1.0 for prodigy. (a number, more than 0, at most 10 or null)" in text
    assert "--adapter-type {lora,lokr}" in text
    assert "--target-modules NAME [NAME ...]" in text
    assert "(default q_proj k_proj v_proj o_proj)" in text
    assert "--deterministic, --no-deterministic" in text
    assert "10-30 % slower. (default on)" in text


def test_fields_left_out_have_no_flag() -> None:
    parser = argparse.ArgumentParser()
    flags = add_flags(parser, leave_out={("task",)})
    assert "--task" not in flags
    assert "--task" not in parser.format_help()


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (["--epcohs", "3"], "--epcohs (command line): is not known; did you mean --epochs?"),
        (["--tensor_output=x"], "--tensor_output (command line): is not known; did you mean --tensor-out"),
        (["--train.epochs", "3"], "--train.epochs (command line): is not known; did you mean --epochs?"),
        (["--api-token=hunter2"], "--api-token (command line): is not known; --help lists all flags"),
        (["--task", "train"], "--task (command line): cannot be set here: this command decides task"),
        (["job.yaml"], "'job.yaml' (command line): belongs to no flag; a spec file is given as --config "),
    ],
)
def test_misspelt_flags(rest: list[str], message: str) -> None:
    known = add_flags(argparse.ArgumentParser(), leave_out={("task",)})
    (problem,) = misspelt_flags(rest, known)
    assert str(problem).startswith(message)
    assert "hunter2" not in str(problem)
