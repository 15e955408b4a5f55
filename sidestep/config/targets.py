"""Which of a model's modules an adapter is for, and which of them have a size of their own, by name.

Paths are those of the original checkpoint, such as `layers.3.self_attn.q_proj`. What a spec says names a
module in every layer (`q_proj`) or the end of a path, which is also how PEFT reads `target_modules`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from sidestep.config.adapter import ATTENTION_MODULES, MLP_MODULES, AdapterSpec
from sidestep.runtime.errors import BadSpecError

T = TypeVar("T")


def target_names(spec: AdapterSpec) -> tuple[str, ...]:
    """`spec`'s target_modules, with q_proj and its like narrowed to the attention that `spec` asks for."""
    if spec.attention == "both":
        return spec.target_modules
    return tuple(
        f"{spec.attention}_attn.{name}" if name in ATTENTION_MODULES else name for name in spec.target_modules
    )


def chosen(paths: Sequence[str], target_modules: Iterable[str]) -> list[str]:
    """Those of a model's `paths` that `target_modules` name, in the same order.

    Raises BadSpecError for a name that names nothing.
    """
    targets = tuple(target_modules)
    if unknown := [name for name in targets if not any(is_end_of(name, path) for path in paths)]:
        raise BadSpecError(
            f"target_modules: {', '.join(unknown)} names no module of this model. Allowed are "
            f"{' '.join((*ATTENTION_MODULES, *MLP_MODULES))} (in every layer), or the end of a module's "
            f"path, from {paths[0]} to {paths[-1]}."
        )
    return [path for path in paths if any(is_end_of(name, path) for name in targets)]


def by_pattern(paths: Sequence[str], common: T, pattern: Mapping[str, T], field: str) -> dict[str, T]:
    """Each path's value: that of the longest key in `pattern` that ends the path, else the common one.

    Raises BadSpecError for a key that ends none; `field` is what the message calls the pattern.
    """
    if unused := [end for end in pattern if not any(is_end_of(end, path) for path in paths)]:
        raise BadSpecError(
            f"{field}: {', '.join(unused)} names none of the modules that target_modules chooses; "
            f"allowed is the end of a path such as {paths[0]}"
        )
    ends = {path: [end for end in pattern if is_end_of(end, path)] for path in paths}
    return {path: pattern[max(ends[path], key=len)] if ends[path] else common for path in paths}


def rate_factors(paths: Sequence[str], groups: Mapping[str, float]) -> dict[str, float]:
    """The factor on the learning rate of each path: that of the longest key in `groups` that is a part of it.

    A part is whole components in a row (`mlp`, `layers.3`, `cross_attn.q_proj`). A path that has none gets 1.

    Raises BadSpecError for a key that sets no path's factor, and for two keys of which neither is the longer.
    """
    factors, used = dict.fromkeys(paths, 1.0), set[str]()
    for path in paths:
        parts = [part for part in groups if is_part_of(part, path)]
        if not parts:
            continue
        longest = [part for part in parts if len(part) == max(map(len, parts))]
        if len(longest) > 1:
            raise BadSpecError(
                f"lr_groups: {' and '.join(sorted(longest))} are both parts of {path}, and neither is the "
                f"longer one, which would count; name more of the path, as in {path}"
            )
        factors[path] = groups[longest[0]]
        used.update(longest)
    if unused := [part for part in groups if part not in used]:
        matching = [part for part in unused if any(is_part_of(part, path) for path in paths)]
        why = "longer ones set the rates of all modules that it names" if matching else "allowed is a part"
        more = "" if matching else f" of a path such as {paths[0]}"
        raise BadSpecError(
            f"lr_groups: {', '.join(matching or unused)} sets the rate of none of the modules that "
            f"target_modules chooses; {why}{more}"
        )
    return factors


def check_targets(spec: AdapterSpec, paths: Sequence[str]) -> list[str]:
    """The paths that get an adapter. Raises BadSpecError where `spec` names what a model does not have."""
    found = chosen(paths, target_names(spec))
    by_pattern(found, spec.rank, spec.rank_pattern, "rank_pattern")
    by_pattern(found, spec.alpha, spec.alpha_pattern, "alpha_pattern")
    return found


def is_part_of(name: str, path: str) -> bool:
    """Whether `name` is whole components in a row of `path`: mlp and layers.3 are of layers.3.mlp.up_proj."""
    return f".{name}." in f".{path}."


def is_end_of(name: str, path: str) -> bool:
    """Whether `name` is `path` or its last whole components: o_proj ends self_attn.o_proj."""
    return f".{path}".endswith(f".{name}")
