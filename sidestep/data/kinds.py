"""The kinds of audio files by name: those that are read, and those that are not but look like songs."""

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".aac"),
    *(".aiff", ".aif", ".aifc", ".webm", ".mka", ".wma"),
)
"""Of the songs that are read."""

UNREAD_SUFFIXES = (
    *(
        ".ape",
        ".wv",
        ".tta",
        ".tak",
        ".shn",
        ".ofr",
        ".mpc",
        ".mp2",
        ".mp1",
        ".mpa",
        ".dsf",
        ".dff",
        ".caf",
        ".au",
    ),
    *(".snd", ".ac3", ".eac3", ".dts", ".amr", ".awb", ".3gp", ".3ga", ".ra", ".rm", ".ram", ".mov", ".mkv"),
    *(
        ".avi",
        ".wmv",
        ".weba",
        ".spx",
        ".gsm",
        ".voc",
        ".sf2",
        ".rf64",
        ".bwf",
        ".aa",
        ".aax",
        ".m4p",
        ".m4r",
    ),
    *(
        ".mid",
        ".midi",
        ".kar",
        ".mod",
        ".xm",
        ".it",
        ".s3m",
        ".flp",
        ".als",
        ".band",
        ".logicx",
        ".sid",
        ".vgm",
    ),
)
"""Of songs that are not read: they are named, or nobody would miss them before the adapter does."""
