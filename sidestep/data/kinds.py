"""The kinds of audio files by name: those that are read, and those that are not but look like songs."""

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".aac"),
    *(".aiff", ".aif", ".aifc", ".webm", ".mka", ".wma"),
)
"""Of the songs that are read."""

UNREAD_SUFFIXES = (
    *(".ape", ".wv", ".tta", ".tak", ".shn", ".ofr", ".mpc", ".mp1", ".mp2", ".mpa", ".dsf", ".dff", ".caf"),
    *(".au", ".snd", ".ac3", ".eac3", ".dts", ".amr", ".awb", ".3gp", ".3ga", ".ra", ".rm", ".spx", ".gsm"),
    *(
        ".voc",
        ".rf64",
        ".bwf",
        ".aa",
        ".aax",
        ".m4p",
        ".m4r",
        ".weba",
        ".mov",
        ".mkv",
        ".avi",
        ".wmv",
        ".flv",
    ),
    *(".mid", ".midi", ".kar", ".mod", ".xm", ".it", ".s3m", ".sid", ".vgm", ".nsf", ".spc"),
)
"""Of files that sound and are not read: they are named, so that nobody misses them only in the adapter."""

TEXT_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".lrc", ".srt", ".vtt", ".md")
"""Of files that may say something of a song."""
