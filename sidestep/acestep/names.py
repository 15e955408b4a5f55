"""Names of weights and modules: the original checkpoint's and diffusers'.

Users, checkpoints and published adapters speak the original names (`self_attn.q_proj`); the modules in
memory are diffusers' (`self_attn.to_q`). The renames are total and reversible, and they hold for module
paths as for parameter names. Source: the checkpoint layout, checked against recorded outputs.
"""

from collections.abc import Mapping

from sidestep.config.adapter import ATTENTION_MODULES, MLP_MODULES

PREFIXES = ("base_model.model.", "diffusion_model.decoder.", "diffusion_model.", "transformer.", "decoder.")
FLAT = "lycoris_"
"""How names of a decoder's modules begin in files of adapters."""

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


def module_in_file(name: str, flat: Mapping[str, str]) -> str:
    """The module's path in the decoder, of a name in an adapter's file.

    Args:
        flat: path by what it is with underscores for its dots, as LyCORIS writes it.
    """
    if name.startswith(FLAT):
        return flat.get(name.removeprefix(FLAT), name)
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _rename(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    dotted = f".{name}."  # so that only whole components match
    for old, new in renames:
        dotted = dotted.replace(f".{old}.", f".{new}.")
    return dotted[1:-1]
