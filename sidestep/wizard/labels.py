"""What the wizard calls the fields of the spec, and says of them: in words, where the spec has names."""

from sidestep.config.fields import SpecField

# What a field, or one of the two questions about none, is called, and what is said when it is asked.
_ASKED = {
    "checkpoint_dir": ("Models", "The folder or bucket with the ACE-Step 1.5 models."),
    "model_variant": ("Model", "The model to train on. Type any part of its name."),
    "audio_dir": ("Songs", "The folder or bucket with your songs."),
    "dataset_json": (
        "Dataset JSON",
        "A file with captions, lyrics and so on. Not needed if they are in text files beside the songs.",
    ),
    "dataset_dir": ("Tensors", "The folder or bucket for the tensors: your songs, encoded by preprocessing."),
    "output_dir": ("Output", "The folder or bucket for the adapter and everything else the run makes."),
    "estimate.batches": ("Batches", "How many to measure. More take longer and are more precise."),
    "estimate.top_k": ("Modules", "How many of the most affected modules to list."),
    "train.adapter.type": ("Adapter", "The kind of adapter to train."),
    "train.mode": ("Mode", "How to train it."),
    "train.adapter.rank": (
        "Rank",
        "The size of the adapter. A higher rank can learn more, but needs more memory and overfits sooner.",
    ),
    "train.epochs": ("Epochs", "How many times to go through all songs."),
    "train.optimizer_type": ("Optimizer", "How the weights are updated. adamw suits most runs."),
    "preset": ("Preset", "Settings to start from."),
    "depth": ("Questions", "How much would you like to decide yourself?"),
}

# The others whose name, in words, would say too little.
_OTHERS = {
    "name": "Name of the run",
    "base_model": "Original model",
    "preprocess.max_duration": "Longest song",
    "preprocess.normalize": "Volume",
    "preprocess.target_db": "Peak level",
    "preprocess.target_lufs": "Loudness",
    "preprocess.bare_text": "Text without fields",
    "preprocess.on_bad_file": "Unreadable songs",
    "train.adapter.attention": "Attention layers",
    "train.adapter.decompose_both": "Decompose both factors",
    "train.adapter.use_tucker": "Tucker decomposition",
    "train.adapter.use_scalar": "Trained scale",
    "train.adapter.weight_decompose": "DoRA",
    "train.lr": "Learning rate",
    "train.max_steps": "Steps at most",
    "train.batch_size": "Samples per micro-batch",
    "train.accumulation": "Micro-batches per step",
    "train.max_grad_norm": "Gradient clipping",
    "train.cfg_dropout": "Condition dropout",
    "train.loss_weighting": "Weights by noise level",
    "train.min_snr_gamma": "Min-SNR gamma",
    "train.repeats": "Repeats by song",
    "train.weights": "Weights by song",
    "train.validation.songs": "Held-out songs",
    "train.sample.every_epochs": "Epochs between sounds",
    "train.sample.prompts": "What sounds are of",
    "train.sample.seconds": "Length of sounds",
    "train.timestep_mu": "Timestep mean",
    "train.timestep_sigma": "Timestep deviation",
    "train.chunk_duration": "Chunk length",
    "train.chunks": "Choice of chunks",
    "train.quantize": "Weights in fewer bits",
    "train.block_swap": "Layers that wait in memory",
    "train.offload_activations": "Activations that wait in memory",
    "train.log_every": "Steps between losses",
    "train.log_heavy_every": "Steps between gradient norms",
    "train.resume_from": "Checkpoint to resume from",
    "train.init_from": "Adapter to begin from",
    "train.init_resize": "Bring it to this rank",
    "train.new_attempt": "Allow going back",
    "train.extend": "Train longer than planned",
    "train.checkpoint.every_epochs": "Epochs between checkpoints",
    "train.checkpoint.every_minutes": "Minutes between checkpoints",
    "train.checkpoint.every_steps": "Steps between checkpoints",
    "train.checkpoint.keep": "Checkpoints to keep",
    "train.checkpoint.keep_every_epochs": "Milestones",
    "runtime.attention": "Attention kernel",
    "runtime.offload_encoder": "Offload the encoder",
    "runtime.deterministic": "Repeatable results",
    "runtime.grace_seconds": "Seconds of notice",
    "runtime.spot_notice": "Spot notice by metadata",
    "runtime.max_attempts": "Attempts without progress",
    "runtime.lease_seconds": "Seconds until takeover",
    "runtime.stall_minutes": "Minutes without progress",
    "runtime.first_step_minutes": "Minutes until the first step",
    "runtime.hung_minutes": "Minutes until the guard ends it",
    "runtime.on_exit": "When the job ends",
    "storage.endpoint_url": "S3 server",
    "storage.region": "S3 region",
    "storage.path_style": "Path-style addresses",
    "storage.anonymous": "Without credentials",
    "storage.connections": "Transfers at a time",
}

# A word on what can be picked.
_CHOICES: dict[str, dict[str, str]] = {
    "train.adapter.type": {"lora": "recommended", "lokr": "experimental"},
    "train.mode": {
        "corrected": "as ACE-Step itself was trained; recommended",
        "vanilla": "as older trainers do; to reproduce old results",
    },
    "train.optimizer_type": {
        "adamw8bit": "a quarter of adamw's memory; needs bitsandbytes",
        "adafactor": "hardly any memory of its own",
        "prodigy": "finds the learning rate by itself",
    },
    "train.quantize": {
        "none": "as they are",
        "8bit": "half of bf16's memory",
        "nf4": "4 bits; needs bitsandbytes",
        "auto": "none, 8bit or nf4, by the GPU's memory",
    },
}


def label(name: str) -> str:
    """What the field called `name` is called in a question and in the review: `Learning rate`."""
    if name in _ASKED:
        return _ASKED[name][0]
    return _OTHERS.get(name) or name.rpartition(".")[2].replace("_", " ").capitalize()


def question(name: str, says: str = "", note: str = "") -> str:
    """What is asked: some words on it, by default `says`, and below them its label."""
    return f"\n{_ASKED.get(name, ('', says))[1]}{note}\n{label(name)}:"


def word_on(field: SpecField, choice: str) -> str:
    """A word on one of the field's choices; empty where it says enough by itself."""
    return _CHOICES.get(field.name, {}).get(choice, "")
