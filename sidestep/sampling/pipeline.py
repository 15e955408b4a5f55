"""Latents by diffusers' `AceStepPipeline`, from this project's own modules and prompts encoded before.

The pipeline's schedule, guidance and Euler steps are used as they are. Prompts are encoded as preprocessing
does it, before the decoder is loaded: neither text encoder nor condition encoder is in memory beside it, and
XL has its timbre token, which diffusers' encoder lacks. The adapter is whatever the decoder carries, of any
kind.

The pipeline leaves the modules that it is given in the mode that they are in. Here they are brought into
evaluation, and every one back into its own mode afterwards.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AceStepPipeline, AceStepTransformer1DModel, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from sidestep.acestep.vae import LATENT_CHANNELS, LATENTS_PER_SECOND
from sidestep.runtime.liveness import sign_of_life
from sidestep.sampling.wish import Settings


class _Conditions:
    """Stands in for the condition encoder: it gives what has been encoded already.

    Attributes:
        current: the condition tokens [L, D] of the take that is made.
    """

    def __init__(self, silence_latent: Tensor, null_condition_emb: Tensor, like: nn.Module) -> None:
        self.silence_latent, self.null_condition_emb = silence_latent, null_condition_emb
        self._like = like
        self.current: Tensor | None = None

    def __call__(self, **_: Any) -> tuple[Tensor, None]:
        assert self.current is not None
        weight = next(self._like.parameters())
        return self.current[None].to(weight.device, weight.dtype), None


class _Encoded(AceStepPipeline):  # type: ignore[misc]  # diffusers' types are not followed
    """The pipeline, for prompts whose conditions are known: no text is read."""

    def encode_prompt(self, *_: Any, **__: Any) -> tuple[None, None, None, None]:
        return None, None, None, None


class Sampler:
    """Makes latents with a decoder, in whatever state that is in: bare, or with an adapter at some strength.

    Args:
        transformer: the decoder, on its device and in its precision.
        silence_latent: the model's latents of silence, [1, 15000, 64].
        null_condition: the condition token [1, 1, D] of no prompt, for guidance.
    """

    def __init__(
        self, transformer: AceStepTransformer1DModel, silence_latent: Tensor, null_condition: Tensor
    ) -> None:
        self._transformer = transformer
        self._conditions = _Conditions(silence_latent, null_condition, transformer)
        # The pipeline makes its own schedule, and hands it over as it is.
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
        self._pipeline = _Encoded(
            vae=None,
            text_encoder=None,
            tokenizer=None,
            transformer=transformer,
            condition_encoder=self._conditions,
            scheduler=scheduler,
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def latents(
        self, conditions: Tensor, settings: Settings, on_step: Callable[[], object] = lambda: None
    ) -> Tensor:
        """Latents [T, 64] (fp32, on the CPU) of a prompt with these `conditions` [L, D].

        Nothing is drawn but the noise of the seed, by a generator of its own: neither torch's random state
        nor anything of the modules is another one afterwards.
        """

        def after_step(*_: Any) -> dict[str, Any]:
            sign_of_life()
            on_step()
            return {}

        self._conditions.current = conditions
        try:
            with evaluating(self._transformer):
                made: Tensor = self._pipeline(
                    prompt="",
                    audio_duration=settings.seconds,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    shift=settings.shift,
                    latents=noise_of(settings.seed, settings.seconds),
                    output_type="latent",
                    return_dict=False,
                    callback_on_step_end=after_step,
                )[0]
        finally:
            self._conditions.current = None
        return made[0].float().cpu()


def noise_of(seed: int, seconds: float) -> Tensor:
    """The noise [1, T, 64] that a take begins with: the same on every device and in every precision."""
    frames = math.ceil(seconds * LATENTS_PER_SECOND)
    return torch.randn(1, frames, LATENT_CHANNELS, generator=torch.Generator().manual_seed(seed))


@contextmanager
def evaluating(*roots: nn.Module) -> Iterator[None]:
    """Inside, `roots` and all below are in evaluation; then each module is in its own mode again, also after
    an exception. A training leaves some in evaluation, so that `train()` would not bring them back."""
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training
