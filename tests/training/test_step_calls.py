"""What a step does not do: wait for the device, compute what nobody asks for, fill what is written anyway."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sidestep.config.schema import RuntimeSpec
from sidestep.training import rng
from sidestep.training.batches import join
from sidestep.training.dropout import Masks
from sidestep.training.flow import flow_losses
from sidestep.training.loop import Trainer
from sidestep.training.machine import choose_machine
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

WAITS = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__"}
"""Of a tensor's methods, those that wait for a GPU to have computed it."""


class Waits(TorchFunctionMode):
    """Which of a tensor's methods were called that wait for it, also by libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in WAITS:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


class Calls(TorchDispatchMode):
    """How often each of torch's operations was called, by its name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def trainer(make_spec: MakeSpec) -> Trainer:
    """Three songs make a step, each of another length."""
    settings = {"gradient_checkpointing": False, "accumulation": 2, "batch_size": 2}
    return trainer_of(make_spec(**settings, adapter={"dropout": 0.5}))


def test_a_step_waits_for_the_device_once(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its end, for the numbers that are logged. Draws are made on the CPU, before."""
    group = trainer.schedule.group(0)
    drawn = {entry.index: trainer._drawn(entry) for entry in group.entries}
    monkeypatch.setattr(trainer, "_drawn", lambda entry: drawn[entry.index])
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)  # its counts are on the CPU
    with Waits() as waits:
        result = trainer.step(0)
    assert result is not None and result.is_finite and len(result.losses) == 3
    assert waits.seen == ["tolist"]


def step_of_one(trainer: Trainer) -> Callable[[], Tensor]:
    """The loss of one sample; what is drawn is drawn now."""
    [entry, *_] = trainer.schedule.group(0).entries
    batch = join([trainer._drawn(entry)])
    trainer.model.train()
    trainer.masks.begin([entry.index], torch.device("cpu"))
    return lambda: flow_losses(trainer.model, batch).sum()


def test_the_backward_pass_computes_what_the_adapter_needs(trainer: Trainer) -> None:
    """No gradient of a frozen weight, of the conditions, nor of what the first layer gets."""
    layers = trainer.adapter.layers
    loss = step_of_one(trainer)()
    with Calls() as calls:
        loss.backward()
    inputs_without = {f"layers.0.self_attn.{name}_proj" for name in "qkv"}
    inputs_without |= {path for path in layers if path.endswith(("cross_attn.k_proj", "cross_attn.v_proj"))}
    # Of each module: to A and to B; through B; and to the input, through A and through the frozen weight.
    wanted = sum(3 if path in inputs_without else 5 for path in layers)
    mlps = 3 * len({path.split(".")[1] for path in layers})  # frozen: to the input alone
    assert calls.seen["mm"] + calls.seen["bmm"] == wanted + mlps
    assert calls.seen["convolution_backward"] == 1  # to the last one's input


def test_masks_of_a_layer_are_drawn_together_to_the_same_bits(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU has them: by layer, also where it is computed again, and where songs differ in length."""
    draws: list[int] = []
    draw = rng.is_dropped

    def counted(keys: Tensor, count: int, level: int) -> Tensor:
        draws.append(len(keys))
        return draw(keys, count, level)

    monkeypatch.setattr(rng, "is_dropped", counted)
    settings = {"gradient_checkpointing": True, "accumulation": 1, "adapter": {"dropout": 0.5}}
    found = []
    for by_layer in (False, True):
        trainer = trainer_of(make_spec(f"out-{by_layer}", **settings))
        trainer.masks = Masks(trainer.adapter, trainer.sampling.seed, by_layer=by_layer)
        draws.clear()
        results = [trainer.step(step) for step in range(3)]
        weights = {name: weight.detach().clone() for name, weight in trainer.adapter.parameters().items()}
        found.append((draws.copy(), results, weights))
    (alone, results, weights), (together, same_results, same_weights) = found
    assert set(alone) == {1} and len(alone) == 3 * 2 * len(weights) // 2
    assert max(together) == 6 and len(together) < len(alone) / 2  # after the first step: 6 of one size, and 2
    assert results == same_results
    assert all(torch.equal(weight, same_weights[name]) for name, weight in weights.items())


def test_a_mask_drawn_ahead_in_another_size_is_not_used(trainer: Trainer) -> None:
    """Audio and conditions were as long as each other in the pass before, and are not in this one."""
    masks = Masks(trainer.adapter, 3, by_layer=True)
    for sample, sizes in enumerate(((8, 8), (12, 20))):
        masks.begin([sample], torch.device("cpu"))
        for module, size in enumerate(sizes):
            alone = Masks(trainer.adapter, 3, by_layer=False)
            alone.begin([sample], torch.device("cpu"))
            assert torch.equal(masks.dropped(module, size), alone.dropped(module, size))


def test_determinism_does_not_fill_what_is_written_anyway(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are the same with torch's filling of new tensors, so nothing is read before."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    gradients = []
    try:
        trainer = trainer_of(make_spec(), choose_machine(RuntimeSpec(device="cpu", deterministic=True)))
        assert torch.are_deterministic_algorithms_enabled()
        filling: Any = torch.utils.deterministic
        assert filling.fill_uninitialized_memory is False
        for fills in (False, True):
            filling.fill_uninitialized_memory = fills
            trainer.optimizer.zero_grad()
            step_of_one(trainer)().backward()
            found = [parameter.grad for parameter in trainer.adapter.parameters().values()]
            gradients.append([gradient.clone() for gradient in found if gradient is not None])
    finally:
        torch.use_deterministic_algorithms(False)
    assert gradients[0] and all(map(torch.equal, *gradients))
