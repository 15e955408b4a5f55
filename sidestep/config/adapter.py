"""The schema's part about the adapter: its kind, its size, and which modules it adapts."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sidestep.config.section import (
    DECOMPOSABLE,
    LOKR,
    LORA,
    Place,
    Section,
    mark_of,
    setting,
    split_pairs,
    split_words,
)

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_MODULES = ("gate_proj", "up_proj", "down_proj")
OWN_ESTIMATE = "estimate"  # in place of a place: the one that this job's output has


TITLES = {"lora": "LoRA", "lokr": "LoKR"}


def title_of(kind: str, *, weight_decompose: bool) -> str:
    """What an adapter is called: of weight decomposition, a LoRA is a DoRA."""
    return "DoRA" if kind == "lora" and weight_decompose else TITLES[kind]


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
    target_modules: Annotated[tuple[str, ...], BeforeValidator(split_words)] = setting(
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
        dict[str, Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(split_pairs), LORA
    ] = Field(
        default_factory=dict,
        description="Different ranks for some modules (LoRA only), by the end of a path: v_proj=16.",
        examples=[{"v_proj": 16}],
    )
    alpha_pattern: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(split_pairs), LORA] = (
        Field(
            default_factory=dict,
            description="Different alphas for some modules (LoRA only), by the end of a path: v_proj=32.",
            examples=[{"v_proj": 32}],
        )
    )
    rank_from: Place | None = setting(
        None,
        "Give each attention module a rank by an estimate (LoRA only), at the parameters of `rank` for all: "
        f"its report.json, the output_dir that has it, or {OWN_ESTIMATE}, that of this output_dir.",
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
    weight_decompose: Annotated[bool, DECOMPOSABLE] = setting(
        False,
        "Train the length of each row of the weight apart from its direction: of a LoRA, that is DoRA.",
        aliases=["--lokr-weight-decompose", "--dora"],
    )

    @property
    def title(self) -> str:
        """What it is called."""
        return title_of(self.type, weight_decompose=self.weight_decompose)

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

    @field_validator("rank_from")
    @classmethod
    def _has_no_other_ranks(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return value
        if info.data.get("type") == "lokr":
            raise ValueError(
                "is for lora alone, and adapter.type is lokr: a LoKR's size follows from its factors, and "
                "its rank is that of one of them"
            )
        if info.data.get("rank_pattern") or info.data.get("alpha_pattern"):
            raise ValueError("sets the ranks and alphas of modules: leave out rank_pattern and alpha_pattern")
        return value

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
        meant = mark_of(field).adapter_types
        if meant and chosen not in (None, *meant) and value != field.get_default(call_default_factory=True):
            raise ValueError(f"is for {' and '.join(meant)} alone, and adapter.type is {chosen}")
        return value
