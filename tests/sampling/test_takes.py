"""samples.json: which take is which, what its file is called, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.sampling import SAMPLING
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, UsageError
from sidestep.sampling.takes import FILE, Prompt, Samples, Take, begin_samples, file_name, read_samples
from sidestep.sampling.wish import Source, Wish
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.facts import facts

PROMPT = Prompt(caption="Été: glass harp / slow, and much more than fits", lyrics="la")


@pytest.fixture
def place(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "samples"), StorageSpec())


def fields(**changes: Any) -> dict[str, Any]:
    known = {"prompt": 0, "strength": 1.0, "checkpoint": "checkpoint-epoch-10", "adapter": "a" * 64}
    settings = {"seed": 1, "steps": 8, "guidance": 1.0, "shift": 3.0, "seconds": 10.0}
    return known | settings | changes


def take(**changes: Any) -> Take:
    own = fields(**changes)
    return Take(**{"file": file_name(PROMPT, own, "w", "flac"), "loudness": -14.0, **own})


def test_names_say_what_it_is_and_tell_apart_what_sounds_different() -> None:
    name = take().file
    assert name.startswith("01-ete-glass-harp-slow-and-") and name.endswith(".flac")
    assert "-checkpoint-epoch-10-x1-" in name and name.isascii() and not set(name) & set(' /:,"')
    base = {"strength": 0.0, "checkpoint": None, "adapter": None}
    changed: list[dict[str, Any]] = [{"seed": 2}, {"steps": 9}, {"guidance": 2.0}, {"shift": 1.0}, base]
    changed += [{"seconds": 11.0}, {"strength": 0.5}, {"adapter": "b" * 64}]
    names = {take(**change).file for change in changed} | {name}
    names |= {file_name(PROMPT, fields(), *how) for how in (("other", "flac"), ("w", "wav"))}
    names.add(file_name(PROMPT.model_copy(update={"lyrics": "lo"}), fields(), "w", "flac"))
    assert len(names) == 12
    assert len({name.rpartition("-")[2] for name in names}) == 12
    assert "-base-" in take(**base).file


def test_a_take_of_another_adapter_takes_the_place_of_the_old_one(place: Store) -> None:
    samples = Samples(variant="acestep-v15-base", weights="w", prompts=[PROMPT])
    for epoch in (10, 9, 100):
        samples.put(take(checkpoint=f"checkpoint-epoch-{epoch}"))
    samples.put(take(checkpoint=None, adapter=None, strength=0.0))
    newer = take(adapter="b" * 64)
    assert samples.find(newer) == take()
    samples.put(newer)
    order = [known.checkpoint for known in samples.takes]
    assert order == [None, *(f"checkpoint-epoch-{epoch}" for epoch in (9, 10, 100))]
    assert [known.adapter for known in samples.takes if known.checkpoint == newer.checkpoint] == ["b" * 64]
    place.write_bytes(FILE, samples.content())
    assert read_samples(place) == samples


def test_a_prompt_is_known_by_what_it_asks_for() -> None:
    samples = Samples(variant="v", weights="w")
    same = PROMPT.model_copy(update={"source": "training", "song": "harp.wav"})
    numbers = [samples.number_of(p) for p in (PROMPT, Prompt(caption="other"), same)]
    assert numbers == [0, 1, 0] and len(samples.prompts) == 2


def test_takes_whose_file_is_gone_count_as_not_made(place: Store) -> None:
    kept, gone = take(), take(seed=2)
    content = Samples(variant="v", weights="w", prompts=[PROMPT], takes=[kept, gone]).content()
    place.write_bytes(FILE, content)
    place.write_bytes(kept.file, b"sound")
    assert begin_samples(place, "v", "w").takes == [kept]
    with pytest.raises(UsageError, match=facts(place.place, "--output", "v", "other")):
        begin_samples(place, "other", "x")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"takes": [{**take().model_dump(), "file": "../../etc/passwd"}]},
        {"takes": [{**take().model_dump(), "prompt": 1}]},
        {"takes": [{**take().model_dump(), "loudness": "loud"}]},
    ],
)
def test_what_is_no_list_of_takes_is_refused(change: dict[str, Any], place: Store) -> None:
    whole = Samples(variant="v", weights="w", prompts=[PROMPT], takes=[take()]).model_dump()
    place.write_bytes(FILE, json.dumps(whole).encode())
    assert begin_samples(place, "v", "w")
    place.write_bytes(FILE, json.dumps({**whole, **change}).encode())
    with pytest.raises(BadDataError, match=facts(FILE, "--output")):
        begin_samples(place, "v", "w")


def wish(**changes: Any) -> Wish:
    given = {"prompts": [PROMPT], "sources": [], "strengths": [0, 1], "seed": 1, "seconds": 10.0}
    return Wish(**{**given, **changes})


def test_what_a_model_is_not_made_for_is_refused_or_said(caplog: pytest.LogCaptureFixture) -> None:
    turbo = SAMPLING["turbo"]
    assert {name: kind.most_steps for name, kind in SAMPLING.items()} == {
        name: 20 if "turbo" in name else 200 for name in SAMPLING
    }
    for guidance in (None, 1.0):
        assert wish(guidance=guidance).settings(turbo, "t").guidance == 1.0
    with pytest.raises(UsageError, match=facts("--guidance 3", "acestep-v15-turbo")):
        wish(guidance=3.0).settings(turbo, "acestep-v15-turbo")
    assert wish(steps=20).settings(turbo, "t").steps == 20 and not caplog.text
    assert wish(steps=21).settings(turbo, "t").steps == 21
    assert "--steps 21" in caplog.text and "20" in caplog.text
    own = wish(steps=5, guidance=4.0, shift=2.0).settings(SAMPLING["base"], "b")
    assert (own.steps, own.guidance, own.shift) == (5, 4.0, 2.0)


def test_at_strength_0_there_is_one_model(tmp_path: Path) -> None:
    first, second = (Source(name, tmp_path, name) for name in "ab")
    ways = list(wish(sources=[first, second], strengths=[0.5, 0, -0.0, 1]).ways())
    assert ways == [(None, 0), (first, 0.5), (first, 1), (second, 0.5), (second, 1)]
