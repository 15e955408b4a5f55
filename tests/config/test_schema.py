"""The schema: what it takes, what it refuses, and that it says so much of every field."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from sidestep.config.fields import nearest_field, spec_fields, spec_sections
from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml, read_yaml
from sidestep.runtime.errors import BadSpecError
from tests.facts import facts

PLACES = {"audio_dir": "songs", "output_dir": "out"}


def test_every_field_is_described_with_its_range() -> None:
    unbounded = set()
    for field in spec_fields().values():
        assert field.info.description, field.name
        assert field.info.description.endswith("."), field.name
        limits = {"minimum", "exclusiveMinimum"}
        if field.types & {"integer", "number"} and not any(
            limits & set(kind) for kind in field.schema.get("anyOf", [field.schema])
        ):
            unbounded.add(field.name)
    assert unbounded <= {"preprocess.float_scale"}  # one of four numbers, as a validator says
    assert all(section.__doc__ for section in spec_sections().values())


def test_the_json_schema_is_valid_and_takes_what_the_spec_takes() -> None:
    schema = JobSpec.model_json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert schema["title"] == "Side-Step job spec"
    assert validator.is_valid(JobSpec(**PLACES).model_dump(mode="json"))
    assert not validator.is_valid({"train": {"epochs": 0}})
    assert not validator.is_valid({"trian": {}})
    assert not validator.is_valid({"storage": {"endpoint_url": "localhost:9000"}})


def test_round_trip_through_json_and_yaml() -> None:
    spec = JobSpec(
        name="0o17",
        **PLACES,
        train={"lr": 1e-5, "max_steps": 3, "adapter": {"rank_pattern": {"layers.0.self_attn.q_proj": 8}}},
    )
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    Path("job.yaml").write_bytes(dump_yaml(spec.model_dump(mode="json")))
    assert JobSpec.model_validate(read_yaml("job.yaml")[0]) == spec
    assert JobSpec.load("job.yaml") == spec
    assert json.loads(spec.model_dump_json()) == spec.model_dump(mode="json")


@pytest.mark.parametrize("words", ["q_proj v_proj", "q_proj,v_proj", ["q_proj", "v_proj"], ["q_proj,v_proj"]])
def test_lists_as_people_write_them(words: object) -> None:
    spec = JobSpec(**PLACES, train={"adapter": {"target_modules": words}})
    assert spec.train.adapter.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "pairs",
    [
        *("q_proj=8 v_proj=16", ["q_proj=8", "v_proj=16"], {"q_proj": 8, "v_proj": 16}),
        *('{"q_proj": 8, "v_proj": 16}', ['{"q_proj": 8, "v_proj": 16}']),
    ],
)
def test_mappings_as_people_write_them(pairs: object) -> None:
    spec = JobSpec(**PLACES, train={"adapter": {"rank_pattern": pairs}})
    assert spec.train.adapter.rank_pattern == {"q_proj": 8, "v_proj": 16}


@pytest.mark.parametrize("pairs", ['{"q_proj": 8, "v', ['{"q_proj": 8, "v_proj" 16}']])
def test_broken_json_is_called_that(pairs: object) -> None:
    with pytest.raises(ValidationError, match=facts("is not JSON: ", " at ")):
        JobSpec(**PLACES, train={"adapter": {"rank_pattern": pairs}})
    odd = JobSpec(**PLACES, train={"repeats": "{a}.wav=2"})
    assert odd.train.repeats == {"{a}.wav": 2}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Night Drive", "c [x]", "Stop, Go", "e"], ("Night Drive", "c [x]", "Stop, Go", "e")),
        ('["Night Drive", "e"]', ("Night Drive", "e")),
        ("[ab]* e,f", ("[ab]*", "e", "f")),  # no JSON
        ("[1]", ("[1]",)),  # a list of numbers, and no names
    ],
)
def test_names_of_songs_may_have_spaces(given: object, expected: tuple[str, ...]) -> None:
    held_out = JobSpec.load(None, **PLACES, train={"validation": {"songs": given}})
    assert held_out.train.validation.songs == expected
    modules = JobSpec(**PLACES, train={"adapter": {"target_modules": given}}).train.adapter.target_modules
    assert all(" " not in module for module in modules) or isinstance(given, str)


@pytest.mark.parametrize("field", ["repeats", "weights"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Night Drive=2", "a=b=3", "Stop, Go=4"], {"Night Drive": 2, "a=b": 3, "Stop, Go": 4}),
        ('{"Night Drive": 2, "e": 3}', {"Night Drive": 2, "e": 3}),
        ("a=2,b=3 c=4", {"a": 2, "b": 3, "c": 4}),
        ('["Night Drive=2"]', {"Night Drive": 2}),
    ],
)
def test_pairs_of_songs_too(field: str, given: object, expected: dict[str, int]) -> None:
    assert getattr(JobSpec.load(None, **PLACES, train={field: given}).train, field) == expected


@pytest.mark.parametrize("off", ["every_epochs", "draws", "window"])
def test_what_is_for_held_out_songs_needs_some(off: str) -> None:
    with pytest.raises(BadSpecError, match=facts(f"train.validation.{off}", "share", "songs")):
        JobSpec.load(None, **PLACES, train={"validation": {off: 7}})
    for fine in ({off: 7, "share": 0.1}, {off: 7, "songs": ["a"]}):
        assert getattr(JobSpec(**PLACES, train={"validation": fine}).train.validation, off) == 7
    default = JobSpec(**PLACES)
    assert JobSpec(**default.model_dump()) == default, "a run's own job.yaml says them all"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["warm night, slow guitar", "blues"], ("warm night, slow guitar", "blues")),
        ("warm night, slow guitar", ("warm night, slow guitar",)),  # a variable, or one in a file
        ('["blues\\n[verse]\\nrain", "waltz"]', ("blues\n[verse]\nrain", "waltz")),
        ("[verse] alone", ("[verse] alone",)),  # no JSON
    ],
)
def test_prompts_are_whole_texts(given: object, expected: tuple[str, ...]) -> None:
    sample = {"every_epochs": 5, "prompts": given}
    assert JobSpec.load(None, **PLACES, train={"sample": sample}).train.sample.prompts == expected


@pytest.mark.parametrize("off", [{"seconds": 7}, {"prompts": ["blues"]}])
def test_what_is_for_sounds_needs_some(off: dict[str, object]) -> None:
    (name,) = off
    with pytest.raises(BadSpecError, match=facts(f"train.sample.{name}", "train.sample.every_epochs")):
        JobSpec.load(None, **PLACES, train={"sample": off})
    assert JobSpec(**PLACES, train={"sample": {**off, "every_epochs": 1}}).train.sample.is_on
    assert not JobSpec(**PLACES).train.sample.is_on


def test_what_counts_as_better_is_for_patience() -> None:
    held_out = {"validation": {"share": 0.1}}
    with pytest.raises(BadSpecError, match=facts("train.stop.min_delta", "train.stop.patience")):
        JobSpec.load(None, **PLACES, train={**held_out, "stop": {"min_delta": 0.3}})
    stop = JobSpec(**PLACES, train={**held_out, "stop": {"min_delta": 0.3, "patience": 2}}).train.stop
    assert stop.min_delta == 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": {"epochs": True}},
        {"train": {"max_steps": True}},
        {"train": {"lr": True}},
        {"train": {"lr": float("nan")}},
        {"train": {"lr": float("inf")}},
        {"train": {"adapter": {"target_modules": []}}},
        {"train": {"adapter": {"rank_pattern": "q_proj"}}},
        {"train": {"adapter": {"rank_pattern": {"q_proj": 0}}}},
        {"model_variant": "../other"},
        {"name": "a/b"},
        {"name": ""},
        {"name": False},
        {"audio_dir": ""},
        {"runtime": {"device": "gpu"}},
        {"runtime": {"compile": True}},
        {"runtime": {"precision": False}},
        {"unknown": 1},
    ],
)
def test_what_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JobSpec(**{**PLACES, **wrong})


@pytest.mark.parametrize(
    ("place", "fine"),
    [
        ("s3://KEY:hunter2@bucket/songs", False),
        ("s3://KEY:hun/ter2@bucket/songs", False),
        ("s3://bucket/songs", True),
        ("s3://bucket/a:b@c", True),
        ("az://container@account.dfs.core.windows.net/songs", True),
        ("./a:b@c", True),
        ("/songs/mix@home", True),
        (Path("songs"), True),
    ],
)
def test_places_have_no_passwords(place: str | Path, fine: bool) -> None:
    if fine:
        assert JobSpec(audio_dir=place, output_dir="out").audio_dir == str(place)
        return
    with pytest.raises(ValidationError, match="credentials") as refused:
        JobSpec(audio_dir=place, output_dir="out")
    assert "ter2" not in str(refused.value)


def test_an_endpoint_may_have_a_port_and_no_password() -> None:
    spec = JobSpec(**PLACES, storage={"endpoint_url": "http://127.0.0.1:9000"})
    assert spec.storage.endpoint_url == "http://127.0.0.1:9000"
    with pytest.raises(ValidationError, match="credentials"):
        JobSpec(**PLACES, storage={"endpoint_url": "https://me:secret@host:9000"})


def test_the_mode_is_also_spelt_fixed() -> None:
    assert JobSpec(**PLACES, train={"mode": "fixed"}).train.mode == "corrected"


def test_off_without_quotes_is_off_for_every_reader_of_yaml() -> None:
    Path("job.yaml").write_text("runtime: {compile: off}\n")
    assert read_yaml("job.yaml")[0] == {"runtime": {"compile": "off"}}
    assert JobSpec(**PLACES, runtime={"compile": False}).runtime.compile == "off"


def test_where_tensors_and_results_go() -> None:
    assert JobSpec(**PLACES).tensors_place == "out/tensors"
    assert JobSpec(**PLACES, dataset_dir="t").tensors_place == "t"
    assert JobSpec(task="preprocess", audio_dir="a", dataset_dir="t").output_place == "t"
    assert JobSpec(task="estimate", dataset_dir="t", name="x").output_place == "output/x"
    assert JobSpec(**PLACES).output_place == "out"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (("lr",), ("train", "lr")),
        (("learning_rate",), ("train", "lr")),
        (("tensor_output",), ("dataset_dir",)),
        (("outptu_dir",), ("output_dir",)),
        (("train", "epohcs"), ("train", "epochs")),
        (("train_lr",), ("train", "lr")),
        (("train", "rank"), ("train", "adapter", "rank")),
        (("train", "adapter", "Target-Modules"), ("train", "adapter", "target_modules")),
        (("api_token",), None),
    ],
)
def test_the_nearest_name(written: tuple[str, ...], meant: tuple[str, ...] | None) -> None:
    assert nearest_field(written) == meant


def test_vanilla_mode_takes_no_dropout_of_conditions() -> None:
    for dropout in (0, 0.15):
        assert JobSpec(**PLACES, train={"mode": "vanilla", "cfg_dropout": dropout})
    with pytest.raises(ValidationError, match="corrected"):
        JobSpec(**PLACES, train={"mode": "vanilla", "cfg_dropout": 0.3})
    assert JobSpec(**PLACES, train={"mode": "fixed", "cfg_dropout": 0.3})


def test_a_field_says_of_itself_what_it_is() -> None:
    """Beside its schema, which `sidestep schema` prints and others read."""
    fields = spec_fields().values()
    assert [field.name for field in fields if field.is_place] == [
        *("checkpoint_dir", "audio_dir", "dataset_json", "dataset_dir", "output_dir"),
        *("train.adapter.rank_from", "train.resume_from", "train.init_from"),
    ]
    assert {field.path[-1]: field.adapter_types for field in fields if field.adapter_types} == {
        **dict.fromkeys(("rank_pattern", "alpha_pattern"), ("lora",)),
        "weight_decompose": ("lora", "lokr"),
        **dict.fromkeys(("factor", "decompose_both", "use_tucker", "use_scalar"), ("lokr",)),
    }


def test_a_lokr_has_no_dropout_but_where_it_is_asked_for() -> None:
    def dropout(**adapter: object) -> float:
        return JobSpec(**PLACES, train={"adapter": adapter}).train.adapter.dropout

    assert dropout() == dropout(type="lora") == 0.1
    assert dropout(type="lokr") == 0
    assert dropout(type="lokr", dropout=0.1) == 0.1


def test_chunks_that_cover_a_song_have_a_length() -> None:
    """Nothing is set in vain: whole songs are not cut."""
    assert JobSpec(**PLACES, train={"chunks": "cover", "chunk_duration": 30}).train.chunks == "cover"
    assert JobSpec(**PLACES, train={"chunk_duration": 30}).train.chunks == "random"
    with pytest.raises(ValidationError, match="chunk_duration"):
        JobSpec(**PLACES, train={"chunks": "cover"})


@pytest.mark.parametrize(
    ("type_", "others"),
    [
        ("lokr", {"alpha_pattern": "v_proj=3"}),
        ("lora", {"factor": 4}),
        ("lora", {"use_scalar": True}),
    ],
)
def test_the_other_type_s_settings_are_refused(type_: str, others: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"adapter.type is {type_}"):
        JobSpec(**PLACES, train={"adapter": {"type": type_, **others}})
    other = "lora" if type_ == "lokr" else "lokr"
    assert JobSpec(**PLACES, train={"adapter": {"type": other, **others}})


def test_a_job_with_other_values_is_checked_anew() -> None:
    spec = JobSpec(**PLACES, train={"adapter": {"rank": 16, "rank_pattern": {"v_proj": 8}}})
    other = spec.changed({"task": "train", "train.adapter.alpha": 8, "runtime.precision": "bf16"})
    assert (other.task, other.train.adapter.alpha, other.runtime.precision) == ("train", 8, "bf16")
    assert other.train.adapter.rank_pattern == {"v_proj": 8} and spec.task == "pipeline"
    assert spec.changed({}) == spec
    with pytest.raises(ValidationError, match="epochs"):
        spec.changed({"train.epochs": 0})
    with pytest.raises(ValidationError, match="epohcs"):
        spec.changed({"train.epohcs": 1})
