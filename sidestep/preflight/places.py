"""Checks whether every place of a job can be used, before a model is loaded or a song pulled.

A job may have waited hours for its GPU. Wrong credentials, a bucket or folder that is not there and an
output that cannot be written are found out in seconds, before torch is imported.
"""

import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from functools import partial

from rich.filesize import decimal

from sidestep.acestep.config import parse_config
from sidestep.acestep.headers import check_models
from sidestep.acestep.layout import Part, find_text_encoder, find_vae, find_variant
from sidestep.acestep.names import decoder_modules
from sidestep.config.job import JobSpec
from sidestep.config.needs import reads_encoders
from sidestep.config.shards import Shard, is_sharded, shards_of
from sidestep.config.sweep import members_of
from sidestep.config.targets import check_targets, rate_factors
from sidestep.data.dataset import by_store
from sidestep.data.index import TENSORS_SUFFIX
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.probe import problems_of_names, without_bad
from sidestep.data.sides import sides_in
from sidestep.data.unmerged import check_indexes
from sidestep.lifecycle.adapter_files import find_adapter, header_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.ranks import check_estimate
from sidestep.lifecycle.resume import where_named
from sidestep.lifecycle.sweep import FILE as SWEEP
from sidestep.lifecycle.sweep import read_sweep
from sidestep.preflight.checks import Check, Skipped, raise_problems, run_checks
from sidestep.preflight.first_adapter import check_fit
from sidestep.preflight.free import check_output_free, check_sweep_free, check_tensors_free
from sidestep.preflight.held_out import check_held_out
from sidestep.preflight.of_songs import check_prompts, check_shares
from sidestep.preflight.tensors import check_made_with, find_tensors
from sidestep.runtime.creating import Means
from sidestep.runtime.errors import (
    AccessError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.runtime.words import counted, out_of
from sidestep.storage.disks import cached_mount, means_in
from sidestep.storage.local import LocalStore
from sidestep.storage.paths import odd
from sidestep.storage.store import PROBE, FileInfo, Store

log = logging.getLogger(__name__)

_CREDENTIALS_FROM = {  # botocore's names for where it finds them
    "env": "environment variables",
    "shared-credentials-file": "the AWS credentials file",
    "config-file": "the AWS config file",
    "assume-role-with-web-identity": "the pod's or runner's web identity",
    "container-role": "the container's role",
    "iam-role": "the machine's role",
}


def check_places(job: Job) -> None:
    """Make sure that the task's inputs are there and readable, and that its output can be written.

    Raises what a store raises; of several inputs the first one's kind, with the messages of all.
    """
    assert job.workspace  # asked first: it raises where the folder cannot be made
    raise_problems(run_checks(input_checks(job)))
    # After the inputs: a job that cannot begin leaves nothing where its results would be.
    raise_problems(run_checks(output_checks(job)))


def input_checks(job: Job, *, ahead: bool = False) -> list[Check]:
    """Checks that all the task reads is there and readable.

    Args:
        ahead: the job is not about to run: so what its task would find out itself in the next seconds, such
            as the texts of its songs, is looked at now.
    """
    spec = job.spec
    makes_tensors = spec.task in ("preprocess", "pipeline")
    dataset = Preprocessed(job.tensors)
    checks = []
    if makes_tensors and spec.audio_dir:
        is_all = ahead and not spec.dataset_json
        checks.append(Check("audio_dir", partial(_check_songs if is_all else _check_audio_dir, job)))
    if makes_tensors and spec.dataset_json:
        checks.append(Check("dataset_json", partial(_check_songs if ahead else _check_dataset_json, job)))
    if not makes_tensors:
        checks.append(Check(_tensors_field(spec), partial(_check_made, job, dataset, ahead)))
        checks.append(Check("encoders", partial(check_made_with, job, dataset)))
    elif ahead:
        checks.append(Check("index.json", lambda: check_indexes(job.tensors, _shards(job))))
    checks.append(Check("checkpoint_dir", partial(_check_models, job)))
    if spec.task in ("train", "pipeline"):
        checks.append(Check("train.adapter", partial(_check_targets, job)))
        checks.append(Check("train.resume_from", partial(where_named, job)))
        checks.append(Check("train.adapter.rank_from", partial(check_estimate, job)))
        checks.append(Check("train.init_from", partial(_check_first_adapter, job)))
        checks.append(Check("train.repeats", partial(check_shares, job, dataset, "repeats")))
        checks.append(Check("train.weights", partial(check_shares, job, dataset, "weights")))
    if spec.task == "train":
        checks.append(Check("prompts", partial(check_prompts, job, dataset)))
    if spec.task != "preprocess":
        checks.append(Check("train.validation", partial(check_held_out, job, dataset)))
    return checks


def output_checks(job: Job, *, ahead: bool = False) -> list[Check]:
    """Checks that the task may write where its results go; `ahead` as for `input_checks`."""
    spec, checks = job.spec, []
    if spec.task == "preprocess" or (spec.task == "pipeline" and spec.dataset_dir):
        checks.append(Check(_tensors_field(spec), lambda: _check_tensors(job)))
    if spec.task != "preprocess":
        checks.append(Check("output_dir", lambda: _check_output(job, ahead)))
    return checks


def _shards(job: Job) -> list[Shard]:
    """Those that the job makes: all of them, where it is not known which one it is."""
    if job.shard:
        return [job.shard]
    return shards_of(job.spec.preprocess.shards) if is_sharded(job.spec) else []


def _tensors_field(spec: JobSpec) -> str:
    return "dataset_dir" if spec.dataset_dir else "output_dir"


def _check_songs(job: Job) -> str:
    """The songs of the dataset with their texts, as far as listings and texts tell."""
    there = _check_dataset_json(job) if job.spec.dataset_json else _check_audio_dir(job)
    songs = job.read_songs()
    for store, files in by_store(songs):
        _check_readable(store, files)
    empty = {song.place: "is empty" for song in songs if song.file.size == 0}
    left = without_bad(songs, empty | problems_of_names(songs), job.spec.preprocess)
    said = f"{there}: {counted(len(songs), 'songs')} (not decoded)"
    return said if left == songs else f"{said}; {len(songs) - len(left)} of them are left out"


def _check_made(job: Job, dataset: Preprocessed, ahead: bool) -> str:
    if every := [file for file in dataset.listed if file.path.endswith(TENSORS_SUFFIX)]:
        _check_readable(dataset.store, every)
    return find_tensors(job, dataset, ahead=ahead)


def _check_audio_dir(job: Job) -> str:
    store = job.songs
    assert store, "asked for where the spec names the place"
    if files := store.list_files():
        _check_readable(store, files)
        return f"{counted(len(files), 'files')}, {_size(files)}, in {store.place}"
    root = store.local_root
    if root and not root.exists():
        raise MissingInputError(f"{store.place} does not exist. Check the path, and what is mounted.")
    if root and not root.is_dir():
        raise MissingInputError(f"{store.place} is a file, where a folder is needed.")
    raise MissingInputError(f"there are no files in {store.place}. Check the place and its name.")


def _check_dataset_json(job: Job) -> str:
    assert job.dataset_json, "asked for where the spec names it"
    store, name = job.dataset_json
    file = store.stat(name)
    if file is None:
        store.refuse_folder(name)
        raise MissingInputError(f"there is no file {name} in {store.place}. Check the place and the name.")
    _check_readable(store, [file])
    return f"{store.place}/{name}, {decimal(file.size)}"


def _check_models(job: Job) -> str:
    store, task, reads_all = job.checkpoints, job.spec.task, reads_encoders(job.spec)
    model = find_variant(store, job.spec.model_variant)
    others = [find_vae(store), find_text_encoder(store)] if reads_all else []
    files = [file for part in (model, *others) for file in part.files]
    _check_readable(store, files)
    check_models(store, model, others, "pipeline" if reads_all and task == "train" else task)
    return f"{', '.join(part.folder for part in (model, *others))}, {_size(files)}, in {store.place}"


def _check_targets(job: Job) -> str:
    """The modules that the adapter is for, by the model's config.json: that needs no weights.

    Raises Skipped where there is no such file.
    """
    try:
        layers = _layers(job.checkpoints, find_variant(job.checkpoints, job.spec.model_variant))
    except SideStepError as error:  # which is said at checkpoint_dir
        raise Skipped("not looked at, as there is no model") from error
    adapter = job.spec.train.adapter
    paths = check_targets(adapter, decoder_modules(layers))
    rate_factors(paths, job.spec.train.lr_groups)
    return f"{adapter.type} on {counted(len(paths), 'modules')}"


def _check_first_adapter(job: Job) -> str | None:
    """The adapter that the run begins from; None where it begins with a new one."""
    train = job.spec.train
    if not train.init_from:
        return None
    if job.commits.newest_commit(job.commits.tail()):
        return "plays no part any more: this run has a checkpoint"
    found = find_adapter(train.init_from, job.spec.storage)
    _check_readable(found.store, found.files)
    sides_in(header_of(found), found.place)
    try:
        every = decoder_modules(
            _layers(job.checkpoints, find_variant(job.checkpoints, job.spec.model_variant))
        )
        check_targets(train.adapter, every)
    except SideStepError:  # which is said at checkpoint_dir, or at train.adapter
        every = []
    check_fit(train, found, every)
    return f"{found.place}, {_size(found.files)}"


def _layers(store: Store, model: Part) -> int:
    """The number of the decoder's layers, by its config.json, which must be sound."""
    path = f"{model.folder}/config.json"
    layers: int = parse_config(store.read_small(path), f"{store.place}/{path}")["num_hidden_layers"]
    return layers


def _check_readable(store: Store, files: Sequence[FileInfo]) -> None:
    """Listing needs another right than reading: all local files are tried, of a bucket the first one."""
    if store.local_root is None:
        if file := next((file for file in files if not odd(file.path)), None):
            store.stat(file.path)
        return
    refused = [file.path for file in files if not os.access(store.local_root / file.path, os.R_OK)]
    if refused:
        raise AccessError(
            f"{store.place}: {out_of(len(refused), len(files), 'files')} may not be read, first {refused[0]}."
            " Check their owner and mode."
        )


def _size(files: Sequence[FileInfo]) -> str:
    return decimal(sum(file.size for file in files))


def _check_tensors(job: Job) -> str:
    shards = _shards(job)
    check_output_free(job.output_store, shards)  # preprocessing has a status and a log there, too
    check_tensors_free(job.tensors, shards)
    return _check_writable(job.tensors, is_shared=True)


def _check_output(job: Job, ahead: bool) -> str:
    store, task = job.output_store, job.spec.task
    check_output_free(store)
    if task == "pipeline" and not job.spec.dataset_dir:
        check_tensors_free(job.tensors)
    can = _check_writable(store, is_shared=task == "estimate")
    return f"{can}; {_check_sweep(job, ahead)}" if job.spec.is_sweep else can


def _check_sweep(job: Job, ahead: bool) -> str:
    """How many runs there are, and how many of them are listed. Once it runs, what is in the way of one of
    them fails that one alone."""
    store, members = job.output_store, members_of(job.spec)
    known = {entry.folder for entry in read_sweep(store)}
    folders = [member.folder for member in members]
    check_sweep_free(store, folders if ahead else ())
    begun = len(known.intersection(folders))
    return f"{counted(len(members), 'runs')}, {begun or 'none'} of them in {SWEEP}"


def _check_writable(store: Store, is_shared: bool) -> str:
    """Create a file and delete it; where there is to be one writer, say so if the store creates it twice."""
    if isinstance(store, LocalStore):
        return _check_disk(store, is_shared)
    probe = PROBE + uuid.uuid4().hex
    if not store.create(probe, b"") and not store.stat(probe):
        raise StorageError(
            f"{store.place}: this store says of a new file that it is there already (If-None-Match), so no "
            "record can be made there. Ask who runs it, or a proxy before it."
        )
    refuses = not store.create(probe, b"")
    store.delete(probe)
    can = f"{store.place} can be written"
    if is_shared or (refuses and store.creates_atomically):
        return can
    how = "refuses" if refuses else "ignores"
    said = f"one run at a time: this store cannot keep two apart (it {how} If-None-Match)"
    log.warning("%s: %s. Two runs that write there would not notice each other.", store.place, said)
    return f"{can}; {said}"


def _check_disk(store: LocalStore, is_shared: bool) -> str:
    """The same for a folder, and by what two writers are kept apart there.

    One that is not there yet is not made: another attempt may be doing the same right now.
    """
    can = f"{store.place} can be {'written' if store.root.is_dir() else 'made'}"
    folder = store.check_can_be_made()
    if is_shared:
        return can
    means, cached = means_in(folder), cached_mount(store.root)
    if cached or means is None:
        said = f"one run at a time: this disk cannot keep two apart ({cached or 'it replaces files'})"
        log.warning("%s: %s. Two runs that write there would not notice each other.", store.place, said)
    else:
        said = f"each record is made by {means}"
        log.log(logging.DEBUG if means is Means.LINK else logging.INFO, "%s: %s", store.place, said)
    return f"{can}; {said}"


def credential_checks(spec: JobSpec) -> Iterator[Check]:
    """A check for S3 credentials, where one of the places is there."""
    places = (
        *(spec.checkpoint_dir, spec.audio_dir, spec.dataset_json, spec.dataset_dir, spec.output_dir),
        spec.train.init_from,
        spec.train.adapter.rank_from,
    )
    if any(place and place.lower().startswith("s3://") for place in places):
        yield Check("credentials", partial(_check_credentials, spec))


def _check_credentials(spec: JobSpec) -> str:
    if spec.storage.anonymous:
        return "none are sent: storage.anonymous is set"
    # botocore takes a fifth of a second to import: only for those whose places are in S3.
    from botocore.exceptions import BotoCoreError, NoCredentialsError
    from botocore.session import Session

    from sidestep.storage.s3_client import find_credentials

    try:
        credentials = find_credentials(Session())
        if credentials is None:
            raise NoCredentialsError()
    except BotoCoreError as error:
        raise AccessError(
            f"none that can be used for S3: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE with ~/.aws, or run where a role gives them; for a bucket that anyone may read, set "
            "storage.anonymous."
        ) from error
    return f"for S3, from {_CREDENTIALS_FROM.get(credentials.method, credentials.method)}"
