"""What is given away of an adapter: its own files, its card, and the sound that the card lists.

Nothing else of an output is: no settings, no log, no tensors. What is said in the files is looked through for
secrets before any of it is sent.
"""

import json
import logging
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidestep.commitlog.log import CommitLog
from sidestep.config.adapter_files import APP_LORA_CONFIG
from sidestep.config.card import LICENSES
from sidestep.config.schema import StorageSpec
from sidestep.config.yaml12 import parse_yaml
from sidestep.data.card import facts_in
from sidestep.lifecycle.adapter_files import SUFFIX, AdapterFiles, find_adapter, header_of
from sidestep.lifecycle.card import OWN, card_of
from sidestep.lifecycle.output import ADAPTER
from sidestep.lifecycle.publish import check_published
from sidestep.report.card import CARD, README, Card, card_bytes, readme_bytes
from sidestep.report.readers import readers_of
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.runtime.parsing import parse_json
from sidestep.runtime.secrets import hide
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

_PLACE = re.compile(r"[/~\\]|\.{1,2}/|[A-Za-z]:[\\/]|[a-z0-9]+://")

SAMPLES = "samples"
"""The folder of sound beside a card that is given away."""


@dataclass(frozen=True)
class Bundle:
    """Files by the paths that they are given away under, each bytes or a path on this machine."""

    name: str  # of the run; "" where it is not known
    files: Mapping[str, bytes | Path]


def bundle_of(place: str, options: StorageSpec, folder: Path) -> Bundle:
    """What is given away of an output, of an adapter's folder, or of its one file.

    Args:
        folder: an empty one on this machine, for what has to be downloaded.

    Raises MissingInputError where there is no adapter, or none that says what it is, BadDataError where it is
    not what its run has published, where its card is none that the Hub would take, or where it holds a secret
    of this machine.
    """
    found = find_adapter(_whole_output(place.rstrip("/"), options), options)
    store, beside = found.store, posixpath.dirname(found.weights.path)
    is_output = beside == ADAPTER and CommitLog(store).tail() is not None
    if is_output:
        check_published(CommitLog(store))
    own = _own(found)
    texts, samples = _card_of_output(found) if is_output else _card_of_folder(found, own)
    _check_front_matter(texts[README])
    bundle: dict[str, bytes | Path] = dict(texts)
    for path, name in {**own, **samples}.items():
        bundle[name] = _local(store, path, folder / name)
    _check_secrets(header_of(found), bundle)
    _check_places(bundle)
    named = parse_json(texts[CARD], CARD) if CARD in texts else None
    return Bundle(str(named.get("name") or "") if isinstance(named, dict) else "", bundle)


def _whole_output(place: str, options: StorageSpec) -> str:
    """The output, where its adapter/ is named: what the card says is in receipt.json, too."""
    parent, name = posixpath.split(place)
    if name != ADAPTER or not parent or place.startswith("hf://"):
        return place
    return parent if CommitLog(open_store(parent, options)).tail() else place


def _own(found: AdapterFiles) -> dict[str, str]:
    """Path → name of the adapter's own files."""
    beside = posixpath.dirname(found.weights.path)
    others = [posixpath.join(beside, name) for name in OWN]
    paths = [found.weights.path, *(path for path in others if found.store.stat(path))]
    return {path: posixpath.basename(path) for path in dict.fromkeys(paths)}


def _card_of_output(found: AdapterFiles) -> tuple[dict[str, bytes], dict[str, str]]:
    """card.json and README.md as they are to be by now, and path → name of the samples that they list."""
    facts = facts_in(header_of(found), found.place)
    if facts is None:
        raise _says_nothing(found)
    return _with_samples(found, card_of(found.store, found, facts))


def _card_of_folder(found: AdapterFiles, own: Mapping[str, str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """The same beside an adapter that was brought here. What somebody has written there goes as it is."""
    beside = posixpath.dirname(found.weights.path)
    there = {name: posixpath.join(beside, name) for name in (CARD, README)}
    texts = {name: found.store.read_small(path) for name, path in there.items() if found.store.stat(path)}
    if len(texts) == len(there) or (README in texts and facts_in(header_of(found), found.place) is None):
        listed = _listed(texts[CARD]) if CARD in texts else []
        return texts, {posixpath.join(beside, path): path for path in listed}
    facts = facts_in(header_of(found), found.place)
    if facts is None:
        raise _says_nothing(found)
    card = Card("", facts, sorted(own.values()), readers_of(sorted(own.values()), header_of(found)))
    return {CARD: card_bytes(card), README: readme_bytes(card), **texts}, {}


def _with_samples(found: AdapterFiles, card: Card) -> tuple[dict[str, bytes], dict[str, str]]:
    """A card made anew, whose samples are below it, as they are where it is given away."""
    beside = posixpath.dirname(found.weights.path)
    samples = {}
    for path in card.samples:
        there = posixpath.normpath(posixpath.join(beside, path))
        if found.store.stat(there):
            samples[there] = f"{SAMPLES}/{posixpath.basename(path)}"
        else:
            log.warning("%s/%s is not there: the card leaves it out", found.store.place, there)
    card = replace(card, samples=list(samples.values()))
    return {CARD: card_bytes(card), README: readme_bytes(card)}, samples


def _listed(card: bytes) -> list[str]:
    """The samples that a card.json lists, which are below it."""
    found = parse_json(card, CARD)
    listed = found.get("samples") if isinstance(found, dict) else None
    return [path for path in listed if isinstance(path, str)] if isinstance(listed, list) else []


def _says_nothing(found: AdapterFiles) -> MissingInputError:
    return MissingInputError(
        f"{found.place} does not say what it is: it was made by another program, or by an older version\n"
        f"  write a {README} beside it, with a license and the base_model in its front matter, and name the "
        "folder"
    )


def _local(store: Store, path: str, target: Path) -> Path:
    """Where a file of the store is on this machine; downloaded to `target` where it is elsewhere."""
    if store.stat(path) is None:
        raise MissingInputError(f"{store.place}/{path} is not there, and {CARD} lists it")
    if store.local_root is not None:
        return store.local_root / store.clean_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    store.download(path, target)
    return target


def _check_front_matter(readme: bytes) -> None:
    """Raises BadDataError for what the Hub would refuse, as far as that is known here."""
    begin, end = b"---\n", b"\n---\n"
    text = readme.replace(b"\r\n", b"\n")
    if not text.startswith(begin) or end not in text:
        raise BadDataError(
            f"{README} has no front matter: the Hub reads license and base_model between two lines of ---"
        )
    try:
        values, _ = parse_yaml(text[len(begin) : text.index(end)], README, "front matter")
    except BadSpecError as error:
        raise BadDataError(f"{README}: its front matter cannot be read: {error}") from error
    if empty := [key for key, value in values.items() if _has_null(value)]:
        raise BadDataError(f"{README}: {', '.join(empty)} has no value, which the Hub refuses: leave it out")
    license_ = values.get("license")
    names = license_ if isinstance(license_, list) else [license_] if license_ is not None else []
    if unknown := [name for name in names if name not in LICENSES]:
        raise BadDataError(
            f"{README}: license {unknown[0]!r} is none that the Hub knows; `other` stands for any that it "
            "does not list"
        )


def _check_places(files: Mapping[str, bytes | Path]) -> None:
    """Raises BadDataError where a LoRA's configuration, which PEFT wrote, names a place on some machine."""
    config = files.get(APP_LORA_CONFIG)
    found = parse_json(config.read_bytes(), APP_LORA_CONFIG) if isinstance(config, Path) else {}
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, str) and _PLACE.match(value):
            raise BadDataError(
                f"{APP_LORA_CONFIG}: {key} names a place on a machine ({value}): nothing is sent. Make it "
                "null, or the model's name on the Hub."
            )


def _has_null(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_null, value))
    return value is None or (isinstance(value, dict) and any(map(_has_null, value.values())))


def _check_secrets(header: Mapping[str, str], files: Mapping[str, bytes | Path]) -> None:
    """Raises BadDataError where a text among the files holds what is a secret on this machine."""
    texts = {f"the header of the {SUFFIX} file": json.dumps(dict(header), ensure_ascii=False)}
    for name, content in files.items():
        if isinstance(content, bytes):
            texts[name] = content.decode(errors="replace")
        elif name.endswith(".json"):
            texts[name] = content.read_text(encoding="utf-8", errors="replace")
    if found := [name for name, text in texts.items() if hide(text) != text]:
        raise BadDataError(
            f"{' and '.join(found)} holds a secret of this machine (a token, a key or a signed address): "
            "nothing is sent. Take it out."
        )
