"""What cannot be a model's weights is found from sizes and first bytes: on a disk and in a bucket."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidestep.acestep import load_model
from sidestep.acestep.headers import check_models
from sidestep.acestep.layout import find_text_encoder, find_vae, find_variant, open_checkpoints
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError
from sidestep.storage.store import Store
from tests.facts import facts
from tests.s3 import S3Server

MODEL, VAE, TEXT = (
    "acestep-v15-base/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "Qwen3-Embedding-0.6B/model.safetensors",
)
SILENCE, TOKENIZER = "acestep-v15-base/silence_latent.pt", "Qwen3-Embedding-0.6B/tokenizer.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 4780000000\n" % 0
PAGE = b"\n <!DOCTYPE html><html><body>Please log in</body></html>" * 4000
Damage = Callable[[bytes], bytes]


@pytest.fixture
def checkpoints(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    for folder in ("acestep-v15-base", "vae", "Qwen3-Embedding-0.6B"):
        shutil.copytree(tiny_checkpoints / folder, tmp_path / "set" / folder)
    return tmp_path / "set"


def check(store: Store, task: str = "pipeline") -> None:
    others = [find_vae(store), find_text_encoder(store)] if task != "train" else []
    check_models(store, find_variant(store, "base"), others, task)


def on_disk(checkpoints: Path) -> Store:
    return open_checkpoints(str(checkpoints), StorageSpec())


@pytest.fixture(params=["disk", "bucket"])
def opened(request: pytest.FixtureRequest, checkpoints: Path) -> Callable[[], Store]:
    """Opens the set as it is by now, where it is or in a bucket."""

    def in_bucket() -> Store:
        server: S3Server = request.getfixturevalue("s3_server")
        store = server.store("ck")
        for path in sorted(checkpoints.rglob("*")):
            if path.is_file():
                store.upload(path, path.relative_to(checkpoints).as_posix())
        return store

    return in_bucket if request.param == "bucket" else lambda: on_disk(checkpoints)


def test_a_whole_set_is_right(opened: Callable[[], Store]) -> None:
    for task in ("preprocess", "train", "pipeline"):
        check(opened(), task)


@pytest.mark.parametrize("file", [MODEL, VAE, TEXT, SILENCE])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: POINTER, "pointer"),
        (lambda data: PAGE, "web page"),
        (lambda data: data[:-1000], "cut short"),
        (lambda data: data[:100], "cut short"),
        (lambda data: data[:5], ""),
    ],
    ids=["empty", "pointer", "page", "cut", "cut in its header", "five bytes"],
)
def test_weights_that_cannot_be(
    opened: Callable[[], Store], checkpoints: Path, file: str, damage: Damage, told: str
) -> None:
    path = checkpoints / file
    path.write_bytes(damage(path.read_bytes()))
    store = opened()
    with pytest.raises(BadDataError, match=facts(f"{store.place}/{file}", told)):
        check(store)


@pytest.mark.parametrize("file", [TOKENIZER, "vae/config.json", "acestep-v15-base/config.json"])
@pytest.mark.parametrize("content", [b"", POINTER, b'{"a": ', PAGE])
def test_json_that_is_none(opened: Callable[[], Store], checkpoints: Path, file: str, content: bytes) -> None:
    (checkpoints / file).write_bytes(content)
    with pytest.raises(BadDataError, match=facts(file)):
        check(opened())


def test_more_behind_the_weights(checkpoints: Path) -> None:
    path = checkpoints / MODEL
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(BadDataError, match=facts(MODEL, f"{path.stat().st_size:,}")):
        check(on_disk(checkpoints))


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change what a safetensors file says of its tensors, and nothing else."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


KEY = "decoder.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"dtype": "I32"}, "I32"),  # of the same size, as of a quantized copy
        ({"dtype": "F8_E4M3"}, MODEL),
        ({"dtype": "Q4_K"}, MODEL),
        ({"dtype": ""}, MODEL),
        ({"dtype": 5}, MODEL),
        ({"data_offsets": [0, 4]}, MODEL),
        ({"data_offsets": [-4, 4]}, MODEL),
        ({"data_offsets": "no"}, MODEL),
        ({"shape": [2**62, 2**62]}, MODEL),
    ],
)
def test_tensors_that_are_not_where_they_are_said_to_be(
    checkpoints: Path, said: dict[str, Any], told: str
) -> None:
    edited(checkpoints / MODEL, lambda header: header[KEY].update(said))
    with pytest.raises(BadDataError, match=facts(MODEL, told)):
        check(on_disk(checkpoints))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_types_of_weights(checkpoints: Path, dtype: torch.dtype) -> None:
    in_type(checkpoints / MODEL, dtype)
    check(on_disk(checkpoints))


@pytest.mark.parametrize(("dtype", "name"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_a_quantized_copy_is_named(checkpoints: Path, dtype: torch.dtype, name: str) -> None:
    in_type(checkpoints / MODEL, dtype)
    with pytest.raises(BadDataError, match=facts(MODEL, name, "BF16")):
        check(on_disk(checkpoints))


def in_type(path: Path, dtype: torch.dtype) -> None:
    save_file({name: weight.to(dtype) for name, weight in load_file(path).items()}, path)


def test_types_of_what_is_not_used_are_no_matter(checkpoints: Path) -> None:
    path = checkpoints / MODEL
    weights = load_file(path)
    save_file({**weights, "rotary.positions": torch.arange(5)}, path)
    check(on_disk(checkpoints))


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"model": {"vocab": {}}}', b'{"model": [1]}'])
def test_a_tokenizer_without_words(checkpoints: Path, content: bytes) -> None:
    (checkpoints / TOKENIZER).write_bytes(content)
    with pytest.raises(BadDataError, match=facts(TOKENIZER, "vocabulary")):
        check(on_disk(checkpoints))


def test_all_problems_are_said_at_once(checkpoints: Path) -> None:
    for file in (MODEL, VAE, TEXT):
        (checkpoints / file).write_bytes(POINTER)
    with pytest.raises(BadDataError, match=facts(MODEL, VAE, TEXT)):
        check(on_disk(checkpoints))


@pytest.mark.parametrize(
    ("file", "key", "wanted_by"),
    [
        (MODEL, "decoder.layers.1.mlp.up_proj.weight", ("train", "pipeline")),
        (MODEL, "encoder.text_projector.weight", ("preprocess", "pipeline")),
        (MODEL, "null_condition_emb", ("train", "preprocess", "pipeline")),
        (VAE, "encoder.block.2.conv1.weight_v", ("preprocess", "pipeline")),
        (TEXT, "layers.1.self_attn.q_norm.weight", ("preprocess", "pipeline")),
    ],
)
@pytest.mark.parametrize("edit", ["drop", "flatten"])
def test_names_and_shapes_are_those_of_the_config(
    checkpoints: Path, file: str, key: str, wanted_by: tuple[str, ...], edit: str
) -> None:
    weights = load_file(checkpoints / file)
    tensor = weights.pop(key)
    if edit == "flatten":
        weights[key] = tensor.flatten()[:-1].clone()
    save_file(weights, checkpoints / file, {"format": "pt"})
    for task in ("train", "preprocess", "pipeline"):
        if task in wanted_by:
            with pytest.raises(BadDataError, match=facts(key, file.split("/")[0])):
                check(on_disk(checkpoints), task)
        else:
            check(on_disk(checkpoints), task)


def test_a_config_of_a_larger_model(checkpoints: Path) -> None:
    path = checkpoints / "acestep-v15-base" / "config.json"
    config = json.loads(path.read_text())
    config["num_hidden_layers"] += 1
    del config["layer_types"]
    path.write_text(json.dumps(config))
    with pytest.raises(BadDataError, match=facts("missing", "decoder.layers.4")):
        check(on_disk(checkpoints))


def test_copies_and_notes_beside_the_weights_do_not_count(checkpoints: Path) -> None:
    folder = checkpoints / "acestep-v15-base"
    (folder / "._model.safetensors").write_bytes(b"\0\5\026\7" + bytes(100))
    shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors")
    (checkpoints / "vae" / "._config.json").write_bytes(b"\0\5\026\7")
    store = on_disk(checkpoints)
    check(store)
    load_model(checkpoints, "base", parts=("transformer",))
    assert [file.path for file in find_variant(store, "base").files] == [
        f"acestep-v15-base/{name}" for name in ("config.json", "model.safetensors", "silence_latent.pt")
    ]


def split(folder: Path, stem: str = "model", index: bool = True) -> None:
    weights = load_file(folder / "model.safetensors")
    halves = {f"{stem}-0000{n}-of-00002.safetensors": sorted(weights)[n - 1 :: 2] for n in (1, 2)}
    for name, keys in halves.items():
        save_file({key: weights[key] for key in keys}, folder / name, {"format": "pt"})
    if index:
        content = {"weight_map": {key: name for name, keys in halves.items() for key in keys}}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("index", [True, False])
def test_shards_beside_a_whole_are_refused_and_alone_are_right(checkpoints: Path, index: bool) -> None:
    folder = checkpoints / "acestep-v15-base"
    split(folder, index=index)
    with pytest.raises(BadDataError, match=facts("model.safetensors", "model-00001-of-00002.safetensors")):
        find_variant(on_disk(checkpoints), "base")
    (folder / "model.safetensors").unlink()
    check(on_disk(checkpoints))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingInputError, match=facts("model-00002-of-00002.safetensors")):
        find_variant(on_disk(checkpoints), "base")


def test_shards_of_a_copy_do_not_count(checkpoints: Path) -> None:
    split(checkpoints / "acestep-v15-base", stem="model.bf16")
    check(on_disk(checkpoints))


def test_the_same_weight_in_two_files(checkpoints: Path) -> None:
    shutil.copy(checkpoints / MODEL, checkpoints / "acestep-v15-base" / "model copy.safetensors")
    with pytest.raises(BadDataError, match=facts("model copy.safetensors", "model.safetensors")):
        check(on_disk(checkpoints))


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size"])
def test_a_text_encoder_s_config_is_checked(checkpoints: Path, name: str) -> None:
    path = checkpoints / "Qwen3-Embedding-0.6B" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: "many"}))
    with pytest.raises(SideStepError, match=facts(name, "Qwen3-Embedding-0.6B/config.json")):
        check(on_disk(checkpoints))
