"""Keys of a bucket that are no paths on a disk, and the names of their copies."""

import pytest

from sidestep.storage.paths import local_name, odd, unfit


def test_which_keys_can_be_no_files() -> None:
    fit = ["a.wav", "x/b.wav", ".hidden", "...", "x/..data/c.wav", "a b/c", "n" * 300 + ".wav", "y.wavs/d"]
    assert unfit(fit) == {}
    bad = ["/a.wav", "x//b.wav", "./c.wav", "x/../d.wav", "..", "x/.", "y.wav", "z", "z/1"]
    found = unfit([*fit, *bad, "y.wav/deep/er.wav", "z/1/2"])
    assert set(found) == set(bad)
    assert "'..'" in found["x/../d.wav"] and "'//'" in found["x//b.wav"] and "folder" in found["y.wav"]
    assert unfit(["y.wav"]) == {} and not odd("y.wav")


@pytest.mark.parametrize(
    "name", ["n" * 201 + ".wav", "é" * 101, "x/" + "音" * 80 + ".flac", "n" * 300 + "/a.wav"]
)
def test_names_that_are_too_long_have_others_here(name: str) -> None:
    local = local_name(name)
    assert all(len(part.encode()) <= 200 for part in local.split("/"))
    assert local.count("/") == name.count("/") and local_name(name) == local
    assert local != local_name(name.replace("n", "m").replace("é", "è").replace("音", "楽"))
    if name.endswith((".wav", ".flac")):
        assert local.rpartition(".")[2] == name.rpartition(".")[2]


def test_other_names_stay() -> None:
    for name in ("a.wav", "x/" + "n" * 200, "ü b/[c].wav"):
        assert local_name(name) == name
