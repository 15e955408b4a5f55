"""The prompts of the text encoder, the same as at inference to the last newline."""

from sidestep.data.dataset import Song

INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"


def text_prompt(song: Song, duration: float | None) -> str:
    """The prompt of a song of which `duration` seconds are used: instruction, caption, metas.

    What is not known is N/A. Seconds are cut to a whole number, as the original does.
    """
    seconds = "N/A" if duration is None else f"{int(duration)} seconds"
    return (
        f"# Instruction\n{INSTRUCTION}\n\n"
        f"# Caption\n{prompt_caption(song)}\n\n"
        "# Metas\n"
        f"- bpm: {song.bpm or 'N/A'}\n"
        f"- timesignature: {song.timesignature or 'N/A'}\n"
        f"- keyscale: {song.keyscale or 'N/A'}\n"
        f"- duration: {seconds}\n"
        "<|endoftext|>\n"
    )


def lyrics_prompt(song: Song, lyrics_format: str = "inference") -> str:
    """The lyrics with their language, in the template that inference uses; or just the lyrics, for `raw`."""
    if lyrics_format == "raw":
        return song.lyrics
    return f"# Languages\n{song.language}\n\n# Lyric\n{song.lyrics}<|endoftext|>"


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
