"""The schema's part about training: how an adapter is trained, and when it is saved."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sidestep.config.adapter import AdapterSpec
from sidestep.config.ema import EmaSpec
from sidestep.config.hearing import SampleSpec
from sidestep.config.judging import StopSpec, ValidationSpec
from sidestep.config.memory import Quantization
from sidestep.config.optimizers import OPTIMIZERS, OptimizerName, Scheduler
from sidestep.config.section import Place, Section, setting, split_named_pairs, split_pairs

MILESTONES = 10  # of a run, at most, unless the spec says otherwise

Alternate = Literal["trigger", "genre"]
"""A prompt of a song beside its own: with the trigger word alone as the caption, or with the genre."""

SHARES: dict[Alternate, str] = {"trigger": "caption_dropout", "genre": "genre_share"}
"""The field of `train` that says which share of samples has it."""

MOST_REPEATS = 1000
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000


def _not_true(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Repeats = Annotated[int, Field(ge=1, le=MOST_REPEATS), BeforeValidator(_not_true)]
Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT), BeforeValidator(_not_true)]


def _fixed_means_corrected(value: Any) -> Any:
    return "corrected" if value == "fixed" else value


class CheckpointSpec(Section):
    """When training is saved, and how much of it is kept."""

    every_epochs: int = setting(
        10, "Epochs between checkpoints.", ge=1, unit="epochs", aliases=["--save-every"]
    )
    every_steps: int | None = setting(
        None, "Optimizer steps between checkpoints, in addition to those by epochs.", ge=1, unit="steps"
    )
    every_minutes: float | None = setting(
        10,
        "Minutes between checkpoints, in addition to those by epochs: the most work that is lost when a "
        "machine disappears.",
        gt=0,
        unit="minutes",
    )
    keep: int = setting(3, "How many of the newest checkpoints to keep.", ge=1)
    keep_every_epochs: Annotated[int, Field(ge=1)] | Literal["auto"] | None = setting(
        "auto",
        "Checkpoints after multiples of this many epochs are made, and kept for good: auto keeps up to ten "
        "in a run (every tenth of 100 epochs, every fiftieth of 500), null none.",
        unit="epochs",
    )

    def milestone_epochs(self, epochs: int) -> int | None:
        """After multiples of how many epochs checkpoints of a run of `epochs` stay; None where none does."""
        if self.keep_every_epochs != "auto":
            return self.keep_every_epochs
        return self.every_epochs * math.ceil(epochs / (MILESTONES * self.every_epochs))


class TrainSpec(Section):
    """How the adapter is trained."""

    mode: Annotated[Literal["corrected", "vanilla"], BeforeValidator(_fixed_means_corrected)] = setting(
        "corrected",
        "corrected: logit-normal timesteps, conditioning dropout. vanilla: turbo's eight timesteps.",
    )
    adapter: AdapterSpec = AdapterSpec()
    epochs: int = setting(100, "Passes over the dataset.", ge=1, unit="epochs", aliases=["-e"])
    max_steps: int | None = setting(
        None, "Optimizer steps after which training ends early.", ge=1, unit="steps"
    )
    optimizer_type: OptimizerName = setting(
        "adamw",
        f"{'; '.join(f'{name} {row.says}'.strip() for name, row in OPTIMIZERS.items())}.",
        aliases=["--optimizer"],
    )
    lr: float | None = setting(
        None,
        "Peak learning rate; by default 1e-4, or 1.0 for prodigy.",
        gt=0,
        le=10,
        validate_default=True,
        aliases=["--learning-rate", "-l"],
    )
    scheduler: Scheduler | None = setting(
        None,
        "How the learning rate changes after warm-up: cosine (down to 1 %), cosine_restarts (four times), "
        "linear (down to 1 %), or constant_with_warmup; constant has no warm-up. "
        "By default cosine, or constant for prodigy.",
        validate_default=True,
        aliases=["--scheduler-type"],
    )
    lr_groups: Annotated[dict[str, Annotated[float, Field(gt=0, le=100)]], BeforeValidator(split_pairs)] = (
        Field(
            default_factory=dict,
            description="Other learning rates for some modules, as factors of lr, by a part of their paths: "
            "cross_attn=0.5 mlp=2 layers.3=0.1. All others are trained at lr.",
            examples=[{"cross_attn": 0.5}],
        )
    )
    warmup_steps: int = setting(
        100, "Optimizer steps of linear warm-up, at most a tenth of the run.", ge=0, unit="steps"
    )
    weight_decay: float = setting(0.01, "Decoupled weight decay.", ge=0, le=1)
    batch_size: int = setting(
        1,
        "Samples of one length that are computed at once, at most. A step has batch_size × accumulation "
        "samples, and trains the same however they are split between the two.",
        ge=1,
        aliases=["-b"],
    )
    accumulation: int = setting(
        4,
        "Micro-batches of an optimizer step: it has batch_size × accumulation samples.",
        ge=1,
        aliases=["--gradient-accumulation", "-g"],
    )
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.", gt=0)
    cfg_dropout: float = setting(
        0.15,
        "Share of samples trained without conditions (corrected mode).",
        ge=0,
        lt=1,
        aliases=["--cfg-ratio"],
    )
    caption_dropout: float = setting(
        0.0,
        "Share of samples whose caption is the trigger word alone; lyrics, bpm and key stay. The songs need "
        "one (custom_tag).",
        ge=0,
        lt=1,
    )
    genre_share: float = setting(
        0.0,
        "Share of samples whose caption is the song's genre, drawn anew for each; songs without a genre, and "
        "those with a prompt_override, keep what they have.",
        ge=0,
        le=1,
    )
    loss_weighting: Literal["none", "min_snr"] = setting(
        "none",
        "Weights of samples by their noise level: none, or min_snr, the min-SNR weights of a velocity. Only "
        "the training is weighted, not what is measured.",
    )
    min_snr_gamma: float = setting(
        5.0, "The signal-to-noise ratio from which min_snr no longer weights a sample up.", gt=0, le=1e6
    )
    repeats: Annotated[dict[str, Repeats], BeforeValidator(split_named_pairs)] = Field(
        default_factory=dict,
        description="How often songs come in an epoch, by their files' names: ballads/*=3. Wins over what "
        "the dataset says; 1 for all others.",
        examples=[{"ballads/*": 3}],
    )
    weights: Annotated[dict[str, Weight], BeforeValidator(split_named_pairs)] = Field(
        default_factory=dict,
        description="What songs weigh in a step's loss, by their files' names: demo-*=0.5. Wins over what "
        "the dataset says; 1 for all others.",
        examples=[{"demo-*": 0.5}],
    )
    timestep_mu: float | None = setting(
        None, "Mean of the logit-normal timestep distribution; by default the checkpoint's.", ge=-10, le=10
    )
    timestep_sigma: float | None = setting(
        None,
        "Standard deviation of the logit-normal timestep distribution; by default the checkpoint's.",
        gt=0,
        le=10,
    )
    chunk_duration: float | None = setting(
        None,
        "How many seconds of a song a step sees; by default the whole song.",
        ge=1,
        le=600,
        unit="seconds",
    )
    chunks: Literal["random", "cover"] = setting(
        "random",
        "Which part of a song chunk_duration cuts out: random takes any; cover takes the parts in turn, so "
        "that over the epochs all of a song is seen alike.",
    )
    seed: int = setting(42, "Seed of all random draws.", ge=0, lt=2**32, aliases=["-s"])
    gradient_checkpointing: bool = setting(
        True, "Recompute activations in the backward pass: far less memory, and steps 1.5 times as long."
    )
    gradient_checkpointing_ratio: float = setting(
        1.0,
        "Share of the decoder's layers that gradient_checkpointing applies to: less is faster, but takes "
        "more memory.",
        ge=0,
        le=1,
    )
    quantize: Quantization | Literal["auto"] = setting(
        "none",
        "How the decoder's frozen weights are held: none, 8bit (half the memory of bf16), nf4 (4 bits, "
        "needs bitsandbytes), or auto: the first of these under which the GPU has memory to train. It "
        "changes numbers, so a run keeps what it began with.",
    )
    block_swap: int = setting(
        0,
        "So many of the decoder's layers wait in the CPU's memory and are on the GPU only while they work: "
        "the same numbers, slower.",
        ge=0,
        le=256,
        unit="layers",
        aliases=["--blocks-to-swap"],
    )
    offload_activations: bool = setting(
        False,
        "Keep activations in the CPU's memory until the backward pass needs them: the same numbers, slower.",
    )
    log_every: int = setting(
        1, "Optimizer steps between points of the loss and lr curves in TensorBoard.", ge=1, unit="steps"
    )
    log_heavy_every: int = setting(
        50,
        "Optimizer steps between points of the gradient norms by module in TensorBoard.",
        ge=1,
        unit="steps",
    )
    resume_from: Place | None = setting(
        None,
        "Checkpoint to resume from: a path, a URI, or a name under <output_dir>/checkpoints. "
        "By default the newest one.",
    )
    init_from: Place | None = setting(
        None,
        "Adapter that a new run begins from, in any format that can be read: its folder, its file, or a "
        "run's output_dir. Once the run has a checkpoint, it plays no part.",
    )
    init_resize: bool = setting(
        False,
        "Bring the adapter of init_from to this run's rank by SVD, and let modules that it lacks begin as "
        "new ones.",
        flag="--resize",
    )
    new_attempt: bool = setting(
        False,
        "Let resume_from go back to an older checkpoint than this output's newest. Later checkpoints "
        "then no longer count. Also tries again after max_attempts in a row without progress.",
    )
    extend: bool = setting(
        False,
        "Let a run continue to more epochs or max_steps than it began with. The learning rate "
        "then follows the longer run's schedule.",
    )
    accept_other_weights: bool = setting(
        False,
        "Train on tensors made by a different VAE, text encoder or condition encoder than the checkpoint's. "
        "A fine-tune does not need this if its base_model made them.",
    )
    checkpoint: CheckpointSpec = CheckpointSpec()
    ema: EmaSpec = EmaSpec()
    validation: ValidationSpec = ValidationSpec()
    best: bool = setting(
        False, "Keep the checkpoint with the lowest held-out loss, whatever else is deleted."
    )
    publish: Literal["best", "last"] | None = setting(
        None,
        "Which checkpoint becomes the adapter: that with the lowest held-out loss, or the last one. "
        "By default best where train.best is on, else last.",
        validate_default=True,
    )
    stop: StopSpec = StopSpec()
    target_loss: float | None = setting(None, "End the run once the held-out loss is at most this.", gt=0)
    sample: SampleSpec = SampleSpec()

    @field_validator("best", "publish", "stop", "target_loss")
    @classmethod
    def _judged_by_held_out_songs(cls, value: Any, info: ValidationInfo) -> Any:
        """Nothing can be best, and nothing gets better, that is not measured."""
        asks = (
            value.patience
            if isinstance(value, StopSpec)
            else value == "best"
            if info.field_name == "publish"
            else value
        )
        validation = info.data.get("validation")
        if asks and validation and not validation.is_on:
            raise ValueError(
                "goes by the held-out loss: set train.validation.share, or name train.validation.songs"
            )
        if info.field_name == "publish" and value is None:
            return "best" if info.data.get("best") else "last"
        return value

    @property
    def alternates(self) -> tuple[Alternate, ...]:
        """The prompts of songs, beside their own, that samples are drawn from."""
        return tuple(alternate for alternate, field in SHARES.items() if getattr(self, field))

    @field_validator("cfg_dropout")
    @classmethod
    def _vanilla_drops_nothing(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("mode") == "vanilla" and value not in (0, cls.model_fields["cfg_dropout"].default):
            raise ValueError("is for corrected mode alone: vanilla mode never drops conditions")
        return value

    @field_validator("chunks")
    @classmethod
    def _whole_songs_are_covered(cls, value: str, info: ValidationInfo) -> str:
        if value == "cover" and "chunk_duration" in info.data and info.data["chunk_duration"] is None:
            raise ValueError("covers songs with chunks, and chunk_duration is not set: whole songs are seen")
        return value

    @field_validator("min_snr_gamma")
    @classmethod
    def _noise_levels_weigh(cls, value: float, info: ValidationInfo) -> float:
        is_default = value == cls.model_fields["min_snr_gamma"].default
        if info.data.get("loss_weighting") == "none" and not is_default:
            raise ValueError("is for loss_weighting min_snr alone: set train.loss_weighting, or leave it out")
        return value

    @property
    def samples_per_step(self) -> int:
        """Whose gradients make up one optimizer step."""
        return self.batch_size * self.accumulation

    @field_validator("init_resize")
    @classmethod
    def _has_what_to_resize(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("init_from", True) is None:
            raise ValueError("is for the adapter that init_from names, and there is none")
        return value

    @field_validator("lr_groups")
    @classmethod
    def _the_optimizer_takes_several_rates(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("optimizer_type") == "prodigy":
            raise ValueError(
                "is not for prodigy, which finds one learning rate for all modules together: "
                "choose another optimizer_type"
            )
        return value

    @field_validator("lr", "scheduler")
    @classmethod
    def _what_suits_the_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        """Stands in the resolved spec, so that job.yaml and a run's log say what is used."""
        if value is None:
            # Where the optimizer is refused, what suits it matters no more.
            return getattr(OPTIMIZERS[info.data.get("optimizer_type", "adamw")], str(info.field_name))
        return value
