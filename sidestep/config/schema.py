"""What a job is: the one schema behind flags, environment variables, YAML and the JSON schema.

Every field has a description with its unit, and a range where one makes sense. torch is not
imported here or anywhere below `sidestep.config`: a spec is checked before anything heavy is loaded.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from sidestep.config.place import check_place
from sidestep.config.section import Folder, Place, Section, setting
from sidestep.config.training import TrainSpec
from sidestep.runtime.credentials import check_no_credentials


def _full_scale(value: int) -> int:
    if value not in (1, 2**15, 2**23, 2**31):
        raise ValueError("must be 1, 32768, 8388608 or 2147483648")
    return value


class PreprocessSpec(Section):
    """How songs become tensors."""

    max_duration: float = setting(
        240,
        "Seconds of each song that are used, from its start; 0 is the whole song, up to 600.",
        gt=0,
        le=600,
        unit="seconds",
    )
    normalize: Literal["none", "peak", "lufs"] = setting(
        "none",
        "Bring every song to one level: none, peak (its loudest sample), or lufs (its loudness, "
        "by ITU-R BS.1770).",
    )
    target_db: float = setting(
        -1.0,
        "Peak that normalizing leaves, in dBFS; with lufs no song's peak gets above it.",
        ge=-30,
        le=0,
        unit="dBFS",
    )
    target_lufs: float = setting(-14.0, "Loudness that lufs aims at, in LUFS.", ge=-40, le=-5, unit="LUFS")
    lyrics_format: Literal["inference", "raw"] = setting(
        "inference",
        "inference: lyrics under their language, up to 2048 tokens, as ACE-Step generates with. "
        "raw: the bare lyrics, up to 512 tokens, as trainers did before August 2026.",
    )
    timbre: Literal["silence", "zero"] = setting(
        "silence",
        "What stands for a reference song: silence, as ACE-Step generates with, or the single "
        "zero frame of other trainers.",
    )
    bare_text: Literal["lyrics", "caption"] | None = setting(
        None,
        "What a text file beside a song is that names no fields: its lyrics, or its caption. By default "
        "such a file is an error.",
    )
    float_scale: Annotated[int, AfterValidator(_full_scale)] = setting(
        1,
        "What is full scale in songs of floating-point samples: 1; or 32768, 8388608 or 2147483648, where a "
        "tool has written integers of 16, 24 or 32 bits as they are.",
    )
    on_bad_file: Literal["fail", "skip"] = setting(
        "fail",
        "What becomes of a dataset with songs that are silent, damaged or not sound: fail (all "
        "are named, nothing is made), or skip (they are named and left out).",
    )

    @field_validator("max_duration", mode="before")
    @classmethod
    def _zero_is_the_whole_song(cls, value: Any) -> Any:
        """As other trainers write it. There is no silence to train beside more than 600 s."""
        return 600 if value is not False and str(value).strip() in ("0", "0.0") else value


class EstimateSpec(Section):
    """Which modules does this dataset move most?"""

    batches: int = setting(
        5, "Batches over which gradient norms are averaged.", ge=1, unit="batches", flag="--estimate-batches"
    )
    top_k: int = setting(16, "Modules that the ready --target-modules line names.", ge=1)


class InferenceSpec(Section):
    """What the adapter is to be generated with: kept for whoever generates, no part of the training."""

    shift: float | None = setting(
        None,
        "Timestep shift to generate with, kept in receipt.json; 3 is usual for turbo, 1 for base and sft. "
        "It changes nothing in training.",
        gt=0,
        le=100,
    )
    num_inference_steps: int | None = setting(
        None,
        "Steps to generate with, kept in receipt.json; 8 are usual for turbo, 50 for base and sft. They "
        "change nothing in training.",
        ge=1,
        le=1000,
        unit="steps",
    )


class RuntimeSpec(Section):
    """The machine."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = setting(
        "auto", "auto (the GPU where there is one), cpu, cuda or cuda:N."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = setting(
        "auto",
        "auto: bf16 on a GPU that computes it natively, else fp32. fp16 (with a gradient scaler) "
        "is for GPUs without bf16 that have no memory for fp32.",
    )
    attention: Literal["auto", "flash", "sdpa"] = setting(
        "auto",
        "flash: the package flash-attn; sdpa: torch's own, banded in the sliding layers; "
        "auto: flash where it is installed and the GPU and precision allow it.",
        flag="--attention-backend",
    )
    offload_encoder: bool = setting(
        True,
        "Keep the encoders out of memory while training. Always so here, as training reads what "
        "they made: the flag is accepted and changes nothing.",
    )
    workspace: Folder | None = setting(
        None, "Local folder for downloads and unfinished work; by default one in the user's cache."
    )
    grace_seconds: float = setting(
        30,
        "Seconds that the machine leaves after SIGTERM or Ctrl-C: the step ends, its state is "
        "saved and sent, and the process ends with code 75 within them.",
        ge=1,
        le=3600,
        unit="seconds",
    )
    lease_seconds: float = setting(
        60,
        "Seconds without a sign of life after which another run may take an output over.",
        ge=1,
        le=3600,
        unit="seconds",
    )
    price_per_hour: float | None = setting(
        None, "Price of the machine per hour, in any currency, for the receipt.", ge=0
    )
    deterministic: bool = setting(True, "Same inputs, same bits; costs some speed on a GPU.")
    on_exit: Literal["none", "stop", "terminate"] = setting(
        "none",
        "What becomes of a rented machine (RunPod, Vast) when the job ends, unless it is to be "
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
        Annotated[
            str,
            Field(pattern=r"^https?://\S+$"),
            AfterValidator(check_no_credentials),
            AfterValidator(check_place),
        ]
        | None
    ) = setting(None, "S3 server's URL (http:// or https://), for anything but AWS.")
    region: str | None = setting(None, "S3 region, such as us-east-1.", pattern=r"^[A-Za-z0-9._-]+$")
    path_style: bool | None = setting(
        None, "http://host/bucket/key addressing; by default on where endpoint_url is set."
    )
    anonymous: bool = setting(False, "Read public buckets without credentials.")
    connections: int = setting(8, "Files transferred at a time.", ge=1, le=64)


class JobFields(Section):
    """Every field of a job. `config.job.JobSpec` is these and how they are loaded."""

    name: str = setting(
        "my-lora",
        "Name of the run: letters, digits, dot, dash, underscore.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
    )
    task: Literal["preprocess", "estimate", "train", "pipeline"] = setting(
        "pipeline", "What `sidestep run` does; pipeline is the other three in order."
    )
    checkpoint_dir: Place = setting(
        "checkpoints", "Place of the ACE-Step 1.5 checkpoints (model folders, vae/, text encoder)."
    )
    model_variant: str = setting(
        "base",
        "turbo, base, sft, xl-turbo, xl-base, xl-sft, or a folder's name.",
        min_length=1,
        pattern=r"^[^/\\]+$",
    )
    base_model: Literal["turbo", "base", "sft", "xl-turbo", "xl-base", "xl-sft"] | None = setting(
        None, "The model that a fine-tune was made from, for what its own config.json leaves out."
    )
    audio_dir: Place | None = setting(None, "Place of the songs.")
    dataset_json: Place | None = setting(None, "Captions, lyrics and the rest, as a dataset JSON.")
    dataset_dir: Place | None = setting(
        None, "Place of the tensors; by default <output_dir>/tensors.", aliases=["--tensor-output"]
    )
    output_dir: Place | None = setting(None, "Place of all results, and the job's only state.")
    preprocess: PreprocessSpec = PreprocessSpec()
    estimate: EstimateSpec = EstimateSpec()
    train: TrainSpec = TrainSpec()
    inference: InferenceSpec = InferenceSpec()
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
