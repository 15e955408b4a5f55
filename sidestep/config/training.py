"""The schema's part about training: the adapter, how it is trained, and when it is saved."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sidestep.config.optimizers import OPTIMIZERS, OptimizerName, Scheduler
from sidestep.config.section import LOKR, LORA, Place, Section, mark_of, setting

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
MILESTONES = 10  # of a run, at most, unless the spec says otherwise
MLP_MODULES = ("gate_proj", "up_proj", "down_proj")


def _split_words(value: Any) -> Any:
    """Accept "q_proj v_proj" and "q_proj,v_proj" too, as flags and variables give a list."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [word for item in value for word in _split_words(item)]
    return value


def _split_pairs(value: Any) -> Any:
    """Accept "q_proj=8 v_proj=16" too, as flags and variables give a mapping."""
    words = _split_words(value)
    if not isinstance(words, list):
        return value
    pairs = [word.partition("=") for word in words if isinstance(word, str)]
    if len(pairs) < len(words) or not all(equals for _, equals, _ in pairs):
        raise ValueError("is not a list of pairs such as q_proj=8 layers.0.self_attn.v_proj=16")
    return {key: number for key, _, number in pairs}


def _fixed_means_corrected(value: Any) -> Any:
    return "corrected" if value == "fixed" else value


class AdapterSpec(Section):
    """What is trained: the adapter's kind, size and place in the model."""

    type: Literal["lora", "lokr"] = setting(
        "lora", "lora (PEFT, recommended) or lokr (LyCORIS, experimental).", flag="--adapter-type"
    )
    rank: int = setting(
        64, "Rank of LoRA, or linear dimension of LoKR.", ge=1, le=4096, aliases=["--lokr-linear-dim", "-r"]
    )
    alpha: float = setting(
        128,
        "The update is scaled by alpha / rank; by default, alpha is twice the rank.",
        gt=0,
        aliases=["--lokr-linear-alpha"],
    )
    dropout: float = setting(
        0.1, "Dropout: on a LoRA's input, on a LoKR's output. A LoKR has none by default.", ge=0, lt=1
    )
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_split_words)] = setting(
        ATTENTION_MODULES,
        "Modules that get an adapter: q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, "
        "or the end of a path, such as layers.3.self_attn.q_proj.",
        min_length=1,
    )
    attention: Literal["self", "cross", "both"] = setting(
        "both",
        "Which attention q_proj, k_proj, v_proj and o_proj stand for: self, cross, or both.",
        aliases=["--attention-type"],
    )
    rank_pattern: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(_split_pairs), LORA
    ] = Field(
        default_factory=dict,
        description="Different ranks for some modules (LoRA only), by the end of their paths: v_proj=16.",
    )
    alpha_pattern: Annotated[
        dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_split_pairs), LORA
    ] = Field(
        default_factory=dict,
        description="Different alphas for some modules (LoRA only), by the end of their paths: v_proj=32.",
    )
    bias: Literal["none"] = setting(
        "none", "PEFT's option of that name; always none, because the adapted layers have no biases."
    )
    factor: Annotated[int, LOKR] = setting(
        -1,
        "LoKR: size of the first Kronecker factor; -1 splits each dimension near its square root.",
        ge=-1,
        flag="--lokr-factor",
    )
    decompose_both: Annotated[bool, LOKR] = setting(
        False,
        "LoKR: make the first Kronecker factor low-rank too, if the rank is small enough.",
        flag="--lokr-decompose-both",
    )
    use_tucker: Annotated[bool, LOKR] = setting(
        False,
        "LoKR: Tucker decomposition; it is for convolutions only, so it has no effect on this model.",
        flag="--lokr-use-tucker",
    )
    use_scalar: Annotated[bool, LOKR] = setting(
        False, "LoKR: scale each update by a trained number that starts at zero.", flag="--lokr-use-scalar"
    )
    weight_decompose: Annotated[bool, LOKR] = setting(
        False,
        "LoKR: train the length and the direction of each weight row separately, as DoRA does.",
        flag="--lokr-weight-decompose",
    )

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows_rank(cls, values: Any) -> Any:
        """A smaller rank alone shall not scale the update up: alpha stays twice the rank."""
        if not isinstance(values, dict) or "rank" not in values or "alpha" in values:
            return values
        try:
            rank = float(values["rank"])
        except (TypeError, ValueError):
            return values  # the rank itself is refused
        return values | {"alpha": 2 * rank} if rank >= 1 else values

    @model_validator(mode="before")
    @classmethod
    def _lokr_has_no_dropout_by_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") == "lokr":
            return {"dropout": 0} | values
        return values

    @field_validator("attention")
    @classmethod
    def _narrows_something(cls, value: str, info: ValidationInfo) -> str:
        targets = info.data.get("target_modules", ATTENTION_MODULES)
        if value != "both" and not set(targets) & set(ATTENTION_MODULES):
            raise ValueError(
                f"narrows {', '.join(ATTENTION_MODULES)}, none of which is in target_modules: "
                "leave attention at both, and say it in the paths, as in self_attn.q_proj"
            )
        return value

    @field_validator("bias", mode="before")
    @classmethod
    def _biases_are_not_trained(cls, value: Any) -> Any:
        if value in ("all", "lora_only"):
            raise ValueError(
                "must be none: the layers that get an adapter have no biases, and those of other layers "
                "would be lost on ComfyUI and diffusers, which do not read them from a LoRA"
            )
        return value

    @field_validator("*")
    @classmethod
    def _has_an_effect(cls, value: Any, info: ValidationInfo) -> Any:
        """The other type's settings are refused where they say something: nothing is set in vain."""
        field, chosen = cls.model_fields[str(info.field_name)], info.data.get("type")
        meant = mark_of(field).adapter_type
        if meant and chosen not in (None, meant) and value != field.get_default(call_default_factory=True):
            raise ValueError(f"is for {meant} alone, and adapter.type is {chosen}")
        return value


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
    warmup_steps: int = setting(
        100, "Optimizer steps of linear warm-up, at most a tenth of the run.", ge=0, unit="steps"
    )
    weight_decay: float = setting(0.01, "Decoupled weight decay.", ge=0, le=1)
    accumulation: int = setting(
        4,
        "How many samples' gradients make up one optimizer step.",
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
        "How many seconds of a song a step sees, cut from anywhere in it; by default the whole song.",
        ge=1,
        le=600,
        unit="seconds",
    )
    seed: int = setting(42, "Seed of all random draws.", ge=0, lt=2**32, aliases=["-s"])
    gradient_checkpointing: bool = setting(
        True, "Recompute activations in the backward pass: needs far less memory, is 10-30 % slower."
    )
    gradient_checkpointing_ratio: float = setting(
        1.0,
        "Share of the decoder's layers that gradient_checkpointing applies to: less is faster, but takes "
        "more memory.",
        ge=0,
        le=1,
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
    new_attempt: bool = setting(
        False,
        "Let resume_from go back to an older checkpoint than this output's newest. Later checkpoints "
        "then no longer count. Also tries again after five attempts in a row without a checkpoint.",
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

    @field_validator("cfg_dropout")
    @classmethod
    def _vanilla_drops_nothing(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("mode") == "vanilla" and value not in (0, cls.model_fields["cfg_dropout"].default):
            raise ValueError("is for corrected mode alone: vanilla mode never drops conditions")
        return value

    @field_validator("lr", "scheduler")
    @classmethod
    def _what_suits_the_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        """Stands in the resolved spec, so that job.yaml and a run's log say what is used."""
        if value is None:
            # Where the optimizer is refused, what suits it matters no more.
            return getattr(OPTIMIZERS[info.data.get("optimizer_type", "adamw")], str(info.field_name))
        return value
