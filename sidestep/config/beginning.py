"""Whether an adapter can be what a run's own one begins as: by kinds, names and ranks, without any weight."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from sidestep.config.targets import chosen, is_end_of
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.words import out_of

RESIZE = "--resize (train.init_resize: true)"
AS_LOKR = "set train.adapter.type to lokr, and its factor and rank as the file has them"

_SHOWN = 5  # modules that a message names


def misfit(place: str, what: str, to_do: str) -> BadSpecError:
    """What is said of an adapter at `place` that a run cannot begin from."""
    return BadSpecError(f"train.init_from: {place} does not fit this run's adapter\n  {what}\n  {to_do}")


def check_modules(
    place: str,
    there: Collection[str],
    given: Collection[str],
    own: Sequence[str],
    every: Sequence[str],
    *,
    resize: bool,
) -> None:
    """Raise BadSpecError unless the modules of the adapter at `place` are those of the run's own.

    Args:
        there: paths of its modules that have an effect; `given` are all.
        own: those of the run's adapter, of `every` that the model has.
        resize: modules that it lacks may begin as new ones.
    """
    if lost := [path for path in there if path not in own]:
        raise misfit(
            place,
            f"it adapts {out_of(len(lost), len(there), 'modules')} that this run does not: {_some(lost)}",
            f"set train.adapter.target_modules to {_names(there, every)}",
        )
    new = [path for path in own if path not in given]
    if new and not resize:
        raise misfit(
            place,
            f"it lacks {out_of(len(new), len(own), 'modules')} that this run trains: {_some(new)}",
            f"set train.adapter.target_modules to {_names(there, every)}, or let these begin as new ones, "
            f"with {RESIZE}",
        )


def other_ranks(place: str, theirs: Mapping[str, int], own: Mapping[str, int], *, resize: bool) -> list[str]:
    """The modules whose rank is another one than the run's. Raises BadSpecError where that may not be."""
    others = sorted(path for path, rank in theirs.items() if rank != own[path])
    if others and not resize:
        raise misfit(
            place,
            f"its rank is {_ranks(theirs[path] for path in others)} in "
            f"{out_of(len(others), len(theirs), 'modules')} where this run's is "
            f"{_ranks(own[path] for path in others)}: {_some(others)}",
            f"set train.adapter.rank to {_as_set(theirs)}, or bring it to this run's rank with {RESIZE}",
        )
    return others


def decomposed_as_plain(place: str, kind: str) -> BadSpecError:
    """What is said of an adapter with weight decomposition that another kind is to begin as."""
    if kind == "lora":
        return misfit(
            place,
            "it is a DoRA, whose effect is no plain LoRA's",
            "set train.adapter.weight_decompose to true",
        )
    return misfit(place, "it is a LoKR with weight_decompose, whose effect is no LoRA's", AS_LOKR)


def check_lokr_as_lora(place: str, *, resize: bool) -> None:
    """Raise BadSpecError where the LoKR at `place` cannot become a LoRA."""
    if not resize:
        raise misfit(
            place,
            "it is a LoKR, and this run's adapter is a LoRA",
            f"{AS_LOKR}, or make the nearest LoRA of it with {RESIZE}",
        )


def lora_as_lokr(place: str) -> BadSpecError:
    """What is said of a LoRA that a LoKR is to begin as."""
    return misfit(
        place,
        "it is a LoRA, and this run's adapter is a LoKR: no Kronecker product is near to it",
        "set train.adapter.type to lora",
    )


def _names(paths: Iterable[str], every: Sequence[str]) -> str:
    """The shortest target_modules that name these paths alone."""
    wanted = set(paths)
    for parts in (1, 2):
        names = sorted({".".join(path.split(".")[-parts:]) for path in wanted})
        if set(chosen(every, [name for name in names if name in _ends(every)])) == wanted:
            return " ".join(names)
    return _some(sorted(wanted))


def _ends(paths: Iterable[str]) -> set[str]:
    return {".".join(path.split(".")[-parts:]) for path in paths for parts in (1, 2)}


def _ranks(ranks: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(ranks))))


def _as_set(ranks: Mapping[str, int]) -> str:
    """Ranks as the spec has them: the commonest, and a pattern for the others."""
    every = list(ranks.values())
    common = max(set(every), key=lambda rank: (every.count(rank), rank))
    others = {_own_end(path, ranks): rank for path, rank in ranks.items() if rank != common}
    if not others:
        return str(common)
    pattern = _some([f"{end}={others[end]}" for end in sorted(others)])
    return f"{common} and train.adapter.rank_pattern to {pattern}"


def _own_end(path: str, ranks: Mapping[str, int]) -> str:
    """The shortest end of a path whose modules all have its rank."""
    parts = path.split(".")
    ends = (".".join(parts[-number:]) for number in range(1, len(parts) + 1))
    return next(
        end
        for end in ends
        if all(rank == ranks[path] for name, rank in ranks.items() if is_end_of(end, name))
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
