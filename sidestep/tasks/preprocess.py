"""The preprocess task: songs in, tensors out.

Every song is looked at before any model is read, so that most bad ones show at once and early; it is decoded
once, for the VAE, and judged then. Nothing is made twice. Finished tensors are found by their key, so the
same command again makes what is missing, and with nothing missing it loads no model and reads no song.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidestep.acestep.layout import Part, find_text_encoder, find_vae, find_variant
from sidestep.commitlog.leftovers import clear_abandoned
from sidestep.config.schema import PreprocessSpec, StorageSpec
from sidestep.data.checked import write_checked
from sidestep.data.dataset import Song, by_store
from sidestep.data.dealing import list_digest, songs_of
from sidestep.data.index import (
    ONE,
    Index,
    read_index,
    record_songs,
    record_tensors,
    write_index,
    write_weights,
)
from sidestep.data.keys import (
    Recipe,
    Work,
    digests_of,
    latents_key,
    recipe_digest,
    recipe_of,
    recipes_alike,
    tensors_key,
    weights_digest,
)
from sidestep.data.made import Made, find_made
from sidestep.data.probe import look, probed_by, sound_songs, without_bad
from sidestep.data.prompts import alternates_of
from sidestep.data.shards import Dealt
from sidestep.data.survey import Heard, heard_before, in_words, survey_of, write_survey
from sidestep.data.unfinished import GoneError, Unfinished
from sidestep.data.unmerged import known_before, places_before, settle
from sidestep.data.weights import made_with
from sidestep.lifecycle.held_out import check_to_be_trained
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.words import counted, some
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store

if TYPE_CHECKING:
    from sidestep.data.encode import SongEncoder

log = logging.getLogger(__name__)


def preprocess(job: Job, reporter: Reporter) -> None:
    """Make the tensors of all songs of a job.

    Raises SideStepErrors of what it reads: the dataset, songs, checkpoints and places.
    """
    tensors, store = job.tensors, job.checkpoints
    listed = job.read_songs()
    songs = songs_of(listed, job.shard)
    if job.shard:
        log.info("Shard %s: %d of %s", job.shard.name, len(songs), counted(len(listed), "songs"))
    clear_abandoned(tensors)
    # All models are found before any of them is pulled.
    vae, text_encoder = find_vae(store), find_text_encoder(store)
    model = find_variant(store, job.spec.model_variant)
    scratch = open_store(str(job.workspace.scratch("preprocess")), StorageSpec())
    own, *others = places_before(tensors, job.shard)
    unfinished = Unfinished(scratch, own, others)
    known = known_before(own, *others)
    settings = job.spec.preprocess
    heard = heard_before([*others, own], songs, settings)
    try:
        songs = sound_songs(songs, settings, known, job.workspace, heard, judge=look)
    except BadDataError:
        if job.shard:
            reporter.begin("preprocess")  # which shard has failed, and why, is told beside the others
        raise
    works, index = _plan(job, (vae, text_encoder, model), songs, known, list_digest(listed))
    if job.spec.task == "pipeline":
        check_to_be_trained(job, songs, index)
    unique = {work.tensors: work for work in works}
    made = find_made(tensors, unique, known, unfinished, job.workspace)
    # What has a digest there is waited for, where it does not show: so nothing has that is still to be made.
    left = {key: digest for key, digest in known.tensors.items() if key not in unique}
    index = replace(
        index,
        tensors=({} if job.shard else left) | made.sound,
        stored=known.stored | made.stored,
        weights=known.weights,
    )
    missing = [work for key, work in unique.items() if key not in made.sound]
    for work in missing:
        if digest := known.tensors.get(work.tensors):
            unfinished.note_digest(work.tensors, digest)  # what it was, which the index forgets
    # What was made of a song before proves that it is sound; the others are decoded now, for the VAE.
    undecoded = {work.latents for work in missing if not unfinished.has(work.latents_file)}
    _mark_sound(index, [work.song for work in works if work.latents not in undecoded], settings)
    write_index(own, index)
    if not job.shard:
        settle(tensors)
    # Those of which nothing but tensors is left, as of songs that were moved, are heard for the report alone.
    done = [work for work in works if work.tensors in made.sound and not unfinished.has(work.latents_file)]
    unheard = [work.song for work in done if work.song.place not in heard]
    sound_songs(unheard, settings, known, job.workspace, heard)
    for work in works:
        if work.song.place not in heard and (found := unfinished.heard(work.latents_file)):
            heard[work.song.place] = found
    _report(own, songs, heard, index, settings)
    if not missing:
        unfinished.clear()
        if job.shard and reporter.before.state != "done":
            reporter.begin("preprocess")  # that it is done is told, though nothing was
        if songs:
            log.info("%s already preprocessed, in %s", _all(len(songs)), tensors.place)
        else:
            log.info("This shard has no songs: there is nothing to preprocess")
        return

    reporter.begin("preprocess")
    todo = _Todo(songs, works, index, heard, made, missing, unfinished)
    _make(job, todo, (vae, text_encoder, model), own, known)
    log.info("%s preprocessed, in %s", _all(len(todo.songs)), tensors.place)


@dataclass
class _Todo:
    """What is to be made, and what is known of all songs; both change while songs are decoded."""

    songs: list[Song]
    works: list[Work]
    index: Index
    heard: dict[str, Heard]
    made: Made
    missing: list[Work]
    unfinished: Unfinished


def _make(job: Job, todo: _Todo, parts: tuple[Part, Part, Part], own: Store, known: Index) -> None:
    """Make the tensors that are missing, and keep what is known of them in `own`, beside the index."""
    # Imported here: they load torch, and bad songs and finished work are known without it.
    import_diffusers()
    from sidestep.data.encode import SongEncoder, free_memory
    from sidestep.training.machine import choose_machine

    store, tensors, settings, unfinished = job.checkpoints, job.tensors, job.spec.preprocess, todo.unfinished
    vae, text_encoder, model = parts
    device = choose_machine(job.spec.runtime).device
    counts = len(todo.missing), counted(len(todo.songs), "songs"), device
    log.info("Preprocessing %d of %s, in fp32 on %s", *counts)
    encoder = SongEncoder(
        *(store, tensors, unfinished, job.workspace, settings, job.spec.base_model, device),
        made=todo.made,
    )
    # All that is read after the last song is looked at before the first one.
    encoder.check_tokenizer(text_encoder)
    todo.index = replace(todo.index, weights=made_with(store, job.workspace, vae, text_encoder, model))
    write_weights(own, todo.index)
    # A song is encoded again for the dataset's preview, but not for that of each shard.
    first = todo.works[0]
    shown = "" if job.shard and unfinished.has(first.latents_file) else first.latents
    is_judged = False
    while todo.missing:
        try:
            encoder.encode_songs(vae, todo.missing, shown)
            free_memory()
            if not is_judged or any(work.latents in encoder.bad for work in todo.missing):
                _judge(job, encoder, todo)
                is_judged = True
            encoder.encode(text_encoder, model, todo.missing)
        except GoneError as error:
            # Each time there is one less to count on, so this comes to an end.
            log.info("%s is gone: another attempt has ended, or it was damaged", error)
            keys = [work.tensors for work in todo.missing]
            todo.made.add(find_made(tensors, keys, read_index(own) or known, unfinished, job.workspace))
        todo.missing = [work for work in todo.missing if work.tensors not in todo.made.sound]
    write_checked(own, encoder.checked)
    record_tensors(own, replace(todo.index, stored=todo.made.stored), todo.made.sound)
    unfinished.clear()


def _judge(job: Job, encoder: "SongEncoder", todo: _Todo) -> None:
    """Leave out what decoding has shown to be no song, and report what is left.

    Raises BadDataError where there are such songs, as `data.probe.without_bad` says.
    """
    settings, index, heard = job.spec.preprocess, todo.index, todo.heard
    works = todo.works
    problems = {work.song.place: encoder.bad[work.latents] for work in works if work.latents in encoder.bad}
    todo.songs = songs = without_bad(todo.songs, problems, settings)
    todo.works = works = [work for work in works if work.song.place not in problems]
    todo.missing = [work for work in todo.missing if work.latents not in encoder.bad]
    heard |= {work.song.place: encoder.heard[work.latents] for work in works if work.latents in encoder.heard}
    _mark_sound(index, songs, settings)
    for place in problems:
        index.samples.pop(place, None)
        index.shares.pop(place, None)
    record_songs(job.beside_tensors, index, [song.place for song in songs], problems)
    if encoder.heard:
        _report(job.beside_tensors, songs, heard, index, settings, is_second=True)
    if problems and job.spec.task == "pipeline":
        check_to_be_trained(job, songs, index)


def _mark_sound(index: Index, songs: Iterable[Song], settings: PreprocessSpec) -> None:
    """Say in an index that songs were found sound, as far as they are used."""
    for song in songs:
        index.files[song.place] = replace(index.files[song.place], probed=probed_by(settings))


def _all(songs: int) -> str:
    return "The one song is" if songs == 1 else f"All {songs} songs are"


def _report(
    place: Store,
    songs: list[Song],
    heard: dict[str, Heard],
    index: Index,
    settings: PreprocessSpec,
    is_second: bool = False,
) -> None:
    """Say and write down what the dataset is: before any work on it, and again where decoding shows more."""
    digests = {song.place: index.files[song.place].sha256 for song in songs}
    survey = survey_of(songs, heard, digests, settings)
    write_survey(place, survey)
    log.info("The dataset: %s", "; ".join(f"{what}: {said}" for what, said in in_words(survey).items()))
    if alike := survey.same_sound if is_second else survey.same_bytes + survey.same_sound:
        log.warning("The dataset has songs twice: %s", some([" = ".join(group) for group in alike]))


def _plan(
    job: Job, parts: tuple[Part, Part, Part], songs: list[Song], known: Index, listed: str
) -> tuple[list[Work], Index]:
    """What is to be made of each song, and the index that says so. `listed` is the digest of all songs.

    Songs and weights are read for this only where the last run's index does not know them.
    """
    settings, index = job.spec.preprocess, Index()

    def digests(store: Store, files: Sequence[FileInfo], what: str) -> dict[str, str]:
        found = digests_of(store, files, known, job.workspace, what)
        for file in files:
            index.remember(store, file, found[file.path])
        return found

    audio: dict[str, str] = {}  # by the song's place
    for store, files in by_store(songs):
        found = digests(store, files, "songs")
        audio |= {f"{store.place}/{path}": digest for path, digest in found.items()}
    weights = digests(job.checkpoints, [file for part in parts for file in part.files], "the model")
    vae, text_encoder, model = (weights_digest(part, weights) for part in parts)
    recipe = recipe_of(settings, vae, text_encoder, model, job.spec.alternates)
    works = _works(songs, audio, recipe, {*known.tensors, *known.samples.values()})
    samples = {work.song.place: work.tensors for work in works}
    if copies := len(works) - len(set(samples.values())):
        log.warning("%s: the same sound and texts as others, which count once", counted(copies, "songs"))
    shares = {song.place: song.share for song in songs if song.share != ONE}
    index = replace(index, samples=samples, alternates=list(job.spec.alternates), shares=shares)
    if job.shard:
        roots = tuple(sorted({song.store.place for song in songs}))
        index = replace(index, dealt=Dealt(job.shard.name, listed, recipe_digest(recipe), roots))
    return works, index


def _works(
    songs: Sequence[Song], audio: Mapping[str, str], recipe: Recipe, made: Collection[str]
) -> list[Work]:
    """What is to be made of each song, under the keys of which most are `made` already."""
    most, best = -1, list[Work]()
    for way in recipes_alike(recipe):
        works = [
            Work(
                *(song, sound, latents_key(sound, way), tensors_key(song, sound, way)),
                alternates_of(song, way.alternates),
            )
            for song, sound in ((song, audio[song.place]) for song in songs)
        ]
        count = sum(work.tensors in made for work in works)
        if count > most:
            most, best = count, works
        if most == len(songs):
            break
    return best
