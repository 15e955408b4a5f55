"""What makes two runs the same: the run's fingerprint, and the kind of machine that makes its numbers.

A run goes on under the same fingerprint alone. On a machine of another kind it goes on too, but the same bits
are not promised then. A checkpoint of an older version says nothing of what did not exist yet: see `NEUTRAL`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sidestep.acestep.layout import ALIASES
from sidestep.config.job import JobSpec
from sidestep.data.index import dataset_digest
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.shares import shares_of, shares_said
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.ranks import frozen_ranks
from sidestep.runtime.errors import BadSpecError
from sidestep.training.numbers import Numbers

LENGTH = ("train.epochs", "train.max_steps")
ENDS = (*LENGTH, "train.stop.patience", "train.stop.min_delta", "train.target_loss")
"""What a longer run may change, where the spec says so."""

CHANGES_NOTHING = {
    *("resume_from", "new_attempt", "extend", "log_every", "log_heavy_every", "checkpoint"),
    "accept_other_weights",
    *("init_from", "init_resize"),  # the adapter's digest counts, and one that does not fit begins no run
    *("gradient_checkpointing", "gradient_checkpointing_ratio"),
    *("block_swap", "offload_activations"),
    *("best", "publish", "sample"),
}
"""Fields of `train` that do not touch the adapter's numbers; all others make the fingerprint."""

BY_SONG = {"repeats", "weights"}
"""Those of which the fingerprint has what they come to for each song, whoever says it: spec or dataset."""

SAMPLES_PER_STEP = "train.accumulation"
"""The fingerprint's key for batch_size × accumulation. How a step is cut is the machine's kind to say."""

# fmt: off - a table, by rows that belong together
NEUTRAL: dict[str, Any] = {
    "model_variant": "acestep-v15-base",
    "dataset_content": None,  # not compared then
    "init_from": None,
    "train.mode": "corrected",
    "train.seed": 42,
    "train.adapter.type": "lora",
    "train.adapter.rank": 64,
    "train.adapter.alpha": 128,
    "train.adapter.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "train.adapter.attention": "both",
    "train.adapter.rank_pattern": {},
    "train.adapter.alpha_pattern": {},
    "train.adapter.rank_from": None,
    "train.adapter.dropout": 0.1,
    "train.adapter.bias": "none",
    "train.adapter.factor": -1,
    "train.adapter.decompose_both": False,
    "train.adapter.use_tucker": False,
    "train.adapter.use_scalar": False,
    "train.adapter.weight_decompose": False,
    "train.epochs": 100,
    "train.max_steps": None,
    "train.accumulation": 4,
    "train.quantize": "none",
    "train.chunk_duration": None,
    "train.chunks": "random",
    "train.optimizer_type": "adamw",
    "train.weight_decay": 0.01,
    "train.max_grad_norm": 1.0,
    "train.lr": 1e-4,
    "train.lr_groups": {},
    "train.scheduler": "cosine",
    "train.warmup_steps": 100,
    "train.cfg_dropout": 0.15,
    "train.caption_dropout": 0.0,
    "train.genre_share": 0.0,
    "train.repeats": {},
    "train.weights": {},
    "train.ema.decay": None,
    "train.ema.use": True,
    "train.loss_weighting": "none",
    "train.min_snr_gamma": 5.0,
    "train.timestep_mu": None,
    "train.timestep_sigma": None,
    "train.validation.share": 0,
    "train.validation.songs": [],
    "train.validation.every_epochs": 5,
    "train.validation.draws": 16,
    "train.validation.window": 3,
    "train.stop.patience": None,
    "train.stop.min_delta": 0,
    "train.target_loss": None,
    "deterministic": True,
    "batch_size": 1,
    "kernels": "plain",
    "compile": "off",
    "numerics.fp32": 1,
    "numerics.bf16": 1,
    "numerics.fp16": 1,  # of a machine's kind
}
# fmt: on
"""What a run had that says nothing of a field: the value that does what was done before there was the field.

So a new field refuses no run that was begun without it. An entry never changes, even where the default of its
field does. `dataset` and `weights` have none: a state without them is damaged.
"""

UNSAID = (
    *("train.ema.decay", "train.ema.use", "train.lr_groups", "train.adapter.rank_from"),
    *("train.loss_weighting", "train.min_snr_gamma", "train.quantize"),
)
"""Settings that a run leaves out of its fingerprint while they are neutral: so a run without them says what
it has always said, byte for byte."""

LEFT_OUT = {"versions.side-step"}
"""What older versions had in a machine's kind; see `training.numbers.NUMERICS`, which stands for it."""


SAID_LATER = {"versions.bitsandbytes", "versions.flash-attn", "versions.prodigyopt"}
"""What a machine's kind of older versions lacks: where one of two does not say it, that is no difference.
Which of these packages a run uses, its other settings say."""


def settings_of(job: Job, dataset: Preprocessed, before: Numbers | None = None) -> dict[str, Any]:
    """The fingerprint but for what is known once the inputs are here: `dataset_content`, `weights`, and the
    digest of the adapter that the run began from, `init_from`, where there is one.

    `dataset` is a digest of the tensors' names and sizes, `dataset_content` one of what is in them. `before`
    is the run to go on with: which files count is as it was when that began.

    Raises MissingInputError where there are no tensors, and what `data.shares.shares_of` does.
    """
    spec = job.spec
    files = dataset.files(before.dataset if before else "")
    train = spec.train.model_dump(mode="json", exclude=CHANGES_NOTHING | {"batch_size", *BY_SONG})
    train["accumulation"] = spec.train.samples_per_step
    if before and before.progress.law == 1 and spec.train.adapter.type == "lokr":
        # It has no dropout, and its recipe says LoRA's default: so may the spec today, or nothing.
        train["adapter"]["dropout"] = train["adapter"]["dropout"] or NEUTRAL["train.adapter.dropout"]
    if before and train["quantize"] == "auto":
        train["quantize"] = recorded(before.recipe, "train.quantize")
    kept = frozen_ranks(before)
    if kept and spec.train.adapter.rank_from:
        train["adapter"] |= kept.model_dump()
    return {
        "model_variant": ALIASES.get(spec.model_variant, spec.model_variant),
        "dataset": dataset_digest(files),
        **_said_of({f"train.{key}": value for key, value in train.items()}),
        **_shares_said(spec, dataset, [file.path for file in files]),
    }


def _shares_said(spec: JobSpec, dataset: Preprocessed, files: list[str]) -> dict[str, Any]:
    return shares_said(files, shares_of(dataset.index, files, spec.train))


def _said_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those of `UNSAID` that are neutral, and without sections that are empty then."""
    for name in UNSAID:
        above, _, key = name.rpartition(".")
        section, key = (settings[above], key) if above in settings else (settings, name)
        if section[key] == NEUTRAL[name]:
            del section[key]
    return {key: value for key, value in settings.items() if value != {} or key in NEUTRAL}


def with_quantization(settings: Mapping[str, Any], resolved: str) -> dict[str, Any]:
    """The fingerprint `settings` with what `train.quantize` is in this run, where `auto` was to find out."""
    others = {key: value for key, value in settings.items() if key != "train.quantize"}
    return others if resolved == NEUTRAL["train.quantize"] else others | {"train.quantize": resolved}


def check_same_run(
    spec: JobSpec, numbers: Numbers | None, fingerprint: Mapping[str, Any], place: str
) -> None:
    """Refuse to go on from a checkpoint of other settings, but for a longer run where the spec says so.

    Args:
        numbers: of the checkpoint in `place`; None: there is none, and nothing is refused.
        fingerprint: of this run, or its settings alone while the weights are not here.

    Raises BadSpecError with every setting that differs.
    """
    if numbers is None:
        return
    changed = differences(numbers.recipe, fingerprint)
    unknown = {"weights", "dataset_content"} - fingerprint.keys()
    if "weights" in unknown:
        unknown.add("init_from")
    if numbers.recipe.get("dataset_content") is None:
        unknown.add("dataset_content")
    for key in [*(ENDS if spec.train.extend else ()), *unknown]:
        changed.pop(key, None)
    if changed:
        lines = [
            f"{said_as(key)}: {said(then)} then, {said(now)} now" for key, (then, now) in changed.items()
        ]
        way_on = "use the same settings, or start again with another output_dir"
        if changed.keys() <= {*ENDS}:
            way_on = f"{_other_length(spec, numbers)}; otherwise {way_on}"
        if changed.keys() == {"init_from"}:
            way_on = f"without train.init_from the run goes on as it began; otherwise {way_on}"
        raise BadSpecError("\n  ".join([f"{place} was made with other settings:", *lines, way_on]))
    begun_in, asked_for = numbers.machine.get("precision"), spec.runtime.precision
    if asked_for not in ("auto", begun_in):
        raise BadSpecError(
            f"{place} was made in {begun_in}, but runtime.precision is {asked_for}\n"
            f"  use {begun_in} or auto, or start again with another output_dir"
        )


def said_as(key: str) -> str:
    """What of the spec a key of the fingerprint is."""
    return "train.batch_size × train.accumulation" if key == SAMPLES_PER_STEP else key


def _other_length(spec: JobSpec, numbers: Numbers) -> str:
    """What helps who asks for another length than a run was begun with."""
    epochs, most = numbers.recipe.get("train.epochs", NEUTRAL["train.epochs"]), spec.train.max_steps
    if spec.train.epochs < epochs or (most is not None and most <= numbers.progress.step):
        return (
            "--extend (train.extend: true) makes the run shorter, unless it has made more steps already; "
            "`sidestep publish OUTPUT --checkpoint NAME` makes an earlier checkpoint its adapter"
        )
    return "--extend (train.extend: true) makes the run longer"


def said(value: Any) -> str:
    """A setting's value in a sentence."""
    return "not set" if value is None else repr(value)


def recorded(before: Mapping[str, Any], key: str) -> Any:
    """A setting that a run was begun with, by its full name, as in `train.validation.window`."""
    return _flat(before).get(key, NEUTRAL.get(key))


def length_before(before: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> dict[str, int | None]:
    """Of `epochs` and `max_steps`, what the run was begun with, where it is to be another one now."""
    changed = differences(before, fingerprint)
    return {key.removeprefix("train."): changed[key][0] for key in LENGTH if key in changed}


def is_extended(before: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> bool:
    """Whether a run is to end elsewhere than it was begun to: by its length, or by what stops it before."""
    return not differences(before, fingerprint).keys().isdisjoint(ENDS)


def distinct_kinds(machines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of kinds of machines, one of each that give the same bits."""
    distinct: list[Mapping[str, Any]] = []
    for machine in machines:
        if all(differences(other, machine) for other in distinct):
            distinct.append(machine)
    return distinct


def flat_settings(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting by its whole name, as in `train.adapter.rank`; what older runs do not say is neutral."""
    return {said_as(key): _content(key, value) for key, value in {**NEUTRAL, **_flat(fingerprint)}.items()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two fingerprints, or two kinds of machines: key → the value then, and now.

    Keys are as the settings are called, as in `train.adapter.rank`.
    """
    then, today = _flat(before), _flat(now)
    pairs = {
        key: tuple(side.get(key, NEUTRAL.get(key)) for side in (then, today))
        for key in sorted(then.keys() | today.keys())
        if key not in SAID_LATER or key in then.keys() & today.keys()
    }
    return {key: (old, new) for key, (old, new) in pairs.items() if _content(key, old) != _content(key, new)}


def _content(key: str, value: Any) -> Any:
    """What of a value counts: weights are the same at another commit, or in a folder, if their digest is."""
    return value.partition("@")[0] if key == "weights" and isinstance(value, str) else value


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train.adapter": {"rank": 4}} → {"train.adapter.rank": 4}; a setting that is a mapping stays one."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in NEUTRAL:
            flat |= _flat(value, f"{name}.")
        elif name not in LEFT_OUT:
            flat[name] = value
    return flat
