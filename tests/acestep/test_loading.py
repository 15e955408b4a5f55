"""A checkpoint is loaded whole or refused with what is wrong: missing, left over, of another shape."""

import contextlib
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from sidestep.acestep import load_model, load_text_encoder, load_vae
from sidestep.acestep.loading import load_null_condition
from sidestep.acestep.names import diffusers_name, original_name
from sidestep.acestep.weights import load_exactly, read_weights, weight_files
from sidestep.runtime.errors import BadDataError, MissingInputError
from tests.facts import facts

FOLDER = "acestep-v15-base"


@pytest.fixture
def checkpoints(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of one variant that a test may damage."""
    shutil.copytree(tiny_checkpoints / FOLDER, tmp_path / "checkpoints" / FOLDER)
    return tmp_path / "checkpoints"


def edit_weights(checkpoints: Path, edit: str, key: str) -> None:
    file = checkpoints / FOLDER / "model.safetensors"
    weights = load_file(file)
    if edit == "drop":
        del weights[key]
    elif edit == "add":
        weights[key] = torch.zeros(3)
    else:
        weights[key] = weights[key].flatten()[:-1].clone()
    save_file(weights, file)


@pytest.mark.parametrize(
    ("edit", "key", "told"),
    [
        ("drop", "decoder.layers.2.self_attn.q_proj.weight", ["missing: layers.2.self_attn.q_proj.weight"]),
        ("add", "decoder.layers.9.extra", ["not known: layers.9.extra"]),
        ("cut", "decoder.norm_out.weight", ["norm_out.weight", "[63]", "[64]"]),
        ("drop", "encoder.text_projector.weight", ["missing: text_projector.weight"]),
        ("drop", "null_condition_emb", ["missing: null_condition_emb"]),
    ],
)
def test_every_key_is_accounted_for(checkpoints: Path, edit: str, key: str, told: list[str]) -> None:
    edit_weights(checkpoints, edit, key)
    with pytest.raises(BadDataError, match=facts(FOLDER, *told)):
        load_model(checkpoints, "base")


def test_only_the_parts_asked_for_are_read(checkpoints: Path) -> None:
    edit_weights(checkpoints, "drop", "encoder.text_projector.weight")
    model = load_model(checkpoints, "base", parts=("transformer",))
    assert model.parts.keys() == {"transformer"}


def test_cover_conditioning_is_not_needed(tiny_checkpoints: Path) -> None:
    """The released files also hold tokenizer and detokenizer; the tiny ones do not."""
    keys = load_file(tiny_checkpoints / FOLDER / "model.safetensors").keys()
    assert {key.split(".")[0] for key in keys} == {"decoder", "encoder", "null_condition_emb"}


def test_shards_with_an_index(checkpoints: Path) -> None:
    folder = checkpoints / FOLDER
    whole = load_model(checkpoints, "base").transformer.state_dict()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {f"model-0000{n}-of-00002.safetensors": list(weights)[n - 1 :: 2] for n in (1, 2)}
    for name, keys in halves.items():
        save_file({key: weights[key] for key in keys}, folder / name)
    index = {"weight_map": {key: name for name, keys in halves.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, tensor in load_model(checkpoints, "base").transformer.state_dict().items():
        assert torch.equal(tensor, whole[name])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingInputError, match="model-00002-of-00002"):
        load_model(checkpoints, "base")


def test_an_index_may_not_name_files_elsewhere(checkpoints: Path) -> None:
    index = {"weight_map": {"decoder.a": "../../secret.safetensors"}}
    (checkpoints / FOLDER / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadDataError, match=facts("../../secret.safetensors")):
        load_model(checkpoints, "base")


def test_a_file_cut_short(checkpoints: Path) -> None:
    file = checkpoints / FOLDER / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadDataError, match=facts(file)):
        load_model(checkpoints, "base")


def test_an_unknown_variant_names_those_there_are(tiny_checkpoints: Path) -> None:
    there = ("base (acestep-v15-base)", "turbo (acestep-v15-turbo)", "xl-base (acestep-v15-xl-base)")
    with pytest.raises(MissingInputError, match=facts("bass", *there)):
        load_model(tiny_checkpoints, "bass")


def test_a_variant_by_its_folder(checkpoints: Path) -> None:
    (checkpoints / FOLDER).rename(checkpoints / "my-finetune")
    assert load_model(checkpoints, "my-finetune", parts=("transformer",)).variant == "my-finetune"


def test_a_folder_s_name_comes_before_an_alias(checkpoints: Path) -> None:
    """A fine-tune may be called like a release's alias."""
    shutil.copytree(checkpoints / FOLDER, checkpoints / "turbo")
    assert load_model(checkpoints, "turbo", parts=("transformer",)).variant == "turbo"
    assert load_model(checkpoints, "base", parts=("transformer",)).variant == FOLDER


def test_an_incomplete_folder_says_what_it_lacks(checkpoints: Path) -> None:
    (checkpoints / FOLDER / "silence_latent.pt").unlink()
    with pytest.raises(MissingInputError, match=r"silence_latent\.pt"):
        load_model(checkpoints, "base")


def test_a_set_without_vae_or_text_encoder(checkpoints: Path) -> None:
    with pytest.raises(MissingInputError, match="vae/"):
        load_vae(checkpoints, "cpu", torch.float32)
    with pytest.raises(MissingInputError, match="Qwen3"):
        load_text_encoder(checkpoints, "cpu", torch.float32)


def test_the_silence_is_loaded_without_running_code(checkpoints: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(checkpoints / "exploded").touch, ())  # type: ignore[return-value]

    (checkpoints / FOLDER / "silence_latent.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadDataError, match=r"silence_latent\.pt"):
        load_model(checkpoints, "base")
    assert not (checkpoints / "exploded").exists()


def test_null_condition_alone(tiny_checkpoints: Path) -> None:
    alone = load_null_condition(tiny_checkpoints, FOLDER)
    assert torch.equal(alone, load_model(tiny_checkpoints, "base").condition_encoder.null_condition_emb)


def test_no_second_copy_of_the_model_is_in_memory() -> None:
    """Each tensor that is read is cast and let go before the next one is."""
    module = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(5))).to("meta")
    read: list[weakref.ref[torch.Tensor]] = []

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in module.state_dict().items():
            assert sum(reference() is not None for reference in read) <= 1
            original = torch.zeros(tensor.shape)
            read.append(weakref.ref(original))
            yield name, original

    load_exactly(module, weights(), "cpu", torch.bfloat16, source="this")
    assert len(read) == 10
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not any(reference() is not None for reference in read)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_weights_are_refused_or_whole(
    tiny_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes of a header changed, or the file cut: a clear refusal, or tensors; never anything else."""
    folder = tmp_path_factory.mktemp("fuzz")
    whole = save({f"decoder.{n}": torch.zeros(2, 3) for n in range(3)})
    changed = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, 200), max_size=4)):
        if place < len(changed):
            changed[place] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(changed)
    with contextlib.suppress(BadDataError):
        for name, tensor in read_weights(folder):
            assert isinstance(name, str) and isinstance(tensor, torch.Tensor)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=40) | st.from_regex(r'\{"weight_map": ?\{"a": ?.{0,9}\}\}').map(str.encode))
def test_any_index_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "model.safetensors.index.json").write_bytes(content)
    with contextlib.suppress(BadDataError, MissingInputError):
        assert weight_files(folder) == []


def test_names_there_and_back(tiny_checkpoints: Path) -> None:
    names = list(load_file(tiny_checkpoints / FOLDER / "model.safetensors"))
    assert [original_name(diffusers_name(name)) for name in names] == names
    assert diffusers_name("layers.0.self_attn.o_proj") == "layers.0.self_attn.to_out.0"
    assert diffusers_name("my_q_proj.weight") == "my_q_proj.weight"
