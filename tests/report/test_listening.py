"""The page to listen: what is compared, how loud it is, and that nothing in it can reach outside."""

import json
import re
from typing import Any

import pytest

from sidestep.report.listening import Look, gains_of, listening_page, name_of, pairs_of
from sidestep.sampling.takes import Prompt, Samples, Take

LOOK = Look([(-0.5, 0.5), (-1.0, 0.25)], b"\x89PNG")


def take(number: int, checkpoint: str | None = None, strength: float = 0.0, **more: Any) -> Take:
    fields: dict[str, Any] = {
        "file": f"{number:02d}-take.wav",
        "prompt": 0,
        "strength": strength,
        "checkpoint": checkpoint,
        "adapter": None,
        "seed": 42,
        "steps": 8,
        "guidance": 1.0,
        "shift": 3.0,
        "seconds": 2.0,
        "loudness": -20.0,
    }
    return Take(**(fields | more))


TAKES = [
    take(0, "adapter", 1.0, loudness=-14.0),
    take(1),
    take(2, "adapter", 0.5, loudness=-26.0),
    take(3, prompt=1),
    take(4, "adapter", 1.0, prompt=1, loudness=-70.0),
    take(5, seed=7),
]


def samples(takes: list[Take] = TAKES, caption: str = "warm summer") -> Samples:
    prompts = [Prompt(caption=caption), Prompt(caption="", lyrics="la la", source="held-out", song="a.wav")]
    return Samples(variant="turbo", weights="0" * 64, prompts=prompts, takes=takes)


def test_the_base_model_is_compared_with_each_other_take_that_began_alike() -> None:
    assert [(pair.prompt, pair.takes) for pair in pairs_of(TAKES)] == [(0, (1, 0)), (0, (1, 2)), (1, (3, 4))]


def test_without_the_base_model_the_first_take_stands_in_its_place() -> None:
    only = [take(0, "checkpoint-epoch-1", 1.0), take(1, "adapter", 1.0)]
    assert [pair.takes for pair in pairs_of(only)] == [(0, 1)]


def test_a_sound_is_not_compared_with_itself_in_another_kind_of_file() -> None:
    both = [
        take(number, *way, file=f"{number:02d}-take.{kind}")
        for kind in ("flac", "wav")
        for number, way in enumerate([(None, 0.0), ("adapter", 1.0)])
    ]
    assert [pair.takes for pair in pairs_of(both)] == [(0, 1), (2, 3)]


def test_levels_are_those_of_the_softest_and_silence_is_none() -> None:
    gains = gains_of(TAKES)
    assert gains[2] == 1.0
    assert gains[1] == pytest.approx(10 ** (-6 / 20), abs=1e-4)
    assert gains[0] == pytest.approx(10 ** (-12 / 20), abs=1e-4)
    assert gains[3:] == [1.0, 1.0, 1.0]


def test_names_say_checkpoint_and_strength() -> None:
    assert name_of(TAKES[1]) == "base model"
    assert "adapter" in name_of(TAKES[2]) and "0.5" in name_of(TAKES[2])


def test_no_text_leaves_its_place() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    takes = [*TAKES, take(6, evil, 1.0)]
    text = listening_page(samples(takes, caption=evil), [LOOK] * len(takes))
    assert text.count("<script") == text.count("</script") == 2
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


def test_nothing_is_fetched_but_the_sounds_beside_it() -> None:
    text = listening_page(samples(), [LOOK] * len(TAKES))
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {source for source in sources if not source.startswith("data:image/png;base64,")} == {
        one.file for one in TAKES
    }
    assert "://" not in text


def test_the_page_s_data_says_what_is_compared_and_how_loud() -> None:
    text = listening_page(samples(), [LOOK] * len(TAKES), note="only noise")
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    data = json.loads(found)
    assert data["pairs"] == [[0, 1, 0], [0, 1, 2], [1, 3, 4]]
    assert [one["file"] for one in data["takes"]] == [one.file for one in TAKES]
    assert [one["gain"] for one in data["takes"]] == gains_of(TAKES)
    assert "only noise" in text


def test_other_samples_have_another_key_and_the_same_the_same() -> None:
    keys = [
        re.findall(r'"key":"(\w+)"', listening_page(one, [LOOK] * len(one.takes)))
        for one in (samples(), samples(), samples(TAKES[:2]))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_one_take_alone_has_no_pairs_and_is_there_to_be_heard() -> None:
    text = listening_page(samples(TAKES[:1]), [LOOK])
    assert 'id="blind"' not in text
    assert text.count("<audio") == 1
