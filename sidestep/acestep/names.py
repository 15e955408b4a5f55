"""Names of weights and modules: the original checkpoint's and diffusers'.

Users, checkpoints and published adapters speak the original names (`self_attn.q_proj`); the modules in
memory are diffusers' (`self_attn.to_q`). The renames are total and reversible, and they hold for module
paths as for parameter names. Source: the checkpoint layout, checked against recorded outputs.
"""

from sidestep.config.training import ATTENTION_MODULES, MLP_MODULES

_RENAMES = (  # original, diffusers
    ("q_proj", "to_q"),
    ("k_proj", "to_k"),
    ("v_proj", "to_v"),
    ("o_proj", "to_out.0"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
    ("proj_in.1", "proj_in_conv"),
    ("proj_out.1", "proj_out_conv"),
)


def decoder_modules(layers: int) -> list[str]:
    """The original paths of the attention and MLP modules of a decoder with so many layers, in its order."""
    of_a_layer = [f"{part}.{name}" for part in ("self_attn", "cross_attn") for name in ATTENTION_MODULES]
    of_a_layer += [f"mlp.{name}" for name in MLP_MODULES]
    return [f"layers.{number}.{path}" for number in range(layers) for path in of_a_layer]


def diffusers_name(original: str) -> str:
    """`layers.0.self_attn.o_proj.weight` → `layers.0.self_attn.to_out.0.weight`."""
    return _rename(original, _RENAMES)


def original_name(diffusers: str) -> str:
    """`layers.0.self_attn.to_out.0.weight` → `layers.0.self_attn.o_proj.weight`."""
    return _rename(diffusers, tuple((new, old) for old, new in _RENAMES))


def _rename(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    dotted = f".{name}."  # so that only whole components match
    for old, new in renames:
        dotted = dotted.replace(f".{old}.", f".{new}.")
    return dotted[1:-1]
