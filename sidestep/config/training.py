"""The schema's part about training: the adapter, how it is trained, and when it is saved."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sidestep.config.optimizers import OPTIMIZERS, OptimizerName, Scheduler
from sidestep.config.section import LOKR, LORA, Place, Section, mark_of

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
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

    type: Literal["lora", "lokr"] = Field(
        "lora",
        description="lora (PEFT, recommended) or lokr (LyCORIS, experimental).",
        json_schema_extra={"flag": "--adapter-type"},
    )
    rank: int = Field(
        64,
        ge=1,
        le=4096,
        description="Rank of LoRA, linear dimension of LoKR.",
        json_schema_extra={"aliases": ["--lokr-linear-dim"]},
    )
    alpha: float = Field(
        128,
        gt=0,
        description="The update is scaled by alpha / rank; by default alpha is twice the rank.",
        json_schema_extra={"aliases": ["--lokr-linear-alpha"]},
    )
    dropout: Annotated[float, LORA] = Field(
        0.1, ge=0, lt=1, description="Dropout on the adapter's input (LoRA only)."
    )
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_split_words)] = Field(
        ATTENTION_MODULES,
        min_length=1,
        description=(
            "Modules that get an adapter: q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, "
            "or the end of a path, such as layers.3.self_attn.q_proj."
        ),
    )
    attention: Literal["self", "cross", "both"] = Field(
        "both",
        description="Which attention q_proj, k_proj, v_proj and o_proj mean: self, cross, or both.",
        json_schema_extra={"aliases": ["--attention-type"]},
    )
    rank_pattern: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(_split_pairs), LORA
    ] = Field(
        default_factory=dict,
        description="Other ranks for some modules (LoRA only), by path ending: v_proj=16.",
    )
    alpha_pattern: Annotated[
        dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_split_pairs), LORA
    ] = Field(
        default_factory=dict,
        description="Other alphas for some modules (LoRA only), by path ending: v_proj=32.",
    )
    bias: Literal["none"] = Field(
        "none",
        description="PEFT's option of that name: none, as the layers that get an adapter have no biases.",
    )
    factor: Annotated[int, LOKR] = Field(
        -1,
        ge=-1,
        description="LoKR: size of the first Kronecker factor; -1 splits each dimension near its root.",
        json_schema_extra={"flag": "--lokr-factor"},
    )
    decompose_both: Annotated[bool, LOKR] = Field(
        False,
        description="LoKR: make the first Kronecker factor low-rank too, where the rank is small enough.",
        json_schema_extra={"flag": "--lokr-decompose-both"},
    )
    use_tucker: Annotated[bool, LOKR] = Field(
        False,
        description="LoKR: Tucker decomposition, which convolutions alone have: no effect on this model.",
        json_schema_extra={"flag": "--lokr-use-tucker"},
    )
    use_scalar: Annotated[bool, LOKR] = Field(
        False,
        description="LoKR: scale each update by a trained number that starts at zero.",
        json_schema_extra={"flag": "--lokr-use-scalar"},
    )
    weight_decompose: Annotated[bool, LOKR] = Field(
        False,
        description="LoKR: train the length of each weight row apart from its direction, as DoRA does.",
        json_schema_extra={"flag": "--lokr-weight-decompose"},
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

    every_epochs: int = Field(
        10,
        ge=1,
        description="Epochs between checkpoints.",
        json_schema_extra={"unit": "epochs", "aliases": ["--save-every"]},
    )
    every_steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps between checkpoints, besides those by epochs.",
        json_schema_extra={"unit": "steps"},
    )
    every_minutes: float | None = Field(
        10,
        gt=0,
        description="Minutes between checkpoints, besides those by epochs: the most work that a machine "
        "which vanishes takes with it.",
        json_schema_extra={"unit": "minutes"},
    )
    keep: int = Field(3, ge=1, description="Newest checkpoints that are kept in the output.")
    keep_every_epochs: int | None = Field(
        None,
        ge=1,
        description="Checkpoints after multiples of so many epochs are made, and kept for good.",
        json_schema_extra={"unit": "epochs"},
    )


class TrainSpec(Section):
    """How the adapter is trained."""

    mode: Annotated[Literal["corrected", "vanilla"], BeforeValidator(_fixed_means_corrected)] = Field(
        "corrected",
        description="corrected: logit-normal timesteps, condition dropout. vanilla: the eight turbo steps.",
    )
    adapter: AdapterSpec = AdapterSpec()
    epochs: int = Field(
        100, ge=1, description="Passes over the dataset.", json_schema_extra={"unit": "epochs"}
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps after which training ends early.",
        json_schema_extra={"unit": "steps"},
    )
    optimizer_type: OptimizerName = Field(
        "adamw",
        description=f"{'; '.join(f'{name} {row.says}'.strip() for name, row in OPTIMIZERS.items())}.",
        json_schema_extra={"aliases": ["--optimizer"]},
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=10,
        validate_default=True,
        description="Peak learning rate; by default the optimizer's: 1e-4, and 1.0 for prodigy.",
        json_schema_extra={"aliases": ["--learning-rate"]},
    )
    scheduler: Scheduler | None = Field(
        None,
        validate_default=True,
        description="How the learning rate goes on after warm-up: cosine (to 1 % at the end), "
        "cosine_restarts (four times), linear (to 1 %), or constant_with_warmup; constant has no warm-up. "
        "By default cosine, and constant for prodigy.",
        json_schema_extra={"aliases": ["--scheduler-type"]},
    )
    warmup_steps: int = Field(
        100,
        ge=0,
        description="Optimizer steps of linear warm-up, at most a tenth of the run.",
        json_schema_extra={"unit": "steps"},
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay.")
    accumulation: int = Field(
        4,
        ge=1,
        description="Samples whose gradients make one optimizer step.",
        json_schema_extra={"aliases": ["--gradient-accumulation"]},
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    cfg_dropout: float = Field(
        0.15, ge=0, lt=1, description="Share of samples trained without their conditions (corrected mode)."
    )
    timestep_mu: float | None = Field(
        None, ge=-10, le=10, description="Mean of the logit-normal timestep law; by default the checkpoint's."
    )
    timestep_sigma: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Deviation of the logit-normal timestep law; by default the checkpoint's.",
    )
    chunk_duration: float | None = Field(
        None,
        ge=1,
        le=600,
        description="Seconds of a song that one step sees, cut out anywhere; by default the whole song.",
        json_schema_extra={"unit": "seconds"},
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of every random draw.")
    gradient_checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: far less memory, 10-30 % slower."
    )
    gradient_checkpointing_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the decoder's layers that gradient_checkpointing recomputes: less is faster "
        "and takes more memory.",
    )
    log_every: int = Field(
        1,
        ge=1,
        description="Optimizer steps between loss and lr points in TensorBoard.",
        json_schema_extra={"unit": "steps"},
    )
    log_heavy_every: int = Field(
        50,
        ge=1,
        description="Optimizer steps between per-module gradient norms in TensorBoard.",
        json_schema_extra={"unit": "steps"},
    )
    resume_from: Place | None = Field(
        None,
        description="Checkpoint to go on from: a path, a URI, or a name under <output_dir>/checkpoints. "
        "Without it, training goes on from the newest one.",
    )
    new_attempt: bool = Field(
        False,
        description="Let resume_from go back behind the newest checkpoint of this output. Later checkpoints "
        "then count no more. Also tries on where five attempts in a row made no checkpoint.",
    )
    extend: bool = Field(
        False,
        description="Let a run go on to more epochs or max_steps than it was begun with. The learning rate "
        "then follows the longer run's schedule.",
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
