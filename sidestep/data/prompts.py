"""The prompts of the text encoder, the same as at inference to the last newline."""

from collections.abc import Collection
from dataclasses import replace

from sidestep.config.training import Alternate
from sidestep.data.dataset import Song

INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"


def text_prompt(song: Song, duration: float | None) -> str:
    """The prompt of a song of which `duration` seconds are used: instruction, caption, metas."""
    return caption_prompt(prompt_caption(song), song.bpm, song.timesignature, song.keyscale, duration)


def caption_prompt(
    caption: str, bpm: int | None, timesignature: str, keyscale: str, duration: float | None
) -> str:
    """The prompt of a caption, with its tag, and of metas.

    What is not known is N/A. Seconds are cut to a whole number, as the original does.
    """
    seconds = "N/A" if duration is None else f"{int(duration)} seconds"
    return (
        f"# Instruction\n{INSTRUCTION}\n\n"
        f"# Caption\n{caption}\n\n"
        "# Metas\n"
        f"- bpm: {bpm or 'N/A'}\n"
        f"- timesignature: {timesignature or 'N/A'}\n"
        f"- keyscale: {keyscale or 'N/A'}\n"
        f"- duration: {seconds}\n"
        "<|endoftext|>\n"
    )


def lyrics_prompt(song: Song, lyrics_format: str = "inference") -> str:
    """The lyrics with their language, in the template that inference uses; or just the lyrics, for `raw`."""
    if lyrics_format == "raw":
        return song.lyrics
    return templated_lyrics(song.lyrics, song.language)


def templated_lyrics(lyrics: str, language: str) -> str:
    """Lyrics and their language as inference has them."""
    return f"# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|>"


def alternates_of(song: Song, wanted: Collection[Alternate]) -> dict[Alternate, Song]:
    """The song as the other prompts that are wanted have it, as far as it has them.

    Beside a trigger word alone, lyrics and metas stay: a voice that sings what the prompt does not say would
    teach the trigger word to sing it.
    """
    found: dict[Alternate, Song] = {}
    if "genre" in wanted and song.may_use_genre:
        found["genre"] = replace(song, uses_genre=True)
    if "trigger" in wanted and song.custom_tag:
        found["trigger"] = replace(song, tag_position="replace")
    return found


def prompt_caption(song: Song) -> str:
    """The song's caption (or its genre, where that was chosen), with the dataset's tag."""
    text = song.genre if song.uses_genre else song.caption
    match song.tag_position:
        case "replace" if song.custom_tag:
            parts = [song.custom_tag]
        case "append":
            parts = [text, song.custom_tag]
        case _:
            parts = [song.custom_tag, text]
    return ", ".join(part for part in parts if part)
