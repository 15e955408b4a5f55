"""What can be said of any adapter: its kind, its ranks and its modules, as a card has them."""

from collections import Counter
from typing import Any

from sidestep.adapters.adapter import Adapter
from sidestep.data.card import kinds_of


def shape_of(adapter: Adapter) -> dict[str, Any]:
    """The fields of `data.card.Facts` that the adapter's own shape decides."""
    ranks = adapter.ranks()
    common = Counter(ranks.values()).most_common(1)[0][0]
    return {
        "kind": adapter.kind,
        "weight_decompose": adapter.is_decomposed,
        "rank": common,
        "rank_pattern": {path: rank for path, rank in sorted(ranks.items()) if rank != common},
        "modules": kinds_of(ranks),
        "module_count": len(ranks),
    }
