"""What a job is: the one schema behind flags, environment variables, YAML and the JSON schema.

Every field has a description with its unit, and a range where one makes sense. torch is not
imported here or anywhere below `sidestep.spec`: a spec is checked before anything heavy is loaded.
`json_schema_extra` carries what the command line needs: `flag` where the flag is not simply the
field's name, and `aliases` for the guide's other spellings of it.
"""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_MODULES = ("gate_proj", "up_proj", "down_proj")

# user:password@ in a URI; host:port is something else, and so is Azure's container@account.
CREDENTIALS = re.compile(r"(?<=://)[^/@:]+:(?!\d+(?:/|$))[^@]+@")


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _no_credentials(place: str) -> str:
    if CREDENTIALS.search(place):
        raise ValueError("has a password in it: credentials come from the environment, never from the spec")
    return place


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


Place = Annotated[
    str,
    Field(min_length=1, examples=["s3://studio/songs", "./songs"]),
    BeforeValidator(_path_as_text),
    AfterValidator(_no_credentials),
]
"""Where something is: a path, or a URI such as s3://bucket/prefix."""

Scheduler = Literal["cosine", "cosine_restarts", "linear", "constant", "constant_with_warmup"]


class Section(BaseModel):
    """Base of all parts: unknown keys are refused, and a spec does not change once it is checked."""

    # Inputs stay out of pydantic's own messages: they may hold what must not reach a log.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes `epochs: true` for one epoch; nobody means that."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in _NUMBERS:
            raise ValueError("must be a number, not true or false")
        return value


_NUMBERS = (int, float, int | None, float | None)


class PreprocessSpec(Section):
    """How songs become tensors."""

    max_duration: float = Field(
        240, gt=0, le=600, description="Seconds of each song that are used, from its start."
    )
    normalize: Literal["none", "peak", "lufs"] = Field(
        "none",
        description="Bring every song to one level: none, peak (its loudest sample), or lufs (its loudness, "
        "by ITU-R BS.1770).",
    )
    target_db: float = Field(
        -1.0,
        ge=-30,
        le=0,
        description="Peak that normalizing leaves, in dBFS; with lufs no song's peak gets above it.",
    )
    target_lufs: float = Field(-14.0, ge=-40, le=-5, description="Loudness that lufs aims at, in LUFS.")
    lyrics_format: Literal["inference", "raw"] = Field(
        "inference",
        description="inference: lyrics under their language, up to 2048 tokens, as ACE-Step generates with. "
        "raw: the bare lyrics, up to 512 tokens, as trainers did before August 2026.",
    )
    timbre: Literal["silence", "zero"] = Field(
        "silence",
        description="What stands for a reference song: silence, as ACE-Step generates with, or the single "
        "zero frame of other trainers.",
    )
    on_bad_file: Literal["fail", "skip"] = Field(
        "fail",
        description="What becomes of a dataset with songs that are silent, damaged or not sound: fail (all "
        "are named, nothing is made), or skip (they are named and left out).",
    )


class EstimateSpec(Section):
    """Which modules does this dataset move most?"""

    batches: int = Field(
        5,
        ge=1,
        description="Batches over which gradient norms are averaged.",
        json_schema_extra={"flag": "--estimate-batches"},
    )
    top_k: int = Field(16, ge=1, description="Modules that the ready --target-modules line names.")


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
        description="The update is scaled by alpha / rank.",
        json_schema_extra={"aliases": ["--lokr-linear-alpha"]},
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout on the adapter's input (LoRA only).")
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
        dict[str, Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(_split_pairs)
    ] = Field(
        default_factory=dict,
        description="Other ranks for some modules (LoRA only), by path ending: v_proj=16.",
    )
    alpha_pattern: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_split_pairs)] = Field(
        default_factory=dict,
        description="Other alphas for some modules (LoRA only), by path ending: v_proj=32.",
    )
    factor: int = Field(
        -1,
        ge=-1,
        description="LoKR: size of the first Kronecker factor; -1 splits each dimension near its root.",
        json_schema_extra={"flag": "--lokr-factor"},
    )
    decompose_both: bool = Field(
        False,
        description="LoKR: make the first Kronecker factor low-rank too, where the rank is small enough.",
        json_schema_extra={"flag": "--lokr-decompose-both"},
    )
    use_tucker: bool = Field(
        False,
        description="LoKR: Tucker decomposition, which convolutions alone have: no effect on this model.",
        json_schema_extra={"flag": "--lokr-use-tucker"},
    )
    use_scalar: bool = Field(
        False,
        description="LoKR: scale each update by a trained number that starts at zero.",
        json_schema_extra={"flag": "--lokr-use-scalar"},
    )
    weight_decompose: bool = Field(
        False,
        description="LoKR: train the length of each weight row apart from its direction, as DoRA does.",
        json_schema_extra={"flag": "--lokr-weight-decompose"},
    )

    @field_validator(
        *("dropout", "rank_pattern", "alpha_pattern"),
        *("factor", "decompose_both", "use_tucker", "use_scalar", "weight_decompose"),
    )
    @classmethod
    def _has_an_effect(cls, value: Any, info: ValidationInfo) -> Any:
        """The other kind's settings are refused where they say something: nothing is set in vain."""
        name = str(info.field_name)
        kind = "lora" if name in ("dropout", "rank_pattern", "alpha_pattern") else "lokr"
        default = cls.model_fields[name].get_default(call_default_factory=True)
        if info.data.get("type", kind) != kind and value != default:
            raise ValueError(f"is for {kind} alone, and adapter.type is {info.data['type']}")
        return value


class CheckpointSpec(Section):
    """When training is saved, and how much of it is kept."""

    every_epochs: int = Field(
        10, ge=1, description="Epochs between checkpoints.", json_schema_extra={"aliases": ["--save-every"]}
    )
    keep: int = Field(3, ge=1, description="Newest checkpoints that are kept in the output.")


class TrainSpec(Section):
    """How the adapter is trained."""

    mode: Annotated[Literal["corrected", "vanilla"], BeforeValidator(_fixed_means_corrected)] = Field(
        "corrected",
        description="corrected: logit-normal timesteps, condition dropout. vanilla: the eight turbo steps.",
    )
    adapter: AdapterSpec = AdapterSpec()
    epochs: int = Field(100, ge=1, description="Passes over the dataset.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps after which training ends early.")
    optimizer_type: Literal["adamw", "adamw8bit", "adafactor", "prodigy"] = Field(
        "adamw",
        description="adamw; adamw8bit (a quarter of its memory; needs bitsandbytes); adafactor (next to no "
        "memory); prodigy (finds the learning rate itself).",
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
        100, ge=0, description="Optimizer steps of linear warm-up, at most a tenth of the run."
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
    log_every: int = Field(1, ge=1, description="Optimizer steps between loss and lr points in TensorBoard.")
    log_heavy_every: int = Field(
        50, ge=1, description="Optimizer steps between per-module gradient norms in TensorBoard."
    )
    resume_from: Place | None = Field(
        None,
        description="Checkpoint to go on from: a path, a URI, or a name under <output_dir>/checkpoints. "
        "Without it, training goes on from the newest one.",
    )
    checkpoint: CheckpointSpec = CheckpointSpec()

    @field_validator("lr", "scheduler")
    @classmethod
    def _what_suits_the_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        """Stands in the resolved spec, so that job.yaml and a run's log say what is used."""
        if value is None:
            prodigy = info.data.get("optimizer_type") == "prodigy"
            suits = {"lr": 1.0, "scheduler": "constant"} if prodigy else {"lr": 1e-4, "scheduler": "cosine"}
            return suits[str(info.field_name)]
        return value


class RuntimeSpec(Section):
    """The machine."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto (the GPU where there is one), cpu, cuda or cuda:N."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="auto: bf16 on a GPU that computes it natively, else fp32. fp16 (with a gradient scaler) "
        "is for GPUs without bf16 that have no memory for fp32.",
    )
    attention: Literal["auto", "flash", "sdpa"] = Field(
        "auto",
        description="flash: the package flash-attn; sdpa: torch's own, banded in the sliding layers; "
        "auto: flash where it is installed and the GPU and precision allow it.",
        json_schema_extra={"flag": "--attention-backend"},
    )
    offload_encoder: bool = Field(
        True,
        description="Keep the encoders out of memory while training. Always so here, as training reads what "
        "they made: the flag is accepted and changes nothing.",
    )
    workspace: Annotated[str, Field(min_length=1), BeforeValidator(_path_as_text)] | None = Field(
        None,
        description="Local folder for downloads and unfinished work; by default one in the user's cache.",
    )
    deterministic: bool = Field(True, description="Same inputs, same bits; costs some speed on a GPU.")

    @field_validator("offload_encoder")
    @classmethod
    def _encoders_are_never_loaded(cls, value: bool) -> bool:
        if not value:
            raise ValueError("cannot be switched off: training never loads the encoders")
        return value


class StorageSpec(Section):
    """How s3:// is reached. Credentials come from the usual AWS chain, never from the spec."""

    endpoint_url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_no_credentials)] | None = (
        Field(None, description="S3 server's URL (http:// or https://), for anything but AWS.")
    )
    region: str | None = Field(None, min_length=1, description="S3 region.")
    path_style: bool | None = Field(
        None, description="http://host/bucket/key addressing; by default on where endpoint_url is set."
    )
    anonymous: bool = Field(False, description="Read public buckets without credentials.")
    connections: int = Field(8, ge=1, le=64, description="Files transferred at a time.")


class JobSpec(Section):
    """One job: what to do, with which model, from where to where."""

    model_config = ConfigDict(title="Side-Step job spec")

    name: str = Field(
        "my-lora",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the run: letters, digits, dot, dash, underscore.",
    )
    task: Literal["preprocess", "estimate", "train", "pipeline"] = Field(
        "pipeline", description="What `sidestep run` does; pipeline is the other three in order."
    )
    checkpoint_dir: Place = Field(
        "checkpoints",
        description="Place of the ACE-Step 1.5 checkpoints (model folders, vae/, text encoder).",
    )
    model_variant: str = Field(
        "base",
        min_length=1,
        pattern=r"^[^/\\]+$",
        description="turbo, base, sft, xl-turbo, xl-base, xl-sft, or a folder's name.",
    )
    base_model: Literal["turbo", "base", "sft", "xl-turbo", "xl-base", "xl-sft"] | None = Field(
        None,
        description="The model that a fine-tune was made from, for what its own config.json leaves out.",
    )
    audio_dir: Place | None = Field(None, description="Place of the songs.")
    dataset_json: Place | None = Field(None, description="Captions, lyrics and the rest, as a dataset JSON.")
    dataset_dir: Place | None = Field(
        None,
        description="Place of the tensors; by default <output_dir>/tensors.",
        json_schema_extra={"aliases": ["--tensor-output"]},
    )
    output_dir: Place | None = Field(None, description="Place of all results, and the job's only state.")
    preprocess: PreprocessSpec = PreprocessSpec()
    estimate: EstimateSpec = EstimateSpec()
    train: TrainSpec = TrainSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    storage: StorageSpec = StorageSpec()

    @staticmethod
    def load(path: str | os.PathLike[str] | None = None, **overrides: Any) -> "JobSpec":
        """The spec in the file `path`, under SIDESTEP_ variables, under `overrides`.

        Without a path the file is found as the command finds it: SIDESTEP_CONFIG, else
        /etc/sidestep/job.yaml where there is one. `overrides` are nested as the spec is:

            JobSpec.load("job.yaml", train={"epochs": 2})

        Raises BadSpecError with all problems at once, MissingInputError when there is no such file.
        """
        from sidestep.spec.sources import resolve

        spec, _ = resolve(config=path, arguments=overrides)
        return spec

    @model_validator(mode="after")
    def _has_the_places_it_needs(self) -> Self:
        missing = missing_places(self.model_dump(include={"task", *PLACES}))
        if missing:
            raise ValueError("; ".join(f"{field}: {message}" for field, message in missing.items()))
        return self

    @property
    def tensors_place(self) -> str:
        """Where the tensors are: `dataset_dir`, or `tensors/` in the output."""
        return self.dataset_dir or f"{(self.output_dir or '').rstrip('/')}/tensors"

    @property
    def output_place(self) -> str:
        """Where the task's results go; the guide's commands leave it out where no adapter is made."""
        if self.output_dir:
            return self.output_dir
        return self.tensors_place if self.task == "preprocess" else f"output/{self.name}"


PLACES = ("audio_dir", "dataset_json", "dataset_dir", "output_dir")


def missing_places(spec: Mapping[str, Any]) -> dict[str, str]:
    """Field → message for each place that the spec's task cannot do without and that is not given.

    Takes plain values, checked or not, so that this can be said beside all other problems of a spec.
    """
    task = spec.get("task") or JobSpec.model_fields["task"].default
    audio_dir, dataset_json, dataset_dir, output_dir = (spec.get(place) for place in PLACES)
    missing = {}
    if task in ("preprocess", "pipeline") and not (audio_dir or dataset_json):
        missing["audio_dir"] = f"task {task} needs the place of the songs (or a dataset_json that names them)"
    if task in ("train", "pipeline") and not output_dir:
        missing["output_dir"] = f"task {task} needs a place for its results"
    if task == "preprocess" and not (dataset_dir or output_dir):
        missing["dataset_dir"] = "task preprocess needs a place for the tensors (flag --tensor-output)"
    if task == "estimate" and not (dataset_dir or output_dir):
        missing["dataset_dir"] = "task estimate needs the place of the tensors"
    return missing
