"""The fields of the spec as a person looks for them: what belongs together, the basic ones first.

Help and the CLI reference follow this order. The sections of a job's file do not: they are fewer, and each
is for one part of the program.
"""

from dataclasses import dataclass

from sidestep.config.fields import FieldPath

TASKS = ("preprocess", "estimate", "train")


@dataclass(frozen=True)
class Group:
    """Fields that are shown together. The basic ones are those that a first run may want to set."""

    title: str
    basic: tuple[str, ...]
    advanced: tuple[str, ...] = ()
    tasks: tuple[str, ...] = TASKS  # that read them

    @property
    def paths(self) -> list[FieldPath]:
        return [tuple(name.split(".")) for name in (*self.basic, *self.advanced)]


def _under(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


GROUPS = (
    Group(
        "model, songs and results",
        (
            *("checkpoint_dir", "model_variant", "base_model"),
            *("audio_dir", "dataset_json", "dataset_dir", "output_dir"),
        ),
        ("name", "task"),
    ),
    Group(
        "songs to tensors",
        _under("preprocess", "max_duration normalize"),
        _under(
            "preprocess",
            "target_db target_lufs lyrics_format timbre alternates bare_text float_scale on_bad_file "
            "shards shard",
        ),
        tasks=("preprocess",),
    ),
    Group("estimate", _under("estimate", "batches top_k granularity"), tasks=("estimate",)),
    Group(
        "adapter",
        _under("train.adapter", "type rank alpha target_modules"),
        _under(
            "train.adapter", "weight_decompose dropout attention rank_pattern alpha_pattern rank_from bias"
        ),
        tasks=("train",),
    ),
    Group(
        "adapter: LoKR",
        (),
        _under("train.adapter", "factor decompose_both use_tucker use_scalar"),
        tasks=("train",),
    ),
    Group(
        "training",
        _under("train", "mode epochs optimizer_type lr scheduler seed"),
        (
            *_under("train", "max_steps warmup_steps weight_decay batch_size accumulation max_grad_norm"),
            *_under("train", "lr_groups ema.decay ema.use"),
            "sweep",
        ),
        tasks=("train",),
    ),
    Group(
        "what a step sees",
        _under("train", "chunk_duration"),
        _under(
            "train",
            "chunks cfg_dropout caption_dropout genre_share repeats weights timestep_mu timestep_sigma "
            "loss_weighting min_snr_gamma",
        ),
        tasks=("train",),
    ),
    Group(
        "memory and speed",
        ("train.gradient_checkpointing", "runtime.precision"),
        (
            *_under("train", "gradient_checkpointing_ratio quantize block_swap offload_activations"),
            *_under("runtime", "attention compile offload_encoder device deterministic"),
        ),
    ),
    Group(
        "checkpoints and resuming",
        ("train.checkpoint.every_epochs", "train.resume_from", "train.init_from"),
        _under("train.checkpoint", "every_minutes every_steps keep keep_every_epochs")
        + _under("train", "init_resize extend new_attempt accept_other_weights"),
        tasks=("train",),
    ),
    Group(
        "held-out songs, best, stop",
        ("train.validation.share",),
        _under("train.validation", "songs every_epochs draws window")
        + _under("train", "best publish stop.patience stop.min_delta target_loss"),
        tasks=("train",),
    ),
    Group(
        "sounds while training",
        ("train.sample.every_epochs",),
        _under("train.sample", "prompts seconds"),
        tasks=("train",),
    ),
    Group(
        "for inference, and on the card",
        (),
        (*_under("inference", "shift num_inference_steps guidance strength"), "card.license"),
        tasks=("train",),
    ),
    Group("TensorBoard", (), _under("train", "log_every log_heavy_every"), tasks=("train",)),
    Group(
        "several GPUs",
        (),
        _under("runtime", "gpus nodes gradient_sums"),
        tasks=("train",),
    ),
    Group(
        "unattended",
        (),
        _under(
            "runtime", "workspace grace_seconds spot_notice lease_seconds stall_minutes first_step_minutes"
        )
        + _under("runtime", "hung_minutes price_per_hour max_hours max_cost max_attempts on_exit"),
    ),
    Group(
        "watching from elsewhere",
        (),
        _under("runtime", "log_format webhook metrics_port metrics_file trackers"),
    ),
    Group(
        "S3 (credentials: the usual AWS chain)",
        _under("storage", "endpoint_url"),
        _under("storage", "region path_style anonymous request_payer connections cache_gb"),
    ),
)
