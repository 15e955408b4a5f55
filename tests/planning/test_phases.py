"""A plan of each task: its phases, what they take against the real models, and what cards cost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sidestep.acestep.conditioning import PROMPT_TOKENS
from sidestep.acestep.loading import load_model, load_text_encoder, load_vae
from sidestep.acestep.releases import configs_of
from sidestep.acestep.vae import SAMPLES_PER_LATENT, encode_audio, tiles
from sidestep.config.job import JobSpec
from sidestep.planning.cards import CARDS
from sidestep.planning.passes import passes_of
from sidestep.planning.phases import phases_of
from sidestep.planning.plan import Plan, make_plan
from sidestep.planning.prices import read_prices
from sidestep.planning.report import as_data, as_text
from sidestep.planning.songs import TOKEN_BYTES, TOKENS, assumed_songs
from sidestep.runtime.errors import BadDataError, MissingInputError
from tests.facts import facts
from tests.planning.test_plan import TINY

PASSES = ["pass 1, songs", "pass 1, texts", "pass 2, conditions"]
SONGS = assumed_songs(7, 8.0)


def spec_of(task: str, **settings: Any) -> JobSpec:
    return JobSpec.load(None, task=task, audio_dir="songs", output_dir="out", **settings)


def plan_of(task: str, limit: float | None = None, **settings: Any) -> Plan:
    return make_plan(spec_of(task, **settings), TINY, SONGS, limit=limit)


@pytest.mark.parametrize(
    ("task", "phases"),
    [
        ("preprocess", PASSES),
        ("estimate", ["estimate"]),
        ("train", ["train"]),
        ("pipeline", [*PASSES, "estimate", "train"]),
    ],
)
def test_a_plan_is_of_the_task_that_is_asked_about(task: str, phases: list[str]) -> None:
    plan = plan_of(task)
    assert [phase.name for phase in plan.phases] == phases
    assert ("steps" in plan.job) == ("adapter" in plan.job) == (task in ("train", "pipeline"))
    data = as_data(plan)
    assert data["task"] == task and [phase["name"] for phase in data["phases"]] == phases
    assert all(phase in as_text(plan) for phase in phases)


def test_preprocessing_is_in_fp32_whatever_training_is_in() -> None:
    plan = plan_of("preprocess", runtime={"precision": "bf16"})
    assert {phase.precision for phase in plan.phases} == {row.precision for row in plan.cards} == {"fp32"}
    assert len(plan.cards) == len(CARDS)
    assert plan_of("estimate", runtime={"precision": "fp16"}).phases[0].precision == "fp32"


def test_a_pipeline_takes_the_time_of_all_and_the_memory_of_the_largest() -> None:
    tasks = [plan_of(task) for task in ("preprocess", "estimate", "train")]
    for row, *parts in zip(plan_of("pipeline").cards, *(plan.cards for plan in tasks), strict=True):
        assert row.seconds == pytest.approx(sum(part.seconds for part in parts))
        assert row.memory == max(part.memory for part in parts)


def test_an_estimate_takes_no_optimizer_and_grows_with_its_batches() -> None:
    plan = plan_of("estimate")
    assert not {"adapter", "optimizer"} & plan.largest.memory.keys()
    assert plan.largest.memory["gradients"].value > 0
    more = plan_of("estimate", estimate={"batches": 10})
    assert more.phases[0].flops == 2 * plan.phases[0].flops


def test_songs_are_encoded_in_tiles(tiny_checkpoints: Path) -> None:
    """FLOPs and weights are those of the real VAE; memory does not grow beyond a tile's."""
    vae = load_vae(tiny_checkpoints, "cpu", torch.float32)
    with FlopCounterMode(display=False) as counter:
        encode_audio(vae, torch.zeros(2, 25 * SAMPLES_PER_LATENT))
    short, *_ = passes_of(TINY, assumed_songs(3, 1.0))
    assert short.flops == pytest.approx(3 * counter.get_total_flops(), rel=0.01)
    assert short.parts("fp32")["weights"] == sum(parameter.nbytes for parameter in vae.parameters())
    assert list(tiles(900)) == [(0, 650, 0, 700), (650, 900, 600, 900)]  # a thousand are encoded
    long, longest = (passes_of(TINY, assumed_songs(1, seconds))[0] for seconds in (36, 600))
    assert long.flops == pytest.approx(short.flops / 75 * 1000, rel=0.01)
    activations = [phase.parts("fp32")["activations"] for phase in (short, long, longest)]
    assert activations[1] == activations[2] and 29 < activations[1] / activations[0] < 31


def test_texts_and_conditions_are_those_of_the_real_models(tiny_checkpoints: Path) -> None:
    spec = spec_of("preprocess", checkpoint_dir=str(tiny_checkpoints))
    configs = configs_of(spec, offline=False)
    _, texts, conditions = passes_of(configs, assumed_songs(2, 8.0))
    text = load_text_encoder(tiny_checkpoints, "cpu", torch.float32).model
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        text(input_ids=torch.ones(1, PROMPT_TOKENS, dtype=torch.long))
    attention = 2 * 4 * PROMPT_TOKENS**2 * 4 * 16  # of two layers; torch counts none of the CPU's
    assert texts.flops == 2 * (counter.get_total_flops() + attention)
    assert texts.parts("fp32")["weights"] == sum(parameter.nbytes for parameter in text.parameters())
    encoder = load_model(tiny_checkpoints, "base", parts=("condition_encoder",)).condition_encoder
    weights = sum(weight.nbytes for weight in encoder.state_dict().values())
    assert conditions.parts("fp32")["weights"] == pytest.approx(weights, rel=0.01)


def test_other_prompts_take_their_time_and_disk_and_no_memory() -> None:
    plain = plan_of("preprocess")
    more = plan_of("preprocess", preprocess={"alternates": ["genre"]}, train={"caption_dropout": 0.1})
    assert "prompts" not in plain.job
    assert more.job["prompts"].value == 2 * 7 * TOKENS * TOKEN_BYTES
    assert all(word in more.job["prompts"].says for word in ("genre", "trigger", "0.06 GB"))
    for before, now in zip(plain.phases, more.phases, strict=True):
        assert now.memory == before.memory
        assert now.flops == before.flops * (1 if "songs" in now.name else 3)
    trained = plan_of("train", train={"caption_dropout": 0.1})
    assert trained.phases == plan_of("train").phases and "prompts" not in trained.job


def test_what_saves_memory_is_what_the_task_has() -> None:
    few = 1e6
    preprocess = plan_of("preprocess", limit=few)
    assert preprocess.fit and preprocess.fit.changes is None and preprocess.fit.phase == PASSES[0]
    assert "runtime.device: cpu" in as_text(preprocess) and "rank" not in as_text(preprocess)
    spec = spec_of("estimate", runtime={"precision": "fp32"}, train={"adapter": {"rank": 64}})
    total = {precision: phases_of(spec, TINY, SONGS)[0].memory(precision) for precision in ("bf16", "fp32")}
    estimate = make_plan(spec, TINY, SONGS, limit=total["bf16"])
    assert estimate.fit and [change.settings for change in estimate.fit.changes or []] == [
        {"runtime.precision": "bf16"}
    ]


def test_restarts_alone_are_lost_where_nothing_is_committed() -> None:
    spot = make_plan(spec_of("preprocess"), TINY, SONGS, hours_between_preemptions=1)
    assert "commit every" not in spot.preemptions
    assert spot.preemptions["lost"].value == pytest.approx(300 / 3600)


PRICES = "currency: EUR\ndate: 2026-11-01\nper_hour:\n  rtx 4090: 0.5\n  H100: 2\n"


def test_prices_are_by_card_and_dated(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    prices = read_prices(tmp_path / "prices.yaml")
    spec = spec_of("train", runtime={"price_per_hour": 7})
    plan = make_plan(spec, TINY, SONGS, prices=prices)
    cost = {row.card.name: (row.cost, row.seconds) for row in plan.cards}
    assert cost["RTX 4090"][0] == pytest.approx(0.5 * cost["RTX 4090"][1] / 3600)
    assert cost["L4"][0] is None
    assert "EUR" in as_text(plan) and "2026-11-01" in as_text(plan)
    assert as_data(plan)["prices"] == {
        "currency": "EUR",
        "date": "2026-11-01",
        "per_hour": {"RTX 4090": 0.5, "H100": 2},
    }
    (tmp_path / "prices.json").write_text(
        '{"currency": "EUR", "date": "2026-11-01", "per_hour": {"RTX 4090": 0.5, "H100": 2}}'
    )
    assert read_prices(tmp_path / "prices.json") == prices


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PRICES.replace("H100", "H1000"), ["prices.yaml:5", "H1000", "H100"]),
        (PRICES.replace("date: 2026-11-01\n", ""), ["date"]),
        (PRICES.replace("2026-11-01", "last week"), ["date"]),
        (PRICES.replace("0.5", "-1"), ["per_hour"]),
        (PRICES.replace("0.5", "cheap"), ["per_hour"]),
        ("- 1", ["a file of prices"]),
        ("", ["currency", "per_hour"]),
        ("[" * 1000, ["prices.yaml"]),
    ],
)
def test_what_is_no_file_of_prices(tmp_path: Path, content: str, told: list[str]) -> None:
    (tmp_path / "prices.yaml").write_text(content)
    with pytest.raises(BadDataError, match=facts("prices.yaml", *told)) as refused:
        read_prices(tmp_path / "prices.yaml")
    assert "job spec" not in str(refused.value)
    with pytest.raises(MissingInputError, match=facts("none.yaml")):
        read_prices(tmp_path / "none.yaml")


def test_there_are_cards_of_the_usual_sizes() -> None:
    assert {8, 10, 12, 16, 24} <= {card.gib for card in CARDS}
    assert len({card.name for card in CARDS}) == len(CARDS)
