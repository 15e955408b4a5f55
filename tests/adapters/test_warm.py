"""A new adapter that begins as another one: the same function at once, or a clear refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sidestep import adapters
from sidestep.adapters.export import files_for
from sidestep.adapters.warm import begin_from
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.errors import BadDataError, BadSpecError
from tests.facts import facts

from .conftest import Decode, MakeEffective, NewTransformer
from .test_foreign_lokr import ATTENTION, LOW_RANK, write_as_the_app
from .test_readers import write

ATTENTION_SPEC = {"rank": 4, "target_modules": ("q_proj", "v_proj", "up_proj")}
Begin = Callable[..., tuple[adapters.Adapter, Tensor]]
MakeFile = Callable[[Path], Path]


@pytest.fixture
def begin(new_transformer: NewTransformer, decode: Decode) -> Begin:
    """A new adapter that began as the one at a place, and what the model computes with it."""

    def run(spec: AdapterSpec, place: Path, resize: bool = False) -> tuple[adapters.Adapter, Tensor]:
        transformer = new_transformer()
        adapter = adapters.inject(transformer, spec, seed=5)
        begin_from(adapter, adapters.load(new_transformer(), place), str(place), resize=resize)
        with torch.no_grad():
            return adapter, decode(transformer.eval())

    return run


@pytest.fixture
def loaded(new_transformer: NewTransformer, decode: Decode) -> Callable[[Path], Tensor]:
    """What the model computes with the adapter at a place."""

    def run(place: Path) -> Tensor:
        transformer = new_transformer()
        adapters.load(transformer, place)
        with torch.no_grad():
            return decode(transformer.eval())

    return run


def close(one: Tensor, other: Tensor, most: float = 1e-5) -> bool:
    return bool((one - other).abs().max() <= most)


def lora_pairs(transformer: nn.Module, ranks: dict[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Random A and B at original paths, by the ends of these."""
    from sidestep.adapters.targets import linear_modules

    generator = torch.Generator().manual_seed(11)
    return {
        path: (
            torch.randn(rank, linear.in_features, generator=generator) * 0.1,
            torch.randn(linear.out_features, rank, generator=generator) * 0.1,
        )
        for path, linear in linear_modules(transformer).items()
        for end, rank in ranks.items()
        if path.endswith(end) and path.startswith("layers.")
    }


def peft(pairs: dict[str, tuple[Tensor, Tensor]], prefix: str = "base_model.model.") -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for path, (down, up) in pairs.items():
        made |= {f"{prefix}{path}.lora_A.weight": down, f"{prefix}{path}.lora_B.weight": up}
    return made


def as_app(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """A PEFT folder, as the app and upstream write it, its keys in the order given."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return folder


def by_formula(
    new_transformer: NewTransformer,
    decode: Decode,
    pairs: dict[str, tuple[Tensor, Tensor]],
    scale: Callable[[str], float],
) -> Tensor:
    """What the model computes with W + scale · B·A."""
    from sidestep.acestep.names import diffusers_name

    transformer = new_transformer()
    with torch.no_grad():
        for path, (down, up) in pairs.items():
            weight = transformer.get_parameter(diffusers_name(path) + ".weight")
            weight += scale(path) * up @ down
        output = decode(transformer)
        assert not close(output, decode(new_transformer()), 0.01)
        return output


MIXED = {"q_proj": 4, "v_proj": 2, "up_proj": 4}


@pytest.mark.parametrize("alpha", [2.0, 7.0])
@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 12}, lambda path: 12 / (2 if "v_proj" in path else 4)),
        ({"lora_alpha": 12, "use_rslora": True}, lambda path: 12 / (2 if "v_proj" in path else 4) ** 0.5),
        (
            {"lora_alpha": 4, "alpha_pattern": {"v_proj": 2}},
            lambda path: 1.0,
        ),
        (
            {"lora_alpha": 6, "alpha_pattern": {"layers.1.self_attn.q_proj": 1}},
            lambda path: (1 if path == "layers.1.self_attn.q_proj" else 6) / (2 if "v_proj" in path else 4),
        ),
    ],
    ids=["alpha", "rslora", "folded", "alpha by module"],
)
def test_from_the_app(
    new_transformer: NewTransformer,
    decode: Decode,
    begin: Begin,
    tmp_path: Path,
    alpha: float,
    config: dict[str, Any],
    scale: Callable[[str], float],
) -> None:
    """Whatever the scale of the file, and of the new run."""
    pairs = lora_pairs(new_transformer(), MIXED)
    tensors = dict(sorted(peft(pairs).items(), key=lambda item: item[0][::-1]))
    place = as_app(tmp_path / "theirs", tensors, r=4, rank_pattern={"v_proj": 2}, **config)
    spec = AdapterSpec(**ATTENTION_SPEC, alpha=alpha, rank_pattern={"v_proj": 2})
    adapter, output = begin(spec, place)
    assert close(output, by_formula(new_transformer, decode, pairs, scale))
    assert set(adapter.layers) == set(pairs)
    for name, parameter in adapter.parameters().items():
        assert parameter.any() and parameter.dtype == torch.float32
        if ".lora_A." in name:  # the direction is the file's, the scale is in B
            assert torch.equal(parameter, pairs[name.removesuffix(".lora_A.weight")][0])


def test_alpha_in_the_header_alone(
    new_transformer: NewTransformer, decode: Decode, begin: Begin, tmp_path: Path
) -> None:
    pairs = lora_pairs(new_transformer(), {"q_proj": 4, "up_proj": 4})
    spec = AdapterSpec(rank=4, alpha=8, target_modules=("q_proj", "up_proj"))
    config = {"transformer.r": 4, "transformer.lora_alpha": 6, "transformer.peft_type": "LORA"}
    for file, prefix, header in (
        ("pytorch_lora_weights", "transformer.", {"lora_adapter_metadata": json.dumps(config)}),
        ("comfy", "diffusion_model.decoder.", {"lora_adapter_metadata": json.dumps(config)}),
        ("kohya", "diffusion_model.", {"ss_network_alpha": "6"}),
    ):
        path = tmp_path / f"{file}.safetensors"
        save_file(peft(pairs, prefix), path, header)
        _, output = begin(spec, path)
        assert close(output, by_formula(new_transformer, decode, pairs, lambda path: 1.5))


@pytest.mark.parametrize("prefix", ["base_model.model.", "diffusion_model.decoder.", "lycoris_"])
def test_a_file_for_comfyui_with_alphas_of_its_own(
    new_transformer: NewTransformer, decode: Decode, begin: Begin, tmp_path: Path, prefix: str
) -> None:
    """A tensor wins over the header; where a module has none, it is scaled by 1."""
    pairs = lora_pairs(new_transformer(), {"q_proj": 4, "up_proj": 4})
    tensors: dict[str, Tensor] = {}
    for path, (down, up) in pairs.items():
        name = prefix + (path.replace(".", "_") if prefix == "lycoris_" else path)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if "up_proj" in path:
            tensors[f"{name}.alpha"] = torch.tensor(6.0)
    place = tmp_path / "any name.safetensors"
    save_file(tensors, place, {"format": "pt"})
    _, output = begin(AdapterSpec(rank=4, alpha=8, target_modules=("q_proj", "up_proj")), place)
    expected = by_formula(new_transformer, decode, pairs, lambda path: 1.5 if "up_proj" in path else 1.0)
    assert close(output, expected)


def test_a_file_with_keys_that_nobody_knows_is_refused(
    new_transformer: NewTransformer, begin: Begin, tmp_path: Path
) -> None:
    spec = AdapterSpec(rank=4, target_modules=("q_proj",))
    pairs = lora_pairs(new_transformer(), {"q_proj": 4})
    path = tmp_path / "x.safetensors"
    for prefix, extra, told in (
        ("unet.", {}, "unet.layers.0"),
        ("", {"decoder.layers.0.self_attn.q_proj.bias": torch.ones(4)}, "left over"),
        ("", {"layers.7.self_attn.q_proj.alpha": torch.tensor(4.0)}, "layers.7"),
        ("", {"layers.0.self_attn.q_proj.alpha": torch.tensor(-4.0)}, "-4"),
        ("transformer.", {"layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}, "twice"),
    ):
        save_file(peft(pairs, prefix) | extra, path)
        with pytest.raises(BadDataError, match=facts(path, told)):
            begin(spec, path)


OWN = {
    "lora": AdapterSpec(rank=4, alpha=12, rank_pattern={"v_proj": 3}, target_modules=("q_proj", "v_proj")),
    "mlp": AdapterSpec(rank=3, alpha=5, target_modules=("gate_proj", "down_proj")),
    "dora": AdapterSpec(rank=4, alpha=12, weight_decompose=True, target_modules=("q_proj", "v_proj")),
    "mlp dora": AdapterSpec(rank=3, alpha=5, weight_decompose=True, target_modules=("gate_proj",)),
    "lokr": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4),
    "full": AdapterSpec(type="lokr", rank=16, alpha=5, factor=4),
    "scalar": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, use_scalar=True),
    "both": AdapterSpec(type="lokr", rank=1, alpha=5, factor=4, decompose_both=True),
    "decomposed": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, weight_decompose=True),
}
FORMS = [
    *(
        (kind, form)
        for kind in ("lora", "mlp", "dora", "mlp dora")
        for form in ("own", "app", "diffusers", "comfyui")
    ),
    *((kind, form) for kind in ("lokr", "full", "scalar", "both") for form in ("own", "app", "comfyui")),
    *(("decomposed", form) for form in ("own", "app")),
]


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_from_our_own_in_each_form(
    new_transformer: NewTransformer,
    decode: Decode,
    begin: Begin,
    make_effective: MakeEffective,
    tmp_path: Path,
    kind: str,
    form: str,
) -> None:
    spec = OWN[kind]
    transformer = new_transformer()
    trained = adapters.inject(transformer, spec, seed=1)
    make_effective(trained)
    with torch.no_grad():
        expected = decode(transformer.eval())
    place = write(trained, tmp_path / "adapter")
    if form != "own":
        place = tmp_path / "exported"
        place.mkdir()
        loaded = adapters.load(new_transformer(), tmp_path / "adapter")
        for name, data in files_for(loaded, form, "x").items():
            (place / name).write_bytes(data)
        if form == "comfyui":
            place /= "x.safetensors"
    for alpha in (spec.alpha, 3):
        adapter, output = begin(spec.model_copy(update={"alpha": alpha}), place)
        assert close(output, expected)
        if alpha == spec.alpha:
            pairs = zip(adapter.parameters().items(), trained.parameters().items(), strict=True)
            assert all(torch.allclose(one[1], other[1], atol=1e-6) for one, other in pairs) or spec.use_scalar


def test_a_foreign_lokr_whose_other_modules_are_zero(
    new_transformer: NewTransformer, begin: Begin, loaded: Callable[[Path], Tensor], tmp_path: Path
) -> None:
    for number, more in enumerate(({}, {"weight_decompose": True})):
        place = tmp_path / str(number)
        write_as_the_app(new_transformer(), place, ATTENTION, LOW_RANK | more)
        spec = AdapterSpec(type="lokr", rank=2, alpha=9, factor=4, **more)
        _, output = begin(spec, place)
        assert close(output, loaded(place))


def test_half_precision_is_taken_over_in_float32(
    new_transformer: NewTransformer, decode: Decode, begin: Begin, tmp_path: Path
) -> None:
    pairs = {
        path: (down.bfloat16().float(), up.bfloat16().float())
        for path, (down, up) in lora_pairs(new_transformer(), {"q_proj": 4}).items()
    }
    halves = {name: tensor.bfloat16() for name, tensor in peft(pairs).items()}
    place = as_app(tmp_path / "half", halves, r=4, lora_alpha=12)
    _, output = begin(AdapterSpec(rank=4, alpha=5, target_modules=("q_proj",)), place)
    assert close(output, by_formula(new_transformer, decode, pairs, lambda path: 3.0))


def test_a_row_that_could_never_be_trained_stays_as_it_was_drawn(
    new_transformer: NewTransformer, decode: Decode, begin: Begin, tmp_path: Path
) -> None:
    """Growing adds rows that the file has not; a file may hold such zeros itself."""
    pairs = lora_pairs(new_transformer(), {"q_proj": 3})
    place = as_app(tmp_path / "small", peft(pairs), r=3, lora_alpha=6)
    spec = AdapterSpec(rank=5, alpha=10, target_modules=("q_proj",))
    fresh = adapters.inject(new_transformer(), spec, seed=5).parameters()
    padded = {
        path: (
            torch.cat([down, torch.zeros(2, down.shape[1])]),
            torch.cat([up, torch.zeros(len(up), 2)], dim=1),
        )
        for path, (down, up) in pairs.items()
    }
    large = as_app(tmp_path / "large", peft(padded), r=5, lora_alpha=10)
    for file, resize in ((place, True), (large, False)):
        adapter, output = begin(spec, file, resize)
        assert close(output, by_formula(new_transformer, decode, pairs, lambda path: 2.0))
        for name, parameter in adapter.parameters().items():
            if ".lora_A." in name:
                assert torch.equal(parameter[3:], fresh[name][3:])
                assert torch.equal(parameter[:3], pairs[name.removesuffix(".lora_A.weight")][0])


def test_a_smaller_rank_is_the_nearest_one(
    new_transformer: NewTransformer, begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = lora_pairs(new_transformer(), {"q_proj": 4})
    place = as_app(tmp_path / "theirs", peft(pairs), r=4, lora_alpha=12)
    with caplog.at_level("INFO"):
        adapter, _ = begin(AdapterSpec(rank=2, alpha=7, target_modules=("q_proj",)), place, True)
    shares = []
    for path, (down, up) in pairs.items():
        u, values, v = torch.linalg.svd(3 * up @ down)
        assert close(adapter.update(path), u[:, :2] * values[:2] @ v[:2], 1e-5)
        shares.append(float(values[:2].square().sum() / values.square().sum()))
    assert f"{min(shares):.2%}" in caplog.text
    assert f"{sum(shares) / len(shares):.2%}" in caplog.text


def test_modules_that_the_file_lacks_begin_as_new_ones(
    new_transformer: NewTransformer, decode: Decode, begin: Begin, tmp_path: Path
) -> None:
    pairs = lora_pairs(new_transformer(), {"q_proj": 4})
    place = as_app(tmp_path / "theirs", peft(pairs), r=4, lora_alpha=4)
    spec = AdapterSpec(rank=4, alpha=8, target_modules=("q_proj", "up_proj"))
    with pytest.raises(BadSpecError, match=facts("up_proj", "target_modules to q_proj", "--resize")):
        begin(spec, place)
    adapter, output = begin(spec, place, True)
    fresh = adapters.inject(new_transformer(), spec, seed=5).parameters()
    assert close(output, by_formula(new_transformer, decode, pairs, lambda path: 1.0))
    for name, parameter in adapter.parameters().items():
        if "up_proj" in name:
            assert torch.equal(parameter, fresh[name])


def test_a_lokr_as_the_nearest_lora(
    new_transformer: NewTransformer, begin: Begin, loaded: Callable[[Path], Tensor], tmp_path: Path
) -> None:
    write_as_the_app(new_transformer(), tmp_path, ATTENTION, LOW_RANK)
    with pytest.raises(BadSpecError, match=facts("LoKR", "train.adapter.type to lokr", "--resize")):
        begin(AdapterSpec(rank=8), tmp_path)
    _, output = begin(AdapterSpec(rank=8, alpha=3), tmp_path, True)  # kron of ranks 4 and 2 has rank 8
    assert close(output, loaded(tmp_path), 1e-4)
    write_as_the_app(new_transformer(), tmp_path, ATTENTION, LOW_RANK | {"weight_decompose": True})
    with pytest.raises(BadSpecError, match=facts("weight_decompose")):
        begin(AdapterSpec(rank=8), tmp_path, True)


def test_a_lokr_of_other_sizes_is_refused_with_what_to_set(
    new_transformer: NewTransformer, begin: Begin, tmp_path: Path
) -> None:
    write_as_the_app(new_transformer(), tmp_path, ATTENTION, LOW_RANK)
    spec = AdapterSpec(type="lokr", rank=1, factor=8, decompose_both=True)
    told = ("train.adapter.rank to 2", "train.adapter.factor to 4", "train.adapter.decompose_both to false")
    for resize in (False, True):
        with pytest.raises(BadSpecError, match=facts(*told)):
            begin(spec, tmp_path, resize)
    pairs = lora_pairs(new_transformer(), dict.fromkeys(ATTENTION, 4))
    lora = as_app(tmp_path / "lora", peft(pairs), r=4)
    for resize in (False, True):
        with pytest.raises(BadSpecError, match=facts("train.adapter.type to lora")):
            begin(AdapterSpec(type="lokr", rank=2, factor=4), lora, resize)


def test_a_lora_of_other_ranks_or_modules_is_refused_with_what_to_set(
    new_transformer: NewTransformer, begin: Begin, tmp_path: Path
) -> None:
    pairs = lora_pairs(new_transformer(), {"self_attn.q_proj": 4, "self_attn.v_proj": 2})
    place = as_app(tmp_path / "x", peft(pairs), r=4, rank_pattern={"v_proj": 2}, lora_alpha=4)
    spec = AdapterSpec(rank=4, target_modules=("self_attn.q_proj", "self_attn.v_proj"))
    told = ("rank is 2", "run's is 4", "train.adapter.rank to 4", "rank_pattern to v_proj=2,", "--resize")
    with pytest.raises(BadSpecError, match=facts(*told)):
        begin(spec, place)
    for resize in (False, True):
        with pytest.raises(BadSpecError, match=facts("q_proj", "self_attn.q_proj self_attn.v_proj")):
            begin(AdapterSpec(rank=4, target_modules=("self_attn.v_proj",)), place, resize)


def test_an_adapter_that_adds_nothing_is_refused(
    new_transformer: NewTransformer, begin: Begin, tmp_path: Path
) -> None:
    spec = AdapterSpec(rank=4, alpha=8)
    place = write(adapters.inject(new_transformer(), spec, seed=1), tmp_path / "fresh")
    with pytest.raises(BadDataError, match=facts(place, "zero")):
        begin(spec, place)


def test_the_pair_of_zeros_of_an_mlp_is_no_module_to_train(
    new_transformer: NewTransformer, begin: Begin, make_effective: MakeEffective, tmp_path: Path
) -> None:
    """Nor does it stop one that trains it: that module begins as a new one."""
    trained = adapters.inject(new_transformer(), AdapterSpec(rank=4, target_modules=("up_proj",)), seed=1)
    make_effective(trained)
    place = write(trained, tmp_path / "mlp")
    assert any("q_proj" in name for name in load_file(place / "adapter_model.safetensors"))
    begin(AdapterSpec(rank=4, target_modules=("up_proj",)), place)
    marked = next(name for name in load_file(place / "adapter_model.safetensors") if "q_proj.lora_A" in name)
    path = marked.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    adapter, _ = begin(AdapterSpec(rank=4, target_modules=("up_proj", path)), place)
    assert adapter.parameters()[f"{path}.lora_A.weight"].any()
    assert not adapter.parameters()[f"{path}.lora_B.weight"].any()


def test_a_dora_from_a_lora_adds_what_that_adds(
    new_transformer: NewTransformer, begin: Begin, loaded: Callable[[Path], Tensor], tmp_path: Path
) -> None:
    pairs = lora_pairs(new_transformer(), {"q_proj": 4})
    place = as_app(tmp_path / "theirs", peft(pairs), r=4, lora_alpha=6)
    spec = AdapterSpec(rank=4, alpha=8, weight_decompose=True, target_modules=("q_proj",))
    adapter, output = begin(spec, place)
    assert close(output, loaded(place)) and adapter.is_decomposed
    write_as_the_app(new_transformer(), tmp_path / "lokr", ATTENTION, LOW_RANK)
    whole = AdapterSpec(rank=64, alpha=8, weight_decompose=True)
    _, output = begin(whole, tmp_path / "lokr", True)
    assert close(output, loaded(tmp_path / "lokr"), 1e-4)


def test_no_lora_begins_as_a_dora(
    new_transformer: NewTransformer, begin: Begin, make_effective: MakeEffective, tmp_path: Path
) -> None:
    dora = adapters.inject(new_transformer(), OWN["dora"], seed=1)
    make_effective(dora)
    place = write(dora, tmp_path / "adapter")
    plain = OWN["dora"].model_copy(update={"weight_decompose": False})
    for resize in (False, True):
        with pytest.raises(BadSpecError, match=facts(place, "train.adapter.weight_decompose to true")):
            begin(plain, place, resize)
    with pytest.raises(BadSpecError, match=facts(place, "train.adapter.type to lora")):
        begin(OWN["decomposed"].model_copy(update={"target_modules": ("q_proj", "v_proj")}), place)
