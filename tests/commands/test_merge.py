"""`sidestep merge` and `sidestep resize`: what is written computes what was asked for."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.cli import main
from sidestep.config.adapter import AdapterSpec
from sidestep.data.sides import Sided, Sides, sides_in
from sidestep.runtime.atomic import TEMPORARY
from sidestep.runtime.errors import ExitCode
from sidestep.runtime.tensorfiles import read_metadata
from tests.facts import tells

LORA = AdapterSpec(rank=4, alpha=12, target_modules=("q_proj", "v_proj"), rank_pattern={"v_proj": 3})
OTHER = AdapterSpec(rank=2, alpha=2, target_modules=("v_proj", "up_proj"))
MLP = AdapterSpec(rank=3, alpha=3, target_modules=("gate_proj",))
LOKR = AdapterSpec(type="lokr", rank=2, alpha=5, factor=4)
DECOMPOSED = AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, weight_decompose=True)
Make = Callable[..., str]
Decode = Callable[..., Tensor]


@pytest.fixture
def checkpoints(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """A set of its own, for what is merged to stand beside."""
    set_ = tmp_path / "checkpoints"
    set_.mkdir()
    shutil.copytree(tiny_checkpoints / "acestep-v15-base", set_ / "acestep-v15-base")
    (set_ / "acestep-v15-base" / "modeling_acestep.py").write_text("# theirs\n")
    return set_


@pytest.fixture
def make(checkpoints: Path) -> Make:
    """Writes an adapter that has an effect to a folder, and returns it."""

    def run(name: str, spec: AdapterSpec, seed: int = 1) -> str:
        adapter = adapters.inject(
            load_model(checkpoints, "base", parts=("transformer",)).transformer, spec, seed
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters().values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        Path(name).mkdir()
        for file, data in adapters.publish(adapter).items():
            Path(name, file).write_bytes(data)
        return name

    return run


@pytest.fixture
def decode(checkpoints: Path) -> Decode:
    """What a model computes, with an adapter or without."""

    def run(variant: str = "base", adapter: str | None = None) -> Tensor:
        model = load_model(checkpoints, variant, parts=("transformer",))
        if adapter:
            adapters.load(model, adapter)
        generator = torch.Generator().manual_seed(3)
        latents, context = (torch.randn(1, 8, width, generator=generator) for width in (64, 128))
        conditions, t = torch.randn(1, 5, 64, generator=generator), torch.tensor([0.5])
        with torch.no_grad():
            output: Tensor = model.transformer(
                hidden_states=latents,
                context_latents=context,
                encoder_hidden_states=conditions,
                timestep=t,
                timestep_r=t,
                return_dict=False,
            )[0]
        return output

    return run


@pytest.fixture
def run(checkpoints: Path) -> Callable[..., None]:
    def call(*words: str, code: ExitCode = ExitCode.DONE) -> None:
        of_model = [] if "--into" in words else ["--checkpoint-dir", str(checkpoints)]
        assert main([*words, *of_model]) == code

    return call


Run = Callable[..., None]


def into(checkpoints: Path, name: str, places: Sequence[str], *more: str) -> list[str]:
    base = str(checkpoints / "acestep-v15-base")
    return ["merge", *places, "--into", base, "--output", str(checkpoints / name), *more]


def updates(transformer: Any, place: str) -> dict[str, Tensor]:
    adapter = adapters.load(transformer, place)
    return {path: adapter.update(path) for path in adapter.layers}


@pytest.mark.parametrize("spec", [LORA, MLP, LOKR, DECOMPOSED], ids=["lora", "mlp", "lokr", "decomposed"])
def test_a_merged_model_is_the_model_with_the_adapter(
    spec: AdapterSpec, make: Make, run: Run, decode: Decode, checkpoints: Path
) -> None:
    place = make("a", spec)
    run(*into(checkpoints, "merged", [place]))
    output = decode("merged")
    assert (output - decode(adapter=place)).abs().max() <= 1e-5
    assert (output - decode()).abs().max() > 1e-3
    before, after = checkpoints / "acestep-v15-base", checkpoints / "merged"
    for file in before.iterdir():
        if file.suffix != ".safetensors":
            assert (after / file.name).read_bytes() == file.read_bytes()
    assert {file.name for file in after.iterdir()} - {file.name for file in before.iterdir()} == {
        "merged.json"
    }
    assert not list(checkpoints.glob(f"{TEMPORARY}*"))


def in_bfloat16(folder: Path, shards: int) -> dict[str, Tensor]:
    """Store a model in bfloat16, in so many shards with an index, and return its weights."""
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        own = names[number::shards]
        save_file({name: tensors[name] for name in own}, folder / file, {"format": "pt", "of": str(number)})
        index |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tensors


def test_shards_of_bfloat16_keep_their_names_and_are_rounded_once(
    make: Make, run: Run, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = checkpoints / "acestep-v15-base"
    places = [make("a", LORA), make("b", LOKR, 2)]
    before = in_bfloat16(base, 3)
    save_file({"x": torch.ones(2)}, base / "model.fp16.safetensors")
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    run(*into(checkpoints, "merged", places, "--weights=-1,0.5"))
    after = checkpoints / "merged"
    model = load_model(checkpoints, "base", parts=("transformer",)).transformer
    added = updates(model, "a")
    for path, update in updates(
        load_model(checkpoints, "base", parts=("transformer",)).transformer, "b"
    ).items():
        added[path] = -added.get(path, torch.zeros(())) + 0.5 * update
    changed = 0
    for file in sorted(base.glob("model-*.safetensors")):
        with safe_open(file, "pt") as old, safe_open(after / file.name, "pt") as new:
            assert old.metadata() == new.metadata()
            assert (after / file.name).stat().st_size == file.stat().st_size
        for name, weight in load_file(after / file.name).items():
            path = name.removeprefix("decoder.").removesuffix(".weight")
            if path in added and name.startswith("decoder.layers"):
                assert torch.equal(weight, (before[name].float() + added[path]).bfloat16())
                changed += 1
            else:
                assert torch.equal(weight, before[name])
    assert changed == len(added)
    assert not (after / "model.fp16.safetensors").exists() and not (after / "pytorch_model.bin").exists()
    assert "model.fp16.safetensors" in caplog.text and "pytorch_model.bin" in caplog.text


def test_it_appears_as_a_whole_and_is_never_overwritten(
    make: Make,
    run: Run,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = into(checkpoints, "merged", [make("a", LORA)])
    left = checkpoints / f"{TEMPORARY}merged"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"of one that was killed")
    with monkeypatch.context() as patch:
        patch.setattr("sidestep.tasks.merge.sync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        run(*words, code=ExitCode.AGAIN)
    assert not (checkpoints / "merged").exists()
    run(*words)
    files = {file.name: file.stat().st_mtime_ns for file in (checkpoints / "merged").iterdir()}
    run(*words)  # nothing to do
    assert {file.name: file.stat().st_mtime_ns for file in (checkpoints / "merged").iterdir()} == files
    for place in ([*words, "--weights", "2"], into(checkpoints, "acestep-v15-base", ["a"])):
        run(*place, code=ExitCode.USAGE)
        assert "--output" in capsys.readouterr().err
    assert {file.name: file.stat().st_mtime_ns for file in (checkpoints / "merged").iterdir()} == files


def test_what_is_no_sum_or_of_another_model(
    make: Make, run: Run, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, decomposed, lokr = make("a", LORA), make("d", DECOMPOSED), make("k", LOKR)
    for words, told in (
        (into(checkpoints, "x", [decomposed, lora]), "weight_decompose"),
        (into(checkpoints, "x", [decomposed], "--weights", "0.5"), "weight_decompose"),
        (into(checkpoints, "x", [lora], "--rank", "2"), "--rank"),
        (["merge", lora, lokr, "--output", "x"], "sidestep resize"),
        (["merge", lora, "--output", "x", "--weights", "0"], "all 0"),
        (["merge", lora, "--output", "x", "--weights", "1,1"], "each of 1"),
        (["merge", lora, "--output", "x", "--weights", "nan"], "finite"),
        (["merge", lora, "--output", "x", "--weights", "half"], "numbers"),
        (["merge", lora, "--output", "x", "--rank", "0"], "rank"),
        (["resize", decomposed, "--rank", "2", "--output", "x"], "weight_decompose"),
    ):
        run(*words, code=ExitCode.USAGE)
        assert told in capsys.readouterr().err
    run("merge", "nowhere", "--output", "x", code=ExitCode.MISSING)
    capsys.readouterr()
    config = checkpoints / "acestep-v15-base" / "config.json"
    values = json.loads(config.read_text())
    layers = values["num_hidden_layers"]
    deeper = {"num_hidden_layers": layers + 1, "layer_types": [*values["layer_types"], "full_attention"]}
    config.write_text(json.dumps(values | deeper))
    tensors = {
        f"base_model.model.layers.{layers}.self_attn.q_proj.lora_{side}.weight": torch.ones(shape)
        for side, shape in (("A", (1, 64)), ("B", (64, 1)))
    }
    save_file(tensors, "deep.safetensors")
    run(*into(checkpoints, "x", ["deep.safetensors"]), code=ExitCode.BAD_DATA)
    assert f"decoder.layers.{layers}.self_attn.q_proj" in capsys.readouterr().err
    assert not Path("x").exists() and not (checkpoints / "x").exists()


def test_a_sum_of_loras(make: Make, run: Run, checkpoints: Path) -> None:
    """Modules that one alone has, and a pair of zeros of another."""
    places = [make("a", LORA), make("b", OTHER, 2), make("c", MLP, 3)]
    run("merge", *places, "--weights", "1", "-0.5", "2", "--output", "sum")
    run("merge", *places, "--weights", "1,-0.5,2", "--output", "small", "--rank", "2")
    run("merge", *places, "--weights", "1,-0.5,2", "--output", "large", "--rank", "9")

    def of(place: str) -> dict[str, Tensor]:
        return updates(load_model(checkpoints, "base", parts=("transformer",)).transformer, place)

    expected: dict[str, Tensor] = {}
    for place, weight in zip(places, (1, -0.5, 2), strict=True):
        for path, update in of(place).items():
            expected[path] = expected.get(path, torch.zeros_like(update)) + weight * update
    made, small, large = of("sum"), of("small"), of("large")
    assert made.keys() == small.keys() == large.keys() == expected.keys()
    for path, update in expected.items():
        assert torch.allclose(made[path], update, atol=1e-5) and torch.allclose(
            large[path], update, atol=1e-5
        )
        u, values, v = torch.linalg.svd(update)
        assert torch.allclose(small[path], u[:, :2] * values[:2] @ v[:2], atol=1e-5)


def test_a_weight_of_one_and_none_is_the_first(make: Make, run: Run) -> None:
    places = [make("a", LORA), make("b", OTHER, 2)]
    for name, words in (("one", places[:1]), ("first", [*places, "--weights", "1,0"])):
        run("merge", *words, "--output", name)
        before = load_file("a/adapter_model.safetensors")
        after = load_file(f"{name}/adapter_model.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_resized(
    make: Make, run: Run, decode: Decode, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = make("a", LORA)
    run("resize", place, "--rank", "6")
    assert (decode(adapter="a-rank6") - decode(adapter=place)).abs().max() <= 1e-5
    config = json.loads(Path("a-rank6/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (6, 6, {})
    assert "100.00% of the energy is kept in the least, 100.00% in the mean" in caplog.text
    run("resize", place, "--rank", "500", "--output", "most")  # no more than a weight has
    assert (decode(adapter="most") - decode(adapter=place)).abs().max() <= 1e-5
    assert json.loads(Path("most/adapter_config.json").read_text())["r"] <= 64
    caplog.clear()
    run("resize", place, "--rank", "1", "--output", "least")
    assert "100.00%" not in caplog.text
    run("resize", make("k", LOKR), "--rank", "8", "--output", "of-lokr")
    assert (decode(adapter="of-lokr") - decode(adapter="k")).abs().max() <= 1e-4


def test_zero_modules_stay_so_and_nothing_is_overwritten(
    make: Make, run: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make("c", MLP)
    zero = {name for name, tensor in load_file("c/adapter_model.safetensors").items() if not tensor.any()}
    assert zero
    run("resize", place, "--rank", "2", "--output", "x")
    after = load_file("x/adapter_model.safetensors")
    assert {name for name, tensor in after.items() if not tensor.any()} == zero
    run("resize", place, "--rank", "2", "--output", "x")  # made of the same
    content = Path("x/adapter_model.safetensors").read_bytes()
    run("resize", place, "--rank", "1", "--output", "x", code=ExitCode.USAGE)
    assert "--output" in capsys.readouterr().err
    assert Path("x/adapter_model.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    ("made_by", "words", "others"),
    [
        ("resized_lora", ["resize", "a", "--rank", "2"], ["resize", "a", "--rank", "3"]),
        ("summed_lora", ["merge", "a", "b"], ["merge", "a", "b", "--weights", "1,0.5"]),
        ("summed_lora", ["merge", "a", "b", "--rank", "3"], ["merge", "b", "a", "--rank", "3"]),
    ],
)
def test_what_is_there_is_looked_for_before_anything_is_made(
    made_by: str,
    words: list[str],
    others: list[str],
    make: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make("a", LORA), make("b", OTHER)
    run(*words, "--output", "x")
    files = {file.name: file.read_bytes() for file in Path("x").iterdir()}
    Path("x/adapter_config.json").unlink()  # as if it had been killed before the last file
    run(*words, "--output", "x")
    Path("strange").mkdir()
    Path("strange/notes.txt").write_text("mine")
    Path("half").mkdir()
    Path("half/adapter_config.json").write_text("{}")

    def make_none(*_: Any) -> None:
        pytest.fail("it is made, and what is there has not been looked at")

    monkeypatch.setattr(f"sidestep.adapters.combine.{made_by}", make_none)
    run(*words, "--output", "x")
    assert {file.name: file.read_bytes() for file in Path("x").iterdir()} == files
    for wanted, output, held in (
        (others, "x", "adapter_model.safetensors"),
        (words, "b", "adapter_model.safetensors"),  # a trained one
        (words, "strange", "notes.txt"),
        (words, "half", "adapter_config.json"),
    ):
        capsys.readouterr()
        run(*wanted, "--output", output, code=ExitCode.USAGE)
        assert tells(capsys.readouterr().err, "--output", f"{output} holds {held}")


def test_what_was_held_out_is_carried_on(make: Make, run: Run) -> None:
    """Or who begins from the new adapter might train on what is to be a test."""
    held = Sides((Sided("a", "", True), Sided("b", "", True)))
    trained = Sides((Sided("b", "", False),))
    first, second, third = make("first", LORA), make("second", LORA, seed=2), make("third", OTHER)
    for place, sides in ((first, held), (second, trained)):
        file = Path(place, "adapter_model.safetensors")
        save_file(load_file(file), file, {"format": "pt", **sides.as_metadata()})
    run("resize", first, "--rank", "2", "--output", "small")
    run("export", first, "--format", "comfyui", "--output", "comfyui")
    run("merge", first, second, third, "--output", "sum")
    run("merge", first, second, "--weights", "1,0", "--output", "alone")
    run("merge", third, "--output", "none")

    def found(folder: str) -> Sides | None:
        (file,) = Path(folder).glob("*.safetensors")
        return sides_in(read_metadata(file), str(file))

    assert found("small") == found("comfyui") == found("alone") == held
    assert found("sum") == held.joined(trained) != held
    assert found("none") is None
