"""Gradient norms of the attention weights: which modules does a dataset move most?

The flow loss is drawn as in corrected training, without condition dropout; a module's sensitivity is
the norm of its weight's gradient, averaged over batches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from sidestep.acestep.names import original_name
from sidestep.config.adapter import ATTENTION_MODULES
from sidestep.data.tensors import Sample
from sidestep.runtime.progress import track
from sidestep.training import rng
from sidestep.training.dataset import fetching
from sidestep.training.flow import Batch, SamplingConfig, draw_batch, flow_loss


def attention_weights(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The q, k, v and o weights of every layer, by their modules' original names."""
    named = ((original_name(name), parameter) for name, parameter in transformer.named_parameters())
    return {
        name.removesuffix(".weight"): parameter
        for name, parameter in named
        if name.endswith(tuple(f".{module}.weight" for module in ATTENTION_MODULES))
    }


def draw_batches(
    samples: Sequence[Sample],
    null_condition: Tensor,
    sampling: SamplingConfig,
    count: int,
    device: torch.device,
) -> Iterator[Batch]:
    """So many batches of one song each, on `device`: all songs in shuffled order, then all once more."""
    songs = len(samples)
    order = [rng.order(sampling.seed, index // songs, songs)[index % songs] for index in range(count)]
    with fetching(samples, order), track("Estimating", total=count, unit="batches") as bar:
        for index, song in enumerate(order):
            yield draw_batch(samples[song], null_condition, sampling, index, device)
            bar.advance(1)


def mean_gradient_norms(
    transformer: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch]
) -> dict[str, float]:
    """Mean gradient norm of each of the `weights` over `batches`.

    `weights` are those of the bare transformer: one that Fabric has set up has other names. A
    gradient is measured and dropped as soon as it is there, so that at most a few of them exist at a
    time: less memory than training takes.
    """
    norms: dict[str, list[Tensor]] = {name: [] for name in weights}

    def measure_and_drop(name: str) -> object:
        def hook(weight: Tensor) -> None:
            assert weight.grad is not None
            norms[name].append(weight.grad.float().norm().detach())
            weight.grad = None

        return weights[name].requires_grad_(True).register_post_accumulate_grad_hook(hook)

    handles = [measure_and_drop(name) for name in weights]
    try:
        for batch in batches:
            flow_loss(transformer, batch).backward()
    finally:
        for handle, weight in zip(handles, weights.values(), strict=True):
            handle.remove()  # type: ignore[attr-defined]
            weight.requires_grad_(False)
    return {name: float(torch.stack(values).mean()) for name, values in norms.items()}
