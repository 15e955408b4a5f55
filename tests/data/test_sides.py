"""Which songs are held out: by content, for good, copies together."""

from dataclasses import replace
from hashlib import sha256

import pytest

from sidestep.config.judging import ValidationSpec
from sidestep.data.sides import FEWEST_SONGS, Sided, Sides, Song, by_hash, guess, sides_in, split
from sidestep.runtime.errors import BadDataError, BadSpecError


def songs(count: int, first: int = 0) -> list[Song]:
    numbers = range(first, first + count)
    return [Song(f"song-{n}.wav", _digest(f"latents {n}"), _digest(f"audio {n}")) for n in numbers]


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def held_out(of: list[Song], sides: Sides) -> set[str]:
    return {song.name for song, is_out in zip(of, sides.are_held_out(of), strict=True) if is_out}


def spec(share: float = 0.2, *names: str) -> ValidationSpec:
    return ValidationSpec(share=share, songs=names)


def test_about_the_share_is_held_out() -> None:
    many = songs(2000)
    assert len(held_out(many, split(many, spec(0.2)))) == pytest.approx(400, abs=60)


def test_a_song_keeps_its_side_in_another_dataset_under_another_name() -> None:
    few, many = songs(50), [Song("x" + song.name, song.latents, song.audio) for song in songs(500)]
    out = held_out(few, split(few, spec()))
    assert {f"x{name}" for name in out} == held_out(many, split(many, spec())) & {f"x{s.name}" for s in few}
    assert 0 < len(out) < 50


def test_without_a_digest_of_the_audio_the_latents_decide() -> None:
    bare = [Song(song.name, song.latents) for song in songs(300)]
    renamed = [Song("other", song.latents) for song in bare]
    assert split(bare, spec()).songs == split(renamed, spec()).songs


def test_copies_are_one_song() -> None:
    some = songs(40)
    copies = [Song(f"copy of {song.name}", song.latents) for song in some]  # whose audio nobody knows
    out = held_out([*some, *copies], split([*some, *copies], spec()))
    assert out == held_out(some, split(some, spec())) | {f"copy of {name}" for name in out if " " not in name}
    assert by_hash([*some, *copies], range(80)) == by_hash(some, range(40))


def test_at_least_two_songs_are_held_out_where_a_share_is_asked_for() -> None:
    few = songs(FEWEST_SONGS)
    out = held_out(few, split(few, spec(0.0001)))
    assert len(out) == 2
    assert out == {few[number].name for number in by_hash(few, range(len(few)))[:2]}


def test_named_songs_count_among_the_least() -> None:
    few = songs(FEWEST_SONGS)
    last = few[by_hash(few, range(len(few)))[-1]].name
    assert len(held_out(few, split(few, spec(0.0001, last)))) == 2


def test_a_run_that_takes_sides_over_holds_out_two_at_least_as_far_as_there_are_new_songs() -> None:
    before = split(songs(9), spec(0, "song-1"))
    grown = songs(12)
    out = held_out(grown, split(grown, spec(0.0001), before))
    assert len(out) == 2 and "song-1.wav" in out and not out & {f"song-{n}.wav" for n in (0, *range(2, 9))}
    two = split(songs(9), spec(0, "song-1", "song-2"))
    assert held_out(grown, split(grown, spec(0.0001), two)) == {"song-1.wav", "song-2.wav"}
    few = songs(5)
    assert held_out(few, split(few, spec(0.0001), split(few, spec(0, "song-1")))) == {"song-1.wav"}


def test_where_all_songs_have_been_trained_on_none_can_be_held_out() -> None:
    before = split(songs(9), spec(0, "song-8"))
    with pytest.raises(BadSpecError, match="trained on"):
        split(songs(8), spec(0.3), before)
    assert not held_out(songs(8), split(songs(8), spec(0), before))  # nothing is asked for


def test_tensors_that_were_made_anew_are_the_same_song() -> None:
    made_anew = [replace(song, latents=_digest(song.latents)) for song in songs(50)]
    assert held_out(made_anew, split(made_anew, spec())) == held_out(songs(50), split(songs(50), spec()))


def test_a_copy_has_the_side_of_its_song_by_whatever_it_is_known() -> None:
    """One is known by its audio alone, and another of the same latents has no audio."""
    before = split(songs(30), spec(0.2))
    anew = [replace(song, latents=_digest(song.latents)) for song in songs(30)]
    copies = [Song(f"copy-of-{song.name}", song.latents) for song in anew]
    out = held_out([*copies, *anew], split([*copies, *anew], spec(0.5), before))
    own = held_out(songs(30), before)
    assert out == own | {f"copy-of-{name}" for name in own}


def test_a_song_is_named_by_any_name_that_it_goes_by() -> None:
    some = [*songs(8), Song("a.wav", _digest("latents a"), _digest("audio a"), ("live-a.wav", "b.mp3"))]
    for pattern in ("live-*", "b", "b.mp3", "a"):
        assert held_out(some, split(some, spec(0, pattern))) == {"a.wav"}


def unread(count: int, named: bool = True) -> list[Song]:
    return [Song(f"song-{n}.wav" if named else "", f"place {n}") for n in range(count)]


def test_of_unread_songs_as_many_as_is_likely_are_guessed() -> None:
    assert [sum(guess(unread(count), spec(0.2))) for count in (8, 40, 41)] == [2, 8, 8]
    assert sum(guess(unread(40), spec(0.01))) == 2
    assert sum(guess(unread(40), spec(0.2, "song-3", "song-4"))) == 2 + 8
    assert guess(unread(4), spec(0, "song-2")) == [False, False, True, False]
    assert sum(guess(unread(40, named=False), spec(0, "x", "y-*"))) == 2
    spread = [number for number, out in enumerate(guess(unread(40), spec(0.1))) if out]
    assert spread == [0, 10, 20, 30]
    before = split(songs(20), spec(0.5))
    known = len(held_out(songs(20), before))
    assert sum(guess(unread(40), spec(0.1), before)) == known + 2
    assert (
        sum(
            guess(
                unread(20),
                spec(
                    0,
                ),
                before,
            )
        )
        == known
    )


def test_a_guess_refuses_what_any_content_would() -> None:
    with pytest.raises(BadSpecError, match="7 songs"):
        guess(unread(7), spec(0.2))
    with pytest.raises(BadSpecError, match="song-99"):
        guess(unread(8), spec(0, "song-99"))
    with pytest.raises(BadSpecError, match="every song"):
        guess(unread(8), spec(0, "*"))
    assert sum(guess(unread(2, named=False), spec(0, "x", "x.wav", "y"))) == 1


def test_a_share_of_fewer_than_eight_songs_is_refused_also_where_copies_make_more() -> None:
    few = songs(FEWEST_SONGS - 1)
    with pytest.raises(BadSpecError, match="7 songs"):
        split([*few, *few], spec())
    assert held_out(few, split(few, spec(0, "song-3"))) == {"song-3.wav"}
    assert "song-3.wav" in held_out(few, split(few, spec(0.1, "song-3")))


@pytest.mark.parametrize("pattern", ["song-3", "song-3.wav", "*-3", "song-[3]*"])
def test_songs_may_be_named(pattern: str) -> None:
    assert held_out(songs(8), split(songs(8), spec(0, pattern))) == {"song-3.wav"}


def test_a_name_that_fits_no_song_is_refused() -> None:
    with pytest.raises(BadSpecError, match="song-99"):
        split(songs(8), spec(0, "song-99"))


def test_a_song_that_was_trained_on_is_never_held_out_and_the_other_way_round() -> None:
    before = split(songs(30), spec(0.2))
    grown = songs(200)
    after = split(grown, spec(0.5), before)
    was, now = held_out(songs(30), before), held_out(grown, after)
    assert now & {song.name for song in songs(30)} == was
    assert len(now) > 60
    assert held_out(grown, split(grown, spec(0), before)) == was  # also where nothing more is held out
    trained = next(song.name for song in songs(30) if song.name not in was)
    with pytest.raises(BadSpecError, match=trained):
        split(grown, spec(0.2, trained), before)


def test_a_song_is_known_again_by_either_digest() -> None:
    before = split(songs(30), spec(0.2))
    out = held_out(songs(30), before)
    made_anew = [Song(song.name, _digest(song.latents), song.audio) for song in songs(30)]
    by_others = [Song(song.name, song.latents) for song in songs(30)]
    for again in (made_anew, by_others):
        assert held_out(again, split(again, spec(0.5), before)) == out


def test_songs_that_are_gone_keep_their_side() -> None:
    before = split(songs(30), spec(0.2))
    between = split(songs(10), spec(0.2), before)
    assert split(songs(30), spec(0.5), between) == before


def test_every_song_held_out_is_refused() -> None:
    with pytest.raises(BadSpecError, match="held out"):
        split(songs(2), spec(0, "*"))


def test_sides_are_read_as_they_were_written() -> None:
    sides = split(songs(10), spec())
    assert Sides.of_json(sides.as_json(), "x.json") == sides


def test_an_adapter_s_header_says_them_or_that_nothing_was_held_out() -> None:
    sides = split(songs(10), spec())
    assert sides_in({"format": "pt", **sides.as_metadata()}, "a.safetensors") == sides
    assert sides_in({"format": "pt"}, "a.safetensors") is None
    with pytest.raises(BadDataError, match=r"a\.safetensors"):
        sides_in({name: text[:-1] for name, text in sides.as_metadata().items()}, "a.safetensors")


@pytest.mark.parametrize("content", ["no list", [{"latents": "", "held_out": True}], [{"latents": "a"}], [1]])
def test_what_are_no_sides_is_damage(content: object) -> None:
    with pytest.raises(BadDataError, match=r"x\.json"):
        Sides.of_json(content, "x.json")


def test_of_two_adapters_that_become_one_only_what_neither_was_trained_on_stays_a_test() -> None:
    first = Sides((Sided("a", "1", True), Sided("b", "2", True), Sided("c", "", True)))
    second = Sides((Sided("a", "", True), Sided("b again", "2", False), Sided("d", "", False)))
    joined = first.joined(second)
    assert {song.latents: song.held_out for song in joined.songs} == {
        "a": True,
        "b": False,  # the same audio, which the second was trained on
        "b again": False,
        "c": True,
        "d": False,
    }
    assert second.joined(first) == joined


def test_a_song_s_own_name_wins_over_the_pattern_that_it_is() -> None:
    called = ["a.wav", "[ab].wav", "c [x].wav", "c x.wav"]
    some = [Song(name, _digest(name)) for name in called]
    assert held_out(some, split(some, spec(0, "[ab]"))) == {"[ab].wav"}
    assert held_out(some, split(some, spec(0, "c [x].wav"))) == {"c [x].wav"}
    others = [some[0], *some[2:]]  # no song is called so any more
    assert held_out(others, split(others, spec(0, "[ab]"))) == {"a.wav"}
    assert held_out(others, split(others, spec(0, "c [[]x]"))) == {"c [x].wav"}
