"""Whether a run can begin as the adapter that it names, by the header of its file: no weight is pulled."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from sidestep.acestep.headers import read_header
from sidestep.acestep.names import module_in_file, original_name
from sidestep.config.beginning import (
    check_lokr_as_lora,
    check_modules,
    decomposed_as_plain,
    lora_as_lokr,
    other_ranks,
)
from sidestep.config.targets import by_pattern, check_targets
from sidestep.config.training import TrainSpec
from sidestep.lifecycle.adapter_files import AdapterFiles
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.words import counted

_LORA = re.compile(r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight")
_LOKR = re.compile(r"(?P<module>.+)\.lokr_w[12](_[ab])?")
_DOWN = ("lora_A", "lora_down")

_FIRST = 4096  # bytes of a tensor
_ZEROS = b"\0\x80"  # the bytes of 0 and -0


class Header:
    """What the header of an adapter's file says of it. `every` are the paths of the model's modules."""

    def __init__(self, found: AdapterFiles, every: Iterable[str]) -> None:
        self._found = found
        self._start, self._entries = read_header(found.store, found.weights)
        self._flat = {path.replace(".", "_"): path for path in every}
        if not self._of(_LORA) and not self._of(_LOKR):
            raise self._no_adapter()

    @property
    def is_lokr(self) -> bool:
        return bool(self._of(_LOKR))

    @property
    def is_decomposed(self) -> bool:
        return any(name.endswith((".dora_scale", ".lora_magnitude_vector")) for name in self._entries)

    @cached_property
    def modules(self) -> dict[str, list[str]]:
        """Path → the names of its tensors."""
        found: dict[str, list[str]] = {}
        for name, match in self._of(_LOKR if self.is_lokr else _LORA).items():
            found.setdefault(original_name(module_in_file(match["module"], self._flat)), []).append(name)
        return found

    def ranks(self) -> dict[str, int]:
        """Of a LoRA's modules, by their paths."""
        shapes = {
            path: self._entries[name]["shape"]
            for path, names in self.modules.items()
            for name in names
            if (match := _LORA.fullmatch(name)) and match["side"] in _DOWN
        }
        return {path: int(shape[0]) for path, shape in shapes.items() if shape}

    def has_effect(self, path: str) -> bool:
        """Whether the update of a LoRA's module is sure not to be zero, as it is of some in some files."""
        return all(map(self._has_values, self.modules[path]))

    def _has_values(self, name: str) -> bool:
        """Mostly, the first bytes tell."""
        begin, end = (self._start + offset for offset in self._entries[name]["data_offsets"])
        first = min(begin + _FIRST, end)
        return any(
            self._found.store.read_range(self._found.weights.path, at, to - at).translate(None, _ZEROS)
            for at, to in ((begin, first), (first, end))
            if at < to
        )

    def _of(self, kind: re.Pattern[str]) -> Mapping[str, re.Match[str]]:
        return {name: match for name in self._entries if (match := kind.fullmatch(name))}

    def _no_adapter(self) -> BadDataError:
        store, path = self._found.store, self._found.weights.path
        is_model = store.stat(posixpath.join(posixpath.dirname(path), "config.json")) is not None
        what = "is a model, and no adapter" if is_model else "holds no LoRA or LoKR"
        some = next(iter(self._entries), "none")
        return BadDataError(
            f"{self._found.place} {what}: {counted(len(self._entries), 'tensors')}, first {some}\n"
            "  train.init_from is for a job's <output_dir>/adapter, or the one file of an adapter; the model "
            "to train on is checkpoint_dir and model_variant"
        )


def check_fit(train: TrainSpec, found: AdapterFiles, every: list[str]) -> None:
    """Raise what training would of an adapter that the run cannot begin as, as far as its header tells.

    A LoKR's factors are not compared, as it takes LyCORIS to know the run's own.

    Args:
        every: the paths of the model's modules; [] where they are not known.
    """
    header, adapter, resize = Header(found, every), train.adapter, train.init_resize
    if adapter.type == "lora":
        if header.is_decomposed and (header.is_lokr or not adapter.weight_decompose):
            raise decomposed_as_plain(found.place, "lokr" if header.is_lokr else "lora")
        if header.is_lokr:
            check_lokr_as_lora(found.place, resize=resize)
    if not header.is_lokr and adapter.type == "lokr":
        raise lora_as_lokr(found.place)
    if not every:
        return
    own, given = check_targets(adapter, every), header.modules
    if header.is_lokr:
        there = [path for path in given if path in own]  # a file may have others, without an effect
        check_modules(found.place, there, given, own, every, resize=resize)
        return
    wanted = by_pattern(own, adapter.rank, adapter.rank_pattern, "rank_pattern")
    any_rank = resize or adapter.rank_from is not None
    theirs = header.ranks()
    odd = [path for path in theirs if path not in own or not (any_rank or theirs[path] == wanted[path])]
    if odd or not theirs.keys() >= set(own):
        # It takes some reading: of what has no effect, nothing is said.
        theirs = {path: rank for path, rank in theirs.items() if header.has_effect(path)}
    if not theirs:
        return  # it adds nothing, which reading it says
    check_modules(found.place, theirs, given, own, every, resize=resize)
    if not any_rank:
        other_ranks(found.place, theirs, wanted, resize=resize)
