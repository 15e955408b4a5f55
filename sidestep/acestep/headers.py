"""Whether a model's files can be what they should be: by their sizes and first bytes, without torch.

A download that was cut short, a Git LFS pointer or a web page saved under a weight's name is found before a
GPU is rented, also in a bucket: a safetensors file begins with a list of its tensors. Their values are not
read.
"""

import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from sidestep.acestep.config import TextConfig, VaeConfig, parse_config
from sidestep.acestep.layout import (
    INDEX_SUFFIX,
    SILENCE_FILE,
    TEXT_ENCODER_FOLDER,
    VAE_FOLDER,
    Part,
    is_weights,
    weight_names,
)
from sidestep.acestep.shapes import (
    Shapes,
    condition_encoder_shapes,
    decoder_shapes,
    text_encoder_shapes,
    vae_shapes,
)
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_as, parse_json
from sidestep.runtime.words import counted, some
from sidestep.storage.store import FileInfo, Store

FIRST_BYTES = 2**17  # the header of a model of 5 GB has some 60 kB
HEADER_AT_MOST = 2**24
JSON_READ_AT_MOST = 2**25
TOKENIZER_FILE = "tokenizer.json"
POINTER = b"version https://git-lfs"
SHOWN = 5  # problems of one kind that a message lists
SAMPLED, SAMPLED_BYTES = 8, 256  # about so many matrices of a part, and bytes of each
AGAIN = "download it again"
FLOATS = ("F64", "F32", "F16", "BF16")


def check_models(store: Store, model: Part, others: Sequence[Part], task: str) -> None:
    """Raise BadDataError with all that is wrong with the files of a checkpoint set that a task reads.

    Args:
        model: the variant's folder; of it, those weights count that the task uses.
        others: the folders of the VAE and the text encoder, where the task uses them.
    """
    problems = []
    for part in (model, *others):
        try:
            check_part(store, part, task)
        except BadDataError as error:
            problems.append(str(error))
    if problems:
        raise BadDataError("\n".join(problems))


def check_part(store: Store, part: Part, task: str) -> None:
    """Raise BadDataError with all that is wrong with the files of one part that a task reads."""
    path = f"{part.folder}/config.json"
    content, where = store.read_small(path), f"{store.place}/{path}"
    if not content or content.startswith(POINTER):
        _read_start(store, FileInfo(path, len(content), ""))
    if part.folder == VAE_FOLDER:
        _check_files(store, part, vae_shapes(parse_as(VaeConfig, content, where).model_dump()), ("",))
    elif part.folder == TEXT_ENCODER_FOLDER:
        config = parse_as(TextConfig, content, where).model_dump(exclude_none=True)
        _check_files(store, part, text_encoder_shapes(config), ())
    else:
        given = parse_config(content, where)
        config = {key: value for key, value in given.items() if value is not None}
        encoder, null = condition_encoder_shapes(config), "null_condition_emb"
        wanted = {} if task == "preprocess" else {**decoder_shapes(config), null: encoder[null]}
        if task in ("preprocess", "pipeline"):
            wanted |= encoder
        _check_files(store, part, wanted, tuple({f"{name.split('.')[0]}." for name in wanted}))


def _check_files(store: Store, part: Part, wanted: Shapes, prefixes: tuple[str, ...]) -> None:
    """Raise BadDataError with all that is wrong with a part's files.

    Its weights must be those `wanted`, by name and shape; of others, only those under `prefixes` are wrong.
    """
    weights = weight_names(store, part)
    others = [file for file in part.files if not is_weights(file.path)]
    chosen = [file for file in part.files if posixpath.basename(file.path) in weights]

    def shapes_in(file: FileInfo) -> Shapes | BadDataError:
        try:
            entries = {_plain(name): entry for name, entry in read_header(store, file)[1].items()}
            _check_types(f"{store.place}/{file.path}", entries, wanted)
            return {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        except BadDataError as error:
            return error

    def check(file: FileInfo) -> BadDataError | None:
        try:
            _check_other(store, file)
        except BadDataError as error:
            return error
        return None

    with ThreadPoolExecutor(store.options.connections) as threads:
        headers = dict(zip(chosen, threads.map(shapes_in, chosen), strict=True))
        problems = [error for error in threads.map(check, others) if error]
    found = {file: shapes for file, shapes in headers.items() if not isinstance(shapes, BadDataError)}
    problems += [shapes for shapes in headers.values() if isinstance(shapes, BadDataError)]
    if not problems:
        problems += _check_shapes(f"{store.place}/{part.folder}", found, wanted, prefixes)
    if problems:
        raise BadDataError("\n".join(map(str, problems)))


def _check_types(place: str, entries: Mapping[str, Any], wanted: Shapes) -> None:
    kinds = {name: entry["dtype"] for name, entry in entries.items() if name in wanted}
    odd = [f"{name} {kind}" for name, kind in kinds.items() if kind not in FLOATS]
    if odd:
        raise BadDataError(
            f"{place} has {counted(len(odd), 'tensors')} of types that are not read: {some(odd)}\n"
            f"  wanted are {', '.join(FLOATS)}: take the model as it was released, not a quantized copy"
        )


def read_part_shapes(store: Store, part: Part) -> Shapes:
    """The weights of a part by name. Raises what `read_shapes` raises."""
    shapes: Shapes = {}
    for name in weight_names(store, part):
        file = next(file for file in part.files if posixpath.basename(file.path) == name)
        shapes |= read_shapes(store, file)
    return shapes


def _plain(name: str) -> str:
    """A text encoder's files may have its weights under `model.`, with a head beside."""
    return name.removeprefix("model.")


def sample_of_part(store: Store, part: Part, prefixes: tuple[str, ...]) -> dict[str, str]:
    """A digest of the first bytes of some matrices of a part, by name: other weights of the same shapes show,
    without reading gigabytes. Raises what `read_shapes` raises."""
    found: dict[str, tuple[FileInfo, int, dict[str, Any]]] = {}
    for name in weight_names(store, part):
        file = next(file for file in part.files if posixpath.basename(file.path) == name)
        start, entries = read_header(store, file)
        found |= {
            tensor: (file, start, entry)
            for tensor, entry in entries.items()
            if tensor.startswith(prefixes) and len(entry["shape"]) >= 2
        }
    names = sorted(found)
    chosen = names[:: max(len(names) // SAMPLED, 1)]

    def digest(name: str) -> str:
        file, start, entry = found[name]
        begin, end = entry["data_offsets"]
        first = store.read_range(file.path, start + begin, min(end - begin, SAMPLED_BYTES))
        return sha256(f"{entry['dtype']} {entry['shape']} ".encode() + first).hexdigest()

    with ThreadPoolExecutor(store.options.connections) as threads:
        return dict(zip(chosen, threads.map(digest, chosen), strict=True))


def read_shapes(store: Store, file: FileInfo) -> Shapes:
    """The tensors of a safetensors file by name. Raises BadDataError where it is none, or cut short."""
    return {name: tuple(map(int, entry["shape"])) for name, entry in read_header(store, file)[1].items()}


def read_header(store: Store, file: FileInfo) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begins, and its tensors' entries, which are sound.

    Raises BadDataError where it is none, or cut short.
    """
    place = f"{store.place}/{file.path}"
    start = _read_start(store, file)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 2 <= length <= HEADER_AT_MOST:
        raise BadDataError(f"{place} is not a safetensors file\n  {AGAIN}")
    if file.size < 8 + length:
        raise BadDataError(
            f"{place} is cut short: it has {file.size:,} bytes, its header alone {length:,}\n  {AGAIN}"
        )
    if len(start) < 8 + length:
        start += store.read_range(file.path, len(start), 8 + length - len(start))
    header = parse_json(start[8 : 8 + length], f"the header of {place}")
    try:
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = _end_of(entries)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise BadDataError(f"{place} is not a safetensors file: its header is damaged\n  {AGAIN}") from error
    if file.size != 8 + length + end:
        what = "is cut short" if file.size < 8 + length + end else "is longer than it says"
        raise BadDataError(
            f"{place} {what}: it has {file.size:,} bytes, of {8 + length + end:,} by its header\n  {AGAIN}"
        )
    return 8 + length, entries


def _end_of(entries: Mapping[str, Any]) -> int:
    """Where the last tensor ends. Raises ValueError where they do not lie one behind the other, each in the
    bytes that its shape and type take."""

    def offsets(name: str) -> tuple[int, int]:
        begin, stop = map(int, entries[name]["data_offsets"])
        return begin, stop

    end = 0
    for name in sorted(entries, key=offsets):
        begin, stop = offsets(name)
        bits = int(re.sub(r"\D*(\d+).*", r"\1", entries[name]["dtype"].replace("BOOL", "U8")))
        if begin != end or (stop - begin) * 8 != bits * math.prod(map(int, entries[name]["shape"])):
            raise ValueError("a tensor is not where it should be")
        end = stop
    return end


def _read_start(store: Store, file: FileInfo) -> bytes:
    """The first bytes of a file. Raises BadDataError where it is empty, a pointer or a web page."""
    place = f"{store.place}/{file.path}"
    if file.size == 0:
        raise BadDataError(f"{place} is empty (0 bytes)\n  {AGAIN}")
    start = store.read_range(file.path, 0, min(file.size, FIRST_BYTES))
    if start.startswith(POINTER):
        raise BadDataError(
            f"{place} is a Git LFS pointer of {file.size} bytes, not the file that it stands for\n"
            "  fetch that with `git lfs pull`, or download it from the model's page"
        )
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadDataError(
            f"{place} is a web page, saved under this name\n  {AGAIN}, logged in where that is asked"
        )
    return start


def _check_other(store: Store, file: FileInfo) -> None:
    """A file beside the weights: not empty, no pointer; JSON, where that is read quickly."""
    name, place = posixpath.basename(file.path), f"{store.place}/{file.path}"
    start = _read_start(store, file)
    if name == SILENCE_FILE and not start.startswith((b"PK", b"\x80")):
        raise BadDataError(f"{place} is not a file that torch has saved\n  {AGAIN}")
    if name == SILENCE_FILE and start.startswith(b"PK"):
        tail = store.read_range(file.path, max(file.size - 1024, 0), 1024)
        if b"PK\x05\x06" not in tail:
            raise BadDataError(f"{place} is cut short: the end of its archive is not there\n  {AGAIN}")
    is_near = store.local_root is not None or file.size <= FIRST_BYTES or name.endswith(INDEX_SUFFIX)
    if name.endswith(".json") and is_near and file.size <= JSON_READ_AT_MOST:
        rest = store.read_range(file.path, len(start), file.size) if file.size > len(start) else b""
        content = parse_json(start + rest, place)
        if name == TOKENIZER_FILE and not _has_words(content):
            raise BadDataError(f"{place} is no tokenizer: it has no vocabulary\n  {AGAIN}")


def _has_words(tokenizer: Any) -> bool:
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    return isinstance(model, dict) and isinstance(model.get("vocab"), dict | list) and bool(model["vocab"])


def _check_shapes(
    where: str, found: Mapping[FileInfo, Shapes], wanted: Shapes, prefixes: tuple[str, ...]
) -> list[BadDataError]:
    problems: list[str] = []
    there: dict[str, tuple[int, ...]] = {}
    holders: dict[str, str] = {}
    for file, shapes in found.items():
        for name, shape in shapes.items():
            if name in there:
                problems.append(f"{name} is in {holders[name]} and in {posixpath.basename(file.path)}")
            there[name], holders[name] = shape, posixpath.basename(file.path)
    kinds: dict[str, Sequence[str]] = {
        "missing": sorted(wanted.keys() - there.keys()),
        "not known": sorted(name for name in there.keys() - wanted.keys() if name.startswith(prefixes)),
        "of another shape": [
            f"{name} {list(there[name])}, config.json wants {list(shape)}"
            for name, shape in sorted(wanted.items())
            if name in there and there[name] != shape
        ],
        "there twice": problems,
    }
    lines = [
        f"  {len(names)} {what}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
        for what, names in kinds.items()
        if names
    ]
    if not lines:
        return []
    files = ", ".join(sorted(posixpath.basename(file.path) for file in found))
    return [BadDataError("\n".join([f"{where} does not fit its config.json ({files}):", *lines]))]
