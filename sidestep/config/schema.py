"""What a job is: the one schema behind flags, environment variables, YAML and the JSON schema.

Every field has a description with its unit, and a range where one makes sense. torch is not
imported here or anywhere below `sidestep.config`: a spec is checked before anything heavy is loaded.
`json_schema_extra` carries what the command line needs: `flag` where the flag is not simply the
field's name, `aliases` for the guide's other spellings of it, and `unit` where it counts something.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from sidestep.config.section import Place, Section, check_no_credentials, path_as_text
from sidestep.config.training import TrainSpec


class PreprocessSpec(Section):
    """How songs become tensors."""

    max_duration: float = Field(
        240,
        gt=0,
        le=600,
        description="Seconds of each song that are used, from its start.",
        json_schema_extra={"unit": "seconds"},
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
        json_schema_extra={"unit": "dBFS"},
    )
    target_lufs: float = Field(
        -14.0,
        ge=-40,
        le=-5,
        description="Loudness that lufs aims at, in LUFS.",
        json_schema_extra={"unit": "LUFS"},
    )
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
        json_schema_extra={"unit": "batches", "flag": "--estimate-batches"},
    )
    top_k: int = Field(16, ge=1, description="Modules that the ready --target-modules line names.")


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
    workspace: Annotated[str, Field(min_length=1), BeforeValidator(path_as_text)] | None = Field(
        None,
        description="Local folder for downloads and unfinished work; by default one in the user's cache.",
    )
    grace_seconds: float = Field(
        30,
        ge=1,
        le=3600,
        description="Seconds that the machine leaves after SIGTERM or Ctrl-C: the step ends, its state is "
        "saved and sent, and the process ends with code 75 within them.",
        json_schema_extra={"unit": "seconds"},
    )
    lease_seconds: float = Field(
        60,
        ge=1,
        le=3600,
        description="Seconds without a sign of life after which another run may take an output over.",
        json_schema_extra={"unit": "seconds"},
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Price of the machine per hour, in any currency, for the receipt."
    )
    deterministic: bool = Field(True, description="Same inputs, same bits; costs some speed on a GPU.")
    on_exit: Literal["none", "stop", "terminate"] = Field(
        "none",
        description="What becomes of a rented machine (RunPod, Vast) when the job ends, unless it is to be "
        "run again (exit code 75): none, stop (its disk stays, and is paid), or terminate.",
    )

    @field_validator("offload_encoder")
    @classmethod
    def _encoders_are_never_loaded(cls, value: bool) -> bool:
        if not value:
            raise ValueError("cannot be switched off: training never loads the encoders")
        return value


class StorageSpec(Section):
    """How s3:// is reached. Credentials come from the usual AWS chain, never from the spec."""

    endpoint_url: (
        Annotated[str, Field(pattern=r"^https?://"), AfterValidator(check_no_credentials)] | None
    ) = Field(None, description="S3 server's URL (http:// or https://), for anything but AWS.")
    region: str | None = Field(None, min_length=1, description="S3 region.")
    path_style: bool | None = Field(
        None, description="http://host/bucket/key addressing; by default on where endpoint_url is set."
    )
    anonymous: bool = Field(False, description="Read public buckets without credentials.")
    connections: int = Field(8, ge=1, le=64, description="Files transferred at a time.")


class JobFields(Section):
    """Every field of a job. `config.job.JobSpec` is these and how they are loaded."""

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
