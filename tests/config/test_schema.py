"""The schema: what it takes, what it refuses, and that it says so much of every field."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from sidestep.config.fields import nearest_field, spec_fields, spec_sections
from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml, read_yaml

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
    "pairs", ["q_proj=8 v_proj=16", ["q_proj=8", "v_proj=16"], {"q_proj": 8, "v_proj": 16}]
)
def test_mappings_as_people_write_them(pairs: object) -> None:
    spec = JobSpec(**PLACES, train={"adapter": {"rank_pattern": pairs}})
    assert spec.train.adapter.rank_pattern == {"q_proj": 8, "v_proj": 16}


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
        {"audio_dir": ""},
        {"runtime": {"device": "gpu"}},
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
        *("checkpoint_dir", "audio_dir", "dataset_json", "dataset_dir", "output_dir", "train.resume_from"),
    ]
    assert {field.path[-1] for field in fields if field.adapter_type == "lora"} == {
        *("rank_pattern", "alpha_pattern"),
    }
    assert {field.path[-1] for field in fields if field.adapter_type == "lokr"} == {
        *("factor", "decompose_both", "use_tucker", "use_scalar", "weight_decompose"),
    }


def test_a_lokr_has_no_dropout_but_where_it_is_asked_for() -> None:
    def dropout(**adapter: object) -> float:
        return JobSpec(**PLACES, train={"adapter": adapter}).train.adapter.dropout

    assert dropout() == dropout(type="lora") == 0.1
    assert dropout(type="lokr") == 0
    assert dropout(type="lokr", dropout=0.1) == 0.1


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
