"""`sidestep sample`: sound from a model, with an adapter and without, to hear what it has learnt."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from sidestep.commands.adapters import sides_of
from sidestep.commands.command import Call
from sidestep.commands.flags import MODEL, add_flags_of_model
from sidestep.commands.parser import Parser, number, numbers, text, whole
from sidestep.commitlog.log import CommitLog
from sidestep.config.hearing import LONGEST, SECONDS
from sidestep.config.job import JobSpec, resolve
from sidestep.config.schema import StorageSpec
from sidestep.config.sources import Given
from sidestep.config.yaml12 import parse_yaml
from sidestep.data.dataset import INSTRUMENTAL, UNKNOWN_LANGUAGE
from sidestep.lifecycle.adapter_files import SUFFIX, digest_of, find_adapter
from sidestep.lifecycle.output import SPEC
from sidestep.lifecycle.publish import FOLDER as PUBLISHED
from sidestep.lifecycle.publish import fetch_adapter
from sidestep.runtime.errors import MissingInputError, UsageError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.tensorfiles import read_metadata
from sidestep.runtime.words import some
from sidestep.runtime.workspace import Workspace, open_workspace
from sidestep.sampling.takes import FOLDER, Prompt
from sidestep.sampling.wish import SEED, Source, Wish
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

STRENGTHS = (0.0, 1.0)
MOST_STEPS, MOST_GUIDANCE, MOST_SHIFT, MOST_STRENGTH = 1000, 30.0, 20.0, 10.0


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} OUTPUT|ADAPTER [flags]"
    parser.add_argument(
        "place",
        metavar="OUTPUT",
        help="a job's output_dir, or an adapter's folder or file in any known format",
    )
    parser.add_argument(
        "--output",
        metavar="PLACE",
        help=f"where the takes go (default: {FOLDER}/ in an output, ADAPTER-{FOLDER} beside an adapter)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        type=text,
        metavar="TEXT",
        help="a caption; give it again for more (default: those of three songs that were trained on and of "
        "the held-out songs, and the trigger word alone)",
    )
    parser.add_argument(
        "--lyrics",
        action="append",
        type=text,
        metavar="TEXT",
        help=f"the lyrics of all prompts, or one for each; @FILE reads a file (default: {INSTRUMENTAL})",
    )
    parser.add_argument(
        "--language",
        type=text,
        metavar="CODE",
        help=f"of the lyrics, such as en (default: {UNKNOWN_LANGUAGE})",
    )
    parser.add_argument(
        "--strength",
        type=numbers(-MOST_STRENGTH, MOST_STRENGTH),
        default=list(STRENGTHS),
        metavar="S,…",
        help="how much of the adapter; 0 is the base model (default: 0,1)",
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"checkpoints of an output, such as checkpoint-epoch-50, best or {PUBLISHED} (default: its "
        f"{PUBLISHED}/, or the newest)",
    )
    parser.add_argument(
        "--seconds",
        type=number(1.0, LONGEST),
        default=SECONDS,
        metavar="S",
        help=f"length of each take, 1 to {LONGEST:g} (default: {SECONDS:g})",
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=SEED, metavar="N", help=f"of the noise (default: {SEED})"
    )
    parser.add_argument(
        "--steps",
        type=whole(1, MOST_STEPS),
        metavar="N",
        help="sampling steps (default: the model's: 8 or 50)",
    )
    parser.add_argument(
        "--guidance",
        type=number(1.0, MOST_GUIDANCE),
        metavar="G",
        help="guidance scale; 1 is none (default: the model's: none for turbo, else 7)",
    )
    parser.add_argument(
        "--shift",
        type=number(0.1, MOST_SHIFT),
        metavar="S",
        help="shift of the noise levels (default: the model's: 3 for turbo, else 1)",
    )
    parser.add_argument(
        "--format", choices=("flac", "wav"), default="flac", help="of the files (default: flac)"
    )
    add_flags_of_model(parser)


def run(call: Call) -> None:
    """Make the takes. Raises as `tasks.sample.sample`, and what finding adapters and prompts raises."""
    options = call.options()
    setup_logging()
    prompts = _given_prompts(options)
    spec, store, commits = _spec_of(getattr(options, "given", []), options.place, call.parser.prog)
    if options.checkpoint and commits is None:
        raise UsageError(
            f"--checkpoint {some(options.checkpoint)}: {store.place} is no output_dir of a job, and has no "
            "checkpoints"
        )
    provide_folders(spec.runtime.workspace)
    workspace = open_workspace(spec.runtime.workspace)
    with workspace.temporary() as folder:
        sources = _sources(spec, store, commits, options.checkpoint, workspace, Path(folder))
        import_diffusers()
        from sidestep.tasks.limits import limits_explained
        from sidestep.tasks.sample import sample
        from sidestep.tasks.sample_prompts import default_prompts

        if not prompts:
            tensors = open_store(spec.tensors_place, spec.storage)
            prompts = default_prompts(tensors, workspace, sides_of(sources[0].weights))
        output = open_store(options.output or _default_output(store, commits), spec.storage)
        wish = Wish(
            *(prompts, sources, options.strength, options.seed, options.seconds),
            *(options.steps, options.guidance, options.shift, options.format),
        )
        with limits_explained(spec, "sample"):
            sample(spec, wish, output, workspace)


def _spec_of(given: Sequence[Given], place: str, prog: str) -> tuple[JobSpec, Store, CommitLog | None]:
    """The spec, the store of the place, and the commit log of an output; None where it is an adapter.

    What an output's job.yaml says of model and tensors is taken where nothing else does.
    """
    flags = [*given, Given(("output_dir",), place, prog)]
    spec, origins = resolve(flags=flags, needs_places=False)
    store = open_store(spec.output_place.rstrip("/"), spec.storage)
    if place.endswith(SUFFIX):
        return spec, store, None
    commits = CommitLog(store)
    if not store.stat(SPEC):
        return spec, store, commits if commits.tail() else None
    where = f"{store.place}/{SPEC}"
    values, _ = parse_yaml(store.read_small(SPEC), where)
    own = [
        Given(path, values[path[0]], where)
        for path in MODEL
        if origins[".".join(path)] == "default" and values.get(path[0]) is not None
    ]
    return resolve(flags=[*flags, *own], needs_places=False)[0], store, commits


def _default_output(store: Store, commits: CommitLog | None) -> str:
    return f"{store.place}/{FOLDER}" if commits else f"{store.place.removesuffix(SUFFIX)}-{FOLDER}"


def _sources(
    spec: JobSpec,
    store: Store,
    commits: CommitLog | None,
    names: Sequence[str],
    workspace: Workspace,
    folder: Path,
) -> list[Source]:
    """The adapters to hear, on this machine; those of checkpoints are downloaded into `folder`.

    Raises MissingInputError where one is not there, BadDataError where it is damaged.
    """
    if not names:
        try:
            return [_published(spec, store, workspace)]
        except MissingInputError:
            if commits is None or commits.newest_commit(commits.tail()) is None:
                raise
        return [_of_checkpoint(commits, None, folder / "newest", workspace)]
    assert commits is not None, "who names checkpoints names an output"
    return [
        _published(spec, store, workspace)
        if name == PUBLISHED
        else _of_checkpoint(commits, name, folder / f"{number}", workspace)
        for number, name in enumerate(dict.fromkeys(names))
    ]


def _published(spec: JobSpec, store: Store, workspace: Workspace) -> Source:
    weights = find_adapter(store.place, spec.storage).pull(workspace)
    return _source(PUBLISHED, weights)


def _of_checkpoint(commits: CommitLog, name: str | None, folder: Path, workspace: Workspace) -> Source:
    commit = fetch_adapter(commits, commits.tail(), name, folder)
    weights = find_adapter(str(folder), StorageSpec()).pull(workspace)
    return _source(commit.folder.rpartition("/")[2], weights)


def _source(checkpoint: str, weights: Path) -> Source:
    read_metadata(weights)  # one that is damaged is told of before the base model is heard
    return Source(checkpoint, weights, digest_of(weights))


def _given_prompts(options: argparse.Namespace) -> list[Prompt]:
    """The prompts of --prompt and its like. Raises UsageError where they do not fit together."""
    captions: list[str] = options.prompt or []
    if not captions:
        if options.lyrics or options.language:
            raise UsageError("--lyrics and --language are those of a --prompt, which is not given")
        return []
    lyrics = [_lyrics(given) for given in options.lyrics or [INSTRUMENTAL]]
    if len(lyrics) not in (1, len(captions)):
        raise UsageError(
            f"--lyrics is given {len(lyrics)} times: give it once for all prompts, or once for each of "
            f"{len(captions)}"
        )
    if len(lyrics) == 1:
        lyrics *= len(captions)
    language = options.language or UNKNOWN_LANGUAGE
    return [
        Prompt(caption=caption, lyrics=words or INSTRUMENTAL, language=language)
        for caption, words in zip(captions, lyrics, strict=True)
    ]


def _lyrics(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise MissingInputError(f"--lyrics {given}: this file cannot be read as text: {why}") from error
