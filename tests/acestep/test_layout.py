"""Which files of a checkpoint set are found and used: by listings and names alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sidestep.acestep.layout import Part, find_text_encoder, find_vae, find_variant, open_checkpoints
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.store import Store
from tests.facts import facts
from tests.s3 import S3Server

MODEL = ("config.json", "model.safetensors", "silence_latent.pt")
SetOf = Callable[..., Store]


@pytest.fixture
def set_of(tmp_path: Path) -> SetOf:
    """Makes a checkpoint set of empty files, by folder."""

    def make(**folders: tuple[str, ...]) -> Store:
        for folder, names in folders.items():
            for name in names:
                file = tmp_path / "set" / folder.replace("_", "-") / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        return open_checkpoints(str(tmp_path / "set"), StorageSpec())

    return make


def used(part: Part) -> list[str]:
    return [file.path for file in part.files]


def test_only_what_is_used_is_pulled(set_of: SetOf) -> None:
    """Not the checkpoint's own Python, nor what lies deeper or beside the folders."""
    more = ("modeling_acestep.py", "README.md", "model.bin", "old/model.safetensors", "old/config.json")
    store = set_of(mine=(*MODEL, *more), vae=("config.json", "vae.safetensors", "old/vae.safetensors"))
    (Path(store.place) / "config.json").touch()
    assert used(find_variant(store, "mine")) == [f"mine/{name}" for name in MODEL]
    assert used(find_vae(store)) == ["vae/config.json", "vae/vae.safetensors"]


def test_the_text_encoder_has_its_tokenizer(set_of: SetOf) -> None:
    names = ("config.json", "merges.txt", "model.safetensors", "tokenizer.json", "vocab.json")
    store = set_of(**{"Qwen3-Embedding-0.6B": names})
    assert used(find_text_encoder(store)) == [f"Qwen3-Embedding-0.6B/{name}" for name in names]
    (Path(store.place) / "Qwen3-Embedding-0.6B" / "tokenizer.json").unlink()
    with pytest.raises(MissingInputError, match=facts("Qwen3-Embedding-0.6B", "tokenizer.json")):
        find_text_encoder(store)


@pytest.mark.parametrize(("find", "folder"), [(find_vae, "vae"), (find_text_encoder, "Qwen3-Embedding-0.6B")])
def test_a_part_that_is_not_there(set_of: SetOf, find: Callable[[Store], Part], folder: str) -> None:
    store = set_of(mine=MODEL, **{f"{folder}/deeper": ("config.json", "a.safetensors", "tokenizer.json")})
    with pytest.raises(MissingInputError, match=facts(folder, store.place)):
        find(store)


def test_an_alias_means_the_release_s_folder(set_of: SetOf) -> None:
    store = set_of(acestep_v15_xl_turbo=MODEL, mine=MODEL)
    assert find_variant(store, "xl-turbo").folder == "acestep-v15-xl-turbo"
    assert find_variant(store, "acestep-v15-xl-turbo") == find_variant(store, "xl-turbo")
    assert find_variant(store, "mine").folder == "mine"


def test_an_unknown_variant_is_told_which_there_are(set_of: SetOf) -> None:
    store = set_of(acestep_v15_sft=MODEL, mine=MODEL, vae=("silence_latent.pt",), notes=("a.json",))
    with pytest.raises(MissingInputError) as caught:
        find_variant(store, "base")
    said = str(caught.value)
    assert "sft (acestep-v15-sft), mine" in said and store.place in said
    assert "vae" not in said and "notes" not in said


def test_the_model_s_own_folder_is_told_the_one_above(set_of: SetOf) -> None:
    above = set_of(acestep_v15_sft=MODEL, mine=MODEL, vae=("config.json", "a.safetensors"))
    for folder, variant in (("acestep-v15-sft", "sft"), ("mine", "mine")):
        with pytest.raises(MissingInputError) as caught:
            find_variant(above.child(folder), "base")
        advice = str(caught.value).splitlines()[1]
        assert advice.endswith(f" {above.place}, and model_variant to {variant}")
    with pytest.raises(MissingInputError, match=facts(f"above it, {above.place}")):
        find_variant(above.child("vae"), "base")


def test_a_folder_above_is_told_where_the_models_are(set_of: SetOf, tmp_path: Path) -> None:
    set_of(acestep_v15_base=MODEL, mine=MODEL)
    (tmp_path / "set").rename(tmp_path / "deeper")
    (tmp_path / "home" / "hub").mkdir(parents=True)
    (tmp_path / "deeper").rename(tmp_path / "home" / "hub" / "set")
    for place, below in (("home", "hub/set"), ("home/hub", "set")):
        with pytest.raises(MissingInputError, match=facts(f"{tmp_path}/{place}/{below}")):
            find_variant(open_checkpoints(str(tmp_path / place), StorageSpec()), "base")


def test_in_a_bucket_the_places_are_told_as_uris(s3_server: S3Server) -> None:
    for name in MODEL:
        s3_server.store("models/set/acestep-v15-base").write_bytes(name, b"")
    with pytest.raises(
        MissingInputError, match=facts("above it, s3://studio/models/set, ", "model_variant to base")
    ):
        find_variant(s3_server.store("models/set/acestep-v15-base"), "base")
    with pytest.raises(MissingInputError, match=facts("s3://studio/models/set")):
        find_variant(s3_server.store("models"), "turbo")


def test_a_set_that_is_not_there_is_another_thing_than_an_empty_one(set_of: SetOf, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError) as nowhere:
        find_variant(open_checkpoints(str(tmp_path / "nowhere"), StorageSpec()), "base")
    (tmp_path / "set").mkdir()
    with pytest.raises(MissingInputError) as empty:
        find_variant(set_of(), "base")
    assert "'base'" not in str(nowhere.value) and "'base'" in str(empty.value)


@pytest.mark.parametrize("lost", MODEL)
def test_what_a_model_s_folder_lacks_is_named(set_of: SetOf, lost: str) -> None:
    store = set_of(mine=tuple(name for name in MODEL if name != lost))
    wanted = lost.replace("model.", "*.")
    with pytest.raises(MissingInputError, match=facts("/mine", wanted)):
        find_variant(store, "mine")


def test_a_folder_in_the_place_of_a_model_s_file(set_of: SetOf) -> None:
    store = set_of(mine=MODEL)
    config = Path(store.place) / "mine" / "config.json"
    config.unlink()
    config.mkdir()
    with pytest.raises(BadDataError, match=facts(f"{config} is a folder")):
        find_variant(store, "mine")


def test_a_shard_that_is_missing_is_noticed_before_the_others_are_pulled(set_of: SetOf) -> None:
    shards = ("model-1.safetensors", "model-2.safetensors")
    store = set_of(mine=("config.json", "silence_latent.pt", *shards))
    index = Path(store.place) / "mine" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}))
    assert len(find_variant(store, "mine").files) == 5
    (Path(store.place) / "mine" / shards[1]).unlink()
    with pytest.raises(MissingInputError, match=facts("/mine", shards[1], index.name)):
        find_variant(store, "mine")


def test_the_links_of_a_model_hub_s_cache_are_followed(set_of: SetOf, tmp_path: Path) -> None:
    store = set_of(mine=MODEL)
    for name in MODEL:
        file = Path(store.place) / "mine" / name
        blob = tmp_path / "blobs" / name
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(blob)
    assert len(find_variant(store, "mine").files) == 3
    assert store.read_bytes("mine/config.json") == b""
