"""Four sources make one spec; all that is wrong in any of them is one report that says where."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidestep.config import sources
from sidestep.config.adapter import AdapterSpec
from sidestep.config.fields import spec_fields, variable
from sidestep.config.job import JobSpec, problem_with, resolve
from sidestep.config.problems import Problem
from sidestep.config.sources import FileLine, Given, from_environment
from sidestep.runtime.errors import BadSpecError, MissingInputError, UsageError

BASE = "audio_dir: songs\noutput_dir: out\n"


def job(text: str, name: str = "job.yaml") -> str:
    Path(name).write_text(text)
    return name


def problems(**given: Any) -> list[str]:
    """The lines of the report: `field = value (origin): what is wrong`."""
    with pytest.raises(BadSpecError) as refused:
        resolve(**{"environ": {}, **given})
    return [line.strip() for line in str(refused.value).splitlines()[1:]]


def has_facts(line: str, subject: str, *facts: str) -> bool:
    """Whether a problem is about `subject`, and its message has the facts."""
    about, _, message = line.partition("): ")
    return f"{about})" == subject and all(fact in message for fact in facts)


def test_flags_over_variables_over_yaml_over_defaults() -> None:
    config = job(BASE + "train: {lr: 1e-2, epochs: 2, seed: 3, adapter: {rank: 4}}\n")
    spec, origins = resolve(
        flags=[Given(("train", "lr"), "1e-4", "--lr")],
        environ={"SIDESTEP_TRAIN__LR": "1e-3", "SIDESTEP_TRAIN__EPOCHS": "20", "HOME": "/root"},
        config=config,
    )
    train = spec.train
    assert (train.lr, train.epochs, train.seed, train.adapter.rank) == (1e-4, 20, 3, 4)
    assert (train.adapter.alpha, train.warmup_steps) == (8, 100)  # alpha: twice the rank
    assert origins["train.lr"] == "--lr"
    assert origins["train.epochs"] == "SIDESTEP_TRAIN__EPOCHS"
    assert origins["train.seed"] == "job.yaml:3"
    assert origins["train.adapter.rank"] == "job.yaml:3"
    assert origins["train.adapter.alpha"] == "default"


def test_python_arguments_lie_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(BASE + "train:\n  lr: 1e-2\n  epochs: 5\n")
    monkeypatch.setenv("SIDESTEP_TRAIN__EPOCHS", "3")
    monkeypatch.setenv("SIDESTEP_NAME", "mine")
    spec = JobSpec.load(config, train={"epochs": 2}, audio_dir=Path("other"))
    assert (spec.train.epochs, spec.train.lr, spec.name, spec.audio_dir) == (2, 1e-2, "mine", "other")
    with pytest.raises(BadSpecError, match=r"train\.epochs = 0 \(argument\)"):
        JobSpec.load(config, train={"epochs": 0})
    with pytest.raises(BadSpecError, match=r"epochs \(argument\).*train\.epochs"):
        JobSpec.load(config, epochs=1)


def test_where_the_file_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("flag", "variable", "etc"):
        job(f"{BASE}name: {name}\n", f"{name}.yaml")
    monkeypatch.setattr(sources, "DEFAULT_CONFIG", tmp_path / "etc.yaml")
    variable = {"SIDESTEP_CONFIG": "variable.yaml"}
    assert resolve(environ=variable, config="flag.yaml")[0].name == "flag"
    assert resolve(environ=variable)[0].name == "variable"
    assert resolve(environ={"SIDESTEP_CONFIG": ""})[0].name == "etc"
    monkeypatch.setattr(sources, "DEFAULT_CONFIG", tmp_path / "none.yaml")
    assert resolve(environ={}, arguments={"audio_dir": "a", "output_dir": "o"})[0].name == "my-lora"
    with pytest.raises(MissingInputError, match=r"gone\.yaml.*SIDESTEP_CONFIG"):
        resolve(environ={"SIDESTEP_CONFIG": "gone.yaml"})


def test_all_problems_of_all_sources_at_once() -> None:
    config = job(
        "name: no way\n"
        "outptu_dir: out\n"
        "train:\n"
        "  epochs: -1\n"
        "  adapter:\n"
        "    type: lorra\n"
        "    rank_patern: {a: 1}\n"
        "train.epochs: 3\n"
        "storage: 3\n"
        "adapter: {rank: 3}\n"
    )
    environ = {
        "SIDESTEP_TRAIN__WARMUP_STEPS": "soon",
        "SIDESTEP_TRAIN_LR": "1",
        "SIDESTEP_TRAIN": "1",
        "SIDESTEP_CORRELATION": "1",
    }
    flags = [Given(("train", "lr"), "11", "--lr"), Given(("runtime", "device"), "gpu", "--device")]
    expected = [
        ("correlation (SIDESTEP_CORRELATION)", "sidestep schema"),
        ("train (SIDESTEP_TRAIN)", "mode, adapter, epochs, "),
        ("train_lr (SIDESTEP_TRAIN_LR)", "SIDESTEP_TRAIN__LR"),
        ("outptu_dir (job.yaml:2)", "output_dir"),
        ("train.adapter.rank_patern (job.yaml:7)", "train.adapter.rank_pattern"),
        ("train.epochs (job.yaml:8)", "train: {epochs: …}"),
        ("storage (job.yaml:9)", "endpoint_url, region, "),
        ("adapter (job.yaml:10)", "train.adapter"),
        ("name = 'no way' (job.yaml:1)", "letters, digits"),
        ("train.adapter.type = 'lorra' (job.yaml:6)", "lora, lokr"),
        ("train.epochs = -1 (job.yaml:4)", "whole number", "at least 1"),
        ("train.lr = '11' (--lr)", "more than 0", "at most 10"),
        ("train.warmup_steps = 'soon' (SIDESTEP_TRAIN__WARMUP_STEPS)", "whole number", "at least 0"),
        ("runtime.device = 'gpu' (--device)", "auto", "cpu", "cuda:N"),
        ("audio_dir (not given)", "pipeline"),
        ("output_dir (not given)", "pipeline"),
    ]
    found = problems(flags=flags, environ=environ, config=config)
    for line, facts in zip(found, expected, strict=True):
        assert has_facts(line, *facts), line


def test_an_empty_place_is_one_problem() -> None:
    given = Given(("output_dir",), "", "--output-dir")
    [problem] = problems(flags=[given], arguments={"task": "train"})
    assert has_facts(problem, "output_dir = '' (--output-dir)", "empty")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("adaptor: {type: lora}", "train.adapter"),
        ("adaptor: lora", "train.adapter"),
        ("train: {adaptor: {rank: 3}}", "train.adapter"),
        ("train: {rnk: 3}", "train.adapter.rank"),
        ("train: {attention: self}", "train.adapter.attention"),  # not runtime's
        ("trian: {lr: 1}", "train"),
        ("learning_rate: 1", "train.lr"),
        ("batchsize: 1", "train.batch_size"),
        ("train: {xs: 1}", None),  # its likeness to train.lr is that of `train` alone
    ],
)
def test_the_name_that_was_meant(written: str, meant: str | None) -> None:
    problem = problems(config=job(f"{BASE}{written}\n"))[0]
    assert "(job.yaml:3)" in problem and problem.endswith(f" {meant}?" if meant else "all fields")


def test_problems_inside_lists_and_mappings() -> None:
    config = job(
        BASE + "train:\n  adapter:\n    target_modules: [q_proj, 3]\n    rank_pattern: {v_proj: 0}\n"
    )
    modules, rank = problems(config=config)
    assert has_facts(modules, "train.adapter.target_modules.1 = 3 (job.yaml:5)", "text", "quotes")
    assert has_facts(rank, "train.adapter.rank_pattern.v_proj = 0 (job.yaml:6)", "at least 1", "at most 4096")


def test_a_flag_s_user_is_told_nothing_of_null() -> None:
    path, places = ("train", "max_steps"), {"audio_dir": "a", "output_dir": "o"}
    [problem] = problems(flags=[Given(path, "0", "--max-steps")], arguments=places)
    assert has_facts(problem, "train.max_steps = '0' (--max-steps)", "at least 1") and "null" not in problem
    [problem] = problems(environ={"SIDESTEP_TRAIN__MAX_STEPS": "0"}, arguments=places)
    assert has_facts(problem, "train.max_steps = '0' (SIDESTEP_TRAIN__MAX_STEPS)", "at least 1", "null")


def test_a_number_where_text_is_needed() -> None:
    [problem] = problems(config=job(BASE + "name: 2026\n"))
    assert has_facts(problem, "name = 2026 (job.yaml:3)", "text", "quotes")
    assert resolve(environ={}, config=job(BASE + "name: no\nmodel_variant: on\n"))[0].name == "no"


def test_the_command_line_s_own_problems_come_along() -> None:
    with pytest.raises(UsageError) as refused:
        resolve(
            arguments={"train": {"lr": 0}, "audio_dir": "a"},
            environ={},
            usage=[Problem("--lrr", "is not known", "command line")],
        )
    for part in ("3 problems", "--lrr (command line)", "train.lr = 0 (argument)", "output_dir (not given)"):
        assert part in str(refused.value)


def test_secrets_are_never_echoed() -> None:
    config = job(
        "aws_secret_access_key: hunter2\n"
        "audio_dir: s3://KEY:hunter2@bucket/songs\n"
        "storage: {endpoint_url: 'https://me:hunter2@host'}\n"
        "train: {resume_from: 's3://KEY:hun/ter2@bucket'}\n"
    )
    with pytest.raises(BadSpecError) as refused:
        resolve(environ={"SIDESTEP_API_TOKEN": "hunter2"}, config=config)
    message = str(refused.value)
    assert "aws_secret_access_key (job.yaml:1): is not known" in message
    assert "audio_dir = 's3://***@bucket/songs' (job.yaml:2): has a password in it" in message
    assert "hun" not in message
    assert "ter2" not in message
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    "name", ["SIDESTEP_SERVICE_HOST", "SIDESTEP_PORT_6006_TCP_ADDR", "SIDESTEP_UI_SERVICE_PORT_HTTP"]
)
def test_variables_that_kubernetes_adds_are_not_ours(name: str) -> None:
    assert resolve(environ={name: "10.0.0.1"}, config=job(BASE))


def test_every_setting_has_a_variable_whatever_its_name_ends_in() -> None:
    variables = {variable(path): path for path in spec_fields()}
    given = from_environment(dict.fromkeys(variables, "1"))
    assert {one.origin: one.path for one in given} == variables


@pytest.mark.parametrize("name", ["sidestep_train__lr", "Sidestep_Train__Lr", "sidestep_config"])
def test_a_variable_in_lower_case_is_named(name: str) -> None:
    [problem] = problems(environ={name: "hunter2"}, config=job(BASE))
    assert has_facts(problem, f"{name} ({name})", name.upper()) and "hunter2" not in problem


def test_blanks_around_a_variable_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTEP_OUTPUT_DIR", " s3://studio/o\r\n")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token\n")
    monkeypatch.setenv("SIDESTEP_CONFIG", job(BASE) + "\n")
    assert resolve()[0].output_dir == "s3://studio/o"
    assert os.environ["AWS_SESSION_TOKEN"] == "token"  # for the libraries that read it
    assert resolve(environ={"SIDESTEP_NAME": "x\n"}, config=job(BASE))[0].name == "x"


def test_null_and_empty_in_variables() -> None:
    config = job(BASE + "train: {max_steps: 3}\n")
    environ = {"SIDESTEP_TRAIN__MAX_STEPS": "null", "SIDESTEP_OUTPUT_DIR": ""}
    spec, origins = resolve(environ=environ, config=config)
    assert spec.train.max_steps is None
    assert (spec.output_dir, origins["output_dir"]) == ("out", "job.yaml:2")


def test_lists_in_variables() -> None:
    environ = {
        "SIDESTEP_TRAIN__ADAPTER__TARGET_MODULES": "q_proj v_proj",
        "SIDESTEP_TRAIN__ADAPTER__RANK_PATTERN": "v_proj=16",
        "SIDESTEP_RUNTIME__DETERMINISTIC": "false",
    }
    spec, _ = resolve(environ=environ, config=job(BASE))
    assert spec.train.adapter.target_modules == ("q_proj", "v_proj")
    assert spec.train.adapter.rank_pattern == {"v_proj": 16}
    assert spec.runtime.deterministic is False


def test_an_empty_section_is_no_problem() -> None:
    assert (
        resolve(environ={}, config=job(BASE + "train:\nstorage: {}\n"))[0]
        == resolve(environ={}, config=job(BASE))[0]
    )


def test_a_spec_is_checked_without_torch() -> None:
    code = (
        "import sys; from sidestep import JobSpec; JobSpec.load('job.yaml');"
        "sys.exit(sorted({'torch', 'numpy', 'fsspec', 'transformers'} & set(sys.modules)) or 0)"
    )
    job(BASE)
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("given", "alpha"), [({}, 128), ({"rank": 16}, 32), ({"rank": "16", "alpha": 4}, 4)])
def test_alpha_is_twice_the_rank_where_nobody_says_it(given: dict[str, Any], alpha: float) -> None:
    assert AdapterSpec(**given).alpha == alpha


def test_an_origin_in_the_spec_s_file_knows_the_file() -> None:
    config = job(BASE, "odd:7:name.yaml")
    _, origins = resolve(environ={"SIDESTEP_NAME": "x"}, config=config, preset="quick-test")
    files = {name: origin.file for name, origin in origins.items() if isinstance(origin, FileLine)}
    assert files == {"audio_dir": config, "output_dir": config}
    assert origins["output_dir"] == "odd:7:name.yaml:2"


def test_mappings_of_several_sources_are_laid_over_each_other() -> None:
    config = job(BASE + "train: {adapter: {rank_pattern: {v_proj: 8, q_proj: 4}}}\n")
    arguments = {"train": {"adapter": {"rank_pattern": {"v_proj": 16}}}}
    spec, origins = resolve(environ={}, config=config, arguments=arguments)
    assert spec.train.adapter.rank_pattern == {"v_proj": 16, "q_proj": 4}
    assert origins["train.adapter.rank_pattern"] == "argument"
    flag = Given(("train", "adapter", "rank_pattern"), "v_proj=3", "--rank-pattern")
    assert resolve([flag], environ={}, config=config)[0].train.adapter.rank_pattern == {"v_proj": 3}


def test_what_is_wrong_with_one_field_alone() -> None:
    adapter = ("train", "adapter")
    given = [
        Given(("train", "lr"), "-1", "answer"),
        Given((*adapter, "type"), "lokr", "answer"),
        Given((*adapter, "alpha_pattern"), {"v_proj": 2}, "answer"),
        Given((*adapter, "rank_pattern"), {"v_proj": 0}, "answer"),
    ]
    assert "more than 0" in str(problem_with(given, ("train", "lr")))
    assert "lora alone" in str(problem_with(given, (*adapter, "alpha_pattern")))  # by the other answers
    assert "at least 1" in str(problem_with(given, (*adapter, "rank_pattern")))  # inside it
    for path in ((*adapter, "type"), (*adapter, "rank"), ("train", "l"), ("output_dir",)):
        assert problem_with(given, path) is None


def test_a_section_that_does_not_fit_is_told_at_what_was_given_of_it() -> None:
    places = {"output_dir": "out", "audio_dir": "in"}
    patience = Given(("train", "stop", "patience"), "3", "--patience")
    [problem] = problems(flags=[patience], arguments=places)
    assert has_facts(problem, "train.stop.patience = '3' (--patience)", "train.validation.share")
    [problem] = problems(arguments={**places, "train": {"stop": {"min_delta": 0, "patience": 4}}})
    assert has_facts(problem, "train.stop.patience = 4 (argument)", "train.validation.share")


@pytest.mark.parametrize(
    ("path", "words", "example"),
    [
        (("train", "repeats"), ["a", "b=2"], "ballads/*=3"),
        (("train", "weights"), ["Night Drive"], "demo-*=0.5"),
        (("train", "lr_groups"), ["mlp"], "cross_attn=0.5"),
        (("train", "adapter", "rank_pattern"), ["v_proj"], "v_proj=16"),
    ],
)
def test_what_is_no_pair_is_told_by_one_of_its_kind(
    path: tuple[str, ...], words: list[str], example: str
) -> None:
    [problem] = problems(
        flags=[Given(path, words, "--flag")], arguments={"audio_dir": "a", "output_dir": "o"}
    )
    assert has_facts(problem, f"{'.'.join(path)} = {words} (--flag)", example)
    assert spec_fields()[path].allowed == f"pairs such as {example}"
