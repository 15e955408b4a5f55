"""What a job is: the one schema behind flags, environment variables, YAML and the JSON schema.

Every field has a description with its unit, and a range where one makes sense. torch is not
imported here or anywhere below `sidestep.config`: a spec is checked before anything heavy is loaded.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sidestep.config.card import CardSpec
from sidestep.config.place import check_place
from sidestep.config.section import Folder, Place, Section, setting, split_lists, split_words
from sidestep.config.training import Alternate, TrainSpec
from sidestep.config.watching import WatchingFields
from sidestep.runtime.credentials import check_no_credentials


def _full_scale(value: int) -> int:
    if value not in (1, 2**15, 2**23, 2**31):
        raise ValueError("must be 1, 32768, 8388608 or 2147483648")
    return value


MOST_SHARDS = 100_000


class PreprocessSpec(Section):
    """How songs become tensors."""

    max_duration: float = setting(
        240,
        "Seconds of each song to use, from its start; 0 means the whole song, up to 600.",
        gt=0,
        le=600,
        unit="seconds",
    )
    normalize: Literal["none", "peak", "lufs"] = setting(
        "none",
        "Bring all songs to one level: none, peak (by the loudest sample), or lufs (by loudness, "
        "ITU-R BS.1770).",
    )
    target_db: float = setting(
        -1.0,
        "Peak after normalizing, in dBFS; with lufs, no song's peak goes above it.",
        ge=-30,
        le=0,
        unit="dBFS",
    )
    target_lufs: float = setting(-14.0, "Target loudness of lufs, in LUFS.", ge=-40, le=-5, unit="LUFS")
    lyrics_format: Literal["inference", "raw"] = setting(
        "inference",
        "inference: lyrics with their language, up to 2048 tokens, as when ACE-Step generates. "
        "raw: bare lyrics, up to 512 tokens, as trainers did before August 2026.",
    )
    timbre: Literal["silence", "zero"] = setting(
        "silence",
        "What stands in for a reference song: silence, as when ACE-Step generates, or zero, the single "
        "zero frame of other trainers.",
    )
    bare_text: Literal["lyrics", "caption"] | None = setting(
        None,
        "What a text file without field names holds: lyrics or caption. By default, such a file is an error.",
    )
    float_scale: Annotated[int, AfterValidator(_full_scale)] = setting(
        1,
        "Full scale in floating-point audio: 1; or 32768, 8388608 or 2147483648, if integers of 16, 24 or "
        "32 bits were stored as floats.",
    )
    alternates: Annotated[tuple[Alternate, ...], BeforeValidator(split_words)] = setting(
        (),
        "Prompts to encode beside each song's own, for training to draw from: trigger (the trigger word "
        "alone as the caption), genre. Those that train.caption_dropout and train.genre_share need are "
        "encoded anyway.",
    )
    on_bad_file: Literal["fail", "skip"] = setting(
        "fail",
        "What to do about songs that are silent, damaged or not audio: fail (name them all and make "
        "nothing), or skip (name them and leave them out).",
    )
    shards: int = setting(
        1,
        "How many jobs share the songs, in task preprocess; each makes the tensors of its own share. Which "
        "one a job is, the platform says (JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID, SKYPILOT_JOB_RANK, "
        "SKYPILOT_NODE_RANK or DSTACK_NODE_RANK), or preprocess.shard. `sidestep merge-index`, or the next "
        "task, makes one dataset of them.",
        ge=1,
        le=MOST_SHARDS,
        unit="jobs",
    )
    shard: int | None = setting(
        None,
        "Which of preprocess.shards this job makes, from 0 on, where no platform says so.",
        ge=0,
    )

    @field_validator("max_duration", mode="before")
    @classmethod
    def _zero_is_the_whole_song(cls, value: Any) -> Any:
        """As other trainers write it. There is no silence to train beside more than 600 s."""
        return 600 if value is not False and str(value).strip() in ("0", "0.0") else value


class EstimateSpec(Section):
    """Which modules does this dataset move most?"""

    batches: int = setting(
        5,
        "How many batches to average the gradient norms over.",
        ge=1,
        unit="batches",
        flag="--estimate-batches",
    )
    top_k: int = setting(16, "How many modules (or layers) the suggested --target-modules line names.", ge=1)
    granularity: Literal["module", "layer"] = setting(
        "module", "What to rank: each module by itself, or whole layers. Both come from one measurement."
    )


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
    guidance: float | None = setting(
        None,
        "Guidance scale to generate with, kept in receipt.json; 7 is usual for base and sft, and turbo has "
        "none (1). It changes nothing in training.",
        ge=1,
        le=100,
    )
    strength: float | None = setting(
        None,
        "Strength of the adapter to generate with, kept in receipt.json; 1 is as it was trained. It changes "
        "nothing in training.",
        gt=0,
        le=4,
    )


class RuntimeSpec(WatchingFields):
    """The machine."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = setting(
        "auto", "auto (the GPU if there is one), cpu, cuda or cuda:N."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = setting(
        "auto",
        "auto: bf16 on a GPU that supports it natively, otherwise fp32. fp16 (with a gradient scaler) "
        "is for GPUs that have neither bf16 nor the memory for fp32.",
    )
    attention: Literal["auto", "flash", "sdpa"] = setting(
        "auto",
        "flash: the flash-attn package; sdpa: torch's own, banded in the sliding layers; "
        "auto: flash if it is installed and the GPU and precision allow it.",
        flag="--attention-backend",
    )
    compile: Literal["off", "blocks"] = setting(
        "off",
        "blocks: torch.compile of the decoder's blocks, while training. Before the first step, the loss and "
        "the gradients of one micro-batch are compared with those of the plain path; where they differ, or "
        "the blocks cannot be compiled, the run warns and trains without.",
    )
    gradient_sums: Literal["ordered", "all_reduce"] = setting(
        "ordered",
        "How several processes of one training (`sidestep launch`) add up their gradients: ordered (the same "
        "adapter, to the bit, as of one process), or all_reduce (less traffic, and other last bits).",
    )
    gpus: int = setting(
        1,
        "GPUs of each machine that `sidestep render` and the chart ask for to train, with a process for each "
        "(`sidestep launch`).",
        ge=1,
        le=64,
    )
    nodes: int = setting(1, "Machines that they ask for, to train one adapter together.", ge=1, le=1000)
    offload_encoder: bool = setting(
        True,
        "Keep the encoders out of memory while training. Accepted, but always on: training reads what "
        "they made and never loads them.",
    )
    workspace: Folder | None = setting(
        None, "Local folder for downloads and unfinished work; by default one in the user's cache."
    )
    grace_seconds: float = setting(
        30,
        "Seconds that the machine allows after SIGTERM or Ctrl-C. Within them, the step ends, the state is "
        "saved and uploaded, and the process ends with code 75.",
        ge=1,
        le=3600,
        unit="seconds",
    )
    spot_notice: Literal["auto", "aws", "gcp", "azure", "none"] = setting(
        "auto",
        "Whose metadata service is asked every 5 seconds whether this spot machine goes: auto (the cloud "
        "that the machine's firmware names), aws, gcp, azure, or none.",
    )
    lease_seconds: float = setting(
        60,
        "Seconds without a sign of life after which another attempt may take over an output.",
        ge=1,
        le=3600,
        unit="seconds",
    )
    stall_minutes: float | None = setting(
        15,
        "Minutes without any progress (bytes, songs, micro-batches) after which an attempt ends with code "
        "76; null: never. Waiting for a store or for another attempt's lease is no stall.",
        gt=0,
        le=1440,
        unit="minutes",
    )
    first_step_minutes: float | None = setting(
        60,
        "The same until the first training step of an attempt, for which kernels may be compiled; null: "
        "never.",
        gt=0,
        le=1440,
        unit="minutes",
    )
    hung_minutes: float | None = setting(
        30,
        "The same for a job that cannot end itself, as it hangs in native code: on a rented machine that "
        "on_exit gives back, a guard above it ends it (code 76). Where stall_minutes, or until the first "
        "step first_step_minutes, is larger, that applies; null, also there: never.",
        gt=0,
        le=1440,
        unit="minutes",
    )
    price_per_hour: float | None = setting(
        None, "The machine's price per hour, in any currency, for the receipt.", ge=0
    )
    max_hours: float | None = setting(
        None,
        "Hours that all attempts together may take. Then the state is saved, and the job ends with code 70.",
        gt=0,
        unit="hours",
    )
    max_cost: float | None = setting(
        None, "The same for what they cost by price_per_hour, in its currency.", gt=0
    )
    max_attempts: int = setting(
        5,
        "Attempts in a row without any progress after which none is begun any more (code 70), unless with "
        "--new-attempt.",
        ge=1,
        le=1000,
    )
    deterministic: bool = setting(True, "Same input, same bits; costs some speed on a GPU.")
    on_exit: Literal["none", "stop", "terminate"] = setting(
        "none",
        "What to do with a rented machine (RunPod, Vast) when the job ends, unless it should run again "
        "(exit code 75): none, stop (you keep the disk and pay for it), or terminate.",
    )

    @field_validator("max_cost")
    @classmethod
    def _cost_has_a_price(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("price_per_hour") is None:
            raise ValueError("needs runtime.price_per_hour")
        return value

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
    ) = setting(None, "URL of the S3 server (http:// or https://), for anything but AWS.")
    region: str | None = setting(None, "S3 region, such as us-east-1.", pattern=r"^[A-Za-z0-9._-]+$")
    path_style: bool | None = setting(
        None, "Use addresses like http://host/bucket/key; by default, on if endpoint_url is set."
    )
    anonymous: bool = setting(False, "Read public buckets without credentials.")
    request_payer: Literal["requester"] | None = setting(
        None, "`requester`: this account pays for requests, as some buckets demand."
    )
    connections: int = setting(8, "How many files to transfer at a time.", ge=1, le=64)
    cache_gb: float | None = setting(
        None,
        "How many GB of a remote dataset's tensors to keep in the workspace at a time; by default, as many "
        "as its disk takes.",
        gt=0,
        le=10**6,
    )


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
        "checkpoints", "Where the ACE-Step 1.5 checkpoints are (model folders, vae/, text encoder)."
    )
    model_variant: str = setting(
        "base",
        "turbo, base, sft, xl-turbo, xl-base, xl-sft, or the name of a folder.",
        min_length=1,
        pattern=r"^[^/\\]+$",
    )
    base_model: Literal["turbo", "base", "sft", "xl-turbo", "xl-base", "xl-sft"] | None = setting(
        None, "The model that a fine-tune was made from; supplies what its own config.json leaves out."
    )
    audio_dir: Place | None = setting(None, "Where the songs are.")
    dataset_json: Place | None = setting(None, "Captions, lyrics and more, as a dataset JSON.")
    dataset_dir: Place | None = setting(
        None, "Where the tensors are; by default <output_dir>/tensors.", aliases=["--tensor-output"]
    )
    output_dir: Place | None = setting(None, "Where all results go; the job's only state.")
    sweep: Annotated[
        dict[str, list[Any]],
        Field(examples=[{"train.lr": "1e-4,3e-4"}]),
        BeforeValidator(split_lists),
    ] = setting(
        {},
        "Settings of train, each with the values to try: `sidestep run` trains one adapter for each "
        "combination, in <output_dir>/<digest of the values>, on the same tensors.",
    )
    preprocess: PreprocessSpec = PreprocessSpec()
    estimate: EstimateSpec = EstimateSpec()
    train: TrainSpec = TrainSpec()
    inference: InferenceSpec = InferenceSpec()
    card: CardSpec = CardSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    storage: StorageSpec = StorageSpec()

    @property
    def is_sweep(self) -> bool:
        """Whether its task trains many runs; the other tasks make what these share."""
        return bool(self.sweep) and self.task in ("train", "pipeline")

    @property
    def tensors_place(self) -> str:
        """Where the tensors are: `dataset_dir`, or `tensors/` in the output."""
        return self.dataset_dir or f"{(self.output_dir or '').rstrip('/')}/tensors"

    @property
    def alternates(self) -> tuple[Alternate, ...]:
        """The prompts that preprocessing encodes beside each song's own, sorted."""
        return tuple(sorted({*self.preprocess.alternates, *self.train.alternates}))

    @property
    def output_place(self) -> str:
        """Where the task's results go; the guide's commands leave it out where no adapter is made."""
        if self.output_dir:
            return self.output_dir
        return self.tensors_place if self.task == "preprocess" else f"output/{self.name}"
