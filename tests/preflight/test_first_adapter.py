"""What training would refuse to begin from is refused by its header, before anything is pulled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.adapters.warm import begin_from
from sidestep.config.adapter import AdapterSpec
from sidestep.config.job import JobSpec
from sidestep.lifecycle.adapter_files import find_adapter
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Finding, run_checks
from sidestep.preflight.places import input_checks
from sidestep.runtime.errors import BadDataError, SideStepError
from tests.facts import tells
from tests.songs import MakeSpec

Make = Callable[..., Path]
APP = "adapter_model.safetensors"


@pytest.fixture
def make_adapter(tiny_checkpoints: Path, tmp_path: Path) -> Make:
    """Publishes an adapter that has an effect in each module, into a folder of its own."""

    def make(name: str = "first", **spec: Any) -> Path:
        model = load_model(tiny_checkpoints, "base", parts=("transformer",))
        adapter = adapters.inject(model.transformer, AdapterSpec(**{"rank": 4} | spec), seed=1)
        with torch.no_grad():
            for parameter in adapter.parameters().values():
                parameter.add_(0.01)
        folder = tmp_path / name
        folder.mkdir()
        for file, data in adapters.publish(adapter).items():
            (folder / file).write_bytes(data)
        return folder

    return make


def finding(spec: JobSpec) -> Finding:
    return {one.name: one for one in run_checks(input_checks(Job(spec)))}["train.init_from"]


def said_in_training(spec: JobSpec) -> str | None:
    """What the training says when its adapter is to begin so, with the weights at hand."""

    def model() -> Any:
        return load_model(Path(spec.checkpoint_dir), "base", parts=("transformer",)).transformer

    train = spec.train
    weights = find_adapter(str(train.init_from), spec.storage).place
    own, source = adapters.inject(model(), train.adapter, seed=1), adapters.load(model(), weights)
    try:
        begin_from(own, source, weights, resize=train.init_resize)
    except SideStepError as error:
        return str(error)
    return None


LOKR = {"type": "lokr", "rank": 2}
DORA = {"weight_decompose": True}
MLP = {"target_modules": ("gate_proj", "up_proj")}


@pytest.mark.parametrize(
    ("first", "own", "resize", "is_refused"),
    [
        ({}, {}, False, False),
        ({}, {"rank": 2}, False, True),
        ({}, {"rank": 2}, True, False),
        ({"rank_pattern": {"v_proj": 3}}, {}, False, True),
        ({"rank_pattern": {"v_proj": 3}}, {"rank_pattern": {"v_proj": 3}}, False, False),
        ({}, {"attention": "self"}, True, True),  # nothing brings the others into the run
        ({"attention": "self"}, {}, False, True),
        ({"attention": "self"}, {}, True, False),
        (MLP, MLP, False, False),  # a published one has a q_proj of zeros beside
        (MLP, {}, True, True),
        ({}, LOKR, True, True),
        (LOKR, {}, False, True),
        (LOKR, {}, True, False),
        (LOKR, LOKR, False, False),
        (LOKR | {"weight_decompose": True}, {}, True, True),
        (LOKR | {"attention": "cross"}, LOKR, False, True),
        (DORA, {}, True, True),
        (DORA, DORA, False, False),
        (DORA, DORA | {"rank": 2}, False, True),
        (DORA, LOKR, True, True),
        (DORA | MLP, DORA | MLP, False, False),
        ({}, DORA, False, False),
        (LOKR | DORA, DORA, True, True),
    ],
)
def test_what_its_header_tells_is_what_training_says(
    make_spec: MakeSpec,
    make_adapter: Make,
    first: dict[str, Any],
    own: dict[str, Any],
    resize: bool,
    is_refused: bool,
) -> None:
    place = make_adapter(**first)
    spec = make_spec(adapter={"rank": 4} | own, init_from=place, init_resize=resize)
    found, said = finding(spec), said_in_training(spec)
    assert (found.state == "FAIL") is is_refused is (said is not None), (found.said, said)
    if said:
        assert str(found.error) == said


def test_names_of_other_trainers_and_of_a_file_alone(
    make_spec: MakeSpec, make_adapter: Make, tmp_path: Path
) -> None:
    """ComfyUI's names, LyCORIS' with underscores, and matrices that are down and up."""
    tensors = load_file(make_adapter() / APP)
    paths = {name: name.removeprefix("base_model.model.") for name in tensors}
    forms = {
        "comfy": {name: f"diffusion_model.decoder.{path}" for name, path in paths.items()},
        "lycoris": {
            name: f"lycoris_{path.removesuffix('.weight')[:-7].replace('.', '_')}.{side}.weight"
            for name, path in paths.items()
            for side in ("lora_down" if "lora_A" in path else "lora_up",)
        },
    }
    for form, names in forms.items():
        file = tmp_path / f"{form}.safetensors"
        save_file({names[name]: tensor for name, tensor in tensors.items()}, file)
        assert finding(make_spec(init_from=file)).state == "ok"
        refused = make_spec(init_from=file, adapter={"rank": 8})
        assert tells(finding(refused).said, "rank is 4", "run's is 8", "--resize")
        assert str(finding(refused).error) == said_in_training(refused)


def test_a_model_is_no_adapter(make_spec: MakeSpec, tiny_checkpoints: Path, tmp_path: Path) -> None:
    model = next(tiny_checkpoints.glob("*base*"))
    found = finding(make_spec(init_from=model))
    assert isinstance(found.error, BadDataError)
    assert tells(found.said, model.name, "is a model", "checkpoint_dir")
    file = tmp_path / "something.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    found = finding(make_spec(init_from=file))
    assert isinstance(found.error, BadDataError) and tells(found.said, file, "first x")


def test_without_a_model_kinds_are_compared(make_spec: MakeSpec, make_adapter: Make, tmp_path: Path) -> None:
    place = make_adapter()
    nowhere = {"init_from": place, "checkpoint_dir": tmp_path / "nowhere"}
    assert finding(make_spec(**nowhere, adapter={"rank": 8})).state == "ok"
    assert tells(finding(make_spec(**nowhere, adapter=LOKR)).said, "it is a LoRA", "is a LoKR")


def test_modules_without_an_effect_are_no_hindrance(make_spec: MakeSpec, make_adapter: Make) -> None:
    """Of other ranks, or of layers that the run does not train; a late number is one, too."""
    file = make_adapter(rank=64, rank_pattern={"v_proj": 3}) / APP
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if ("v_proj" in name or "cross" in name) and "lora_B" in name:
            tensor.zero_()
    save_file(tensors, file)
    spec = make_spec(adapter={"rank": 64, "attention": "self"}, init_from=file.parent)
    assert finding(spec).state == "ok" and said_in_training(spec) is None
    late = next(name for name in tensors if "cross_attn.q_proj.lora_B" in name)
    assert tensors[late].nbytes > 4096
    tensors[late].flatten()[-1] = 1
    save_file(tensors, file)
    assert tells(finding(spec).said, late.removeprefix("base_model.model.").removesuffix(".lora_B.weight"))
    assert str(finding(spec).error) == said_in_training(spec)
