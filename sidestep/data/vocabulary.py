"""The words of a prompt as inference knows them: time signatures by their beats, languages by their codes.

The lists are those of ACE-Step 1.5 (`VALID_TIME_SIGNATURES`, `VALID_LANGUAGES`).
"""

import re

_SIGNATURES = {"2/4": "2", "3/4": "3", "4/4": "4", "6/8": "6", "2": "2", "3": "3", "4": "4", "6": "6"}

_LANGUAGES = {
    "ar": "arabic",
    "az": "azerbaijani azeri",
    "bg": "bulgarian",
    "bn": "bengali bangla",
    "ca": "catalan valencian",
    "cs": "czech cz",
    "da": "danish",
    "de": "german deutsch",
    "el": "greek gr",
    "en": "english",
    "es": "spanish castilian español",
    "fa": "persian farsi",
    "fi": "finnish suomi",
    "fr": "french français",
    "he": "hebrew iw",
    "hi": "hindi",
    "hr": "croatian hrvatski",
    "ht": "haitian",
    "hu": "hungarian magyar",
    "id": "indonesian",
    "is": "icelandic",
    "it": "italian italiano",
    "ja": "japanese jp 日本語",
    "ko": "korean kr 한국어",
    "la": "latin",
    "lt": "lithuanian",
    "ms": "malay",
    "ne": "nepali",
    "nl": "dutch flemish nederlands",
    "no": "norwegian nb nn bokmål nynorsk norsk",
    "pa": "punjabi panjabi",
    "pl": "polish polski",
    "pt": "portuguese português",
    "ro": "romanian",
    "ru": "russian русский",
    "sa": "sanskrit",
    "sk": "slovak",
    "sr": "serbian",
    "sv": "swedish svenska",
    "sw": "swahili",
    "ta": "tamil",
    "te": "telugu",
    "th": "thai",
    "tl": "tagalog filipino fil",
    "tr": "turkish türkçe",
    "uk": "ukrainian ua українська",
    "ur": "urdu",
    "vi": "vietnamese",
    "yue": "cantonese",
    "zh": "chinese mandarin cn 中文",
    "unknown": "",
}
_CODES = {name: code for code, names in _LANGUAGES.items() for name in (code, *names.split())}
_ISO_639_2 = {  # three letters, as tags of sound files have them
    "ara": "ar",
    "aze": "az",
    "bul": "bg",
    "ben": "bn",
    "cat": "ca",
    "ces": "cs",
    "cze": "cs",
    "dan": "da",
    "deu": "de",
    "ger": "de",
    "ell": "el",
    "gre": "el",
    "eng": "en",
    "spa": "es",
    "fas": "fa",
    "per": "fa",
    "fin": "fi",
    "fra": "fr",
    "fre": "fr",
    "heb": "he",
    "hin": "hi",
    "hrv": "hr",
    "hat": "ht",
    "hun": "hu",
    "ind": "id",
    "isl": "is",
    "ice": "is",
    "ita": "it",
    "jpn": "ja",
    "kor": "ko",
    "lat": "la",
    "lit": "lt",
    "msa": "ms",
    "may": "ms",
    "nep": "ne",
    "nld": "nl",
    "dut": "nl",
    "nor": "no",
    "nob": "no",
    "nno": "no",
    "pan": "pa",
    "pol": "pl",
    "por": "pt",
    "ron": "ro",
    "rum": "ro",
    "rus": "ru",
    "san": "sa",
    "slk": "sk",
    "slo": "sk",
    "srp": "sr",
    "swe": "sv",
    "swa": "sw",
    "tam": "ta",
    "tel": "te",
    "tha": "th",
    "tgl": "tl",
    "tur": "tr",
    "ukr": "uk",
    "urd": "ur",
    "vie": "vi",
    "zho": "zh",
    "chi": "zh",
    "cmn": "zh",
}


def time_signature(written: str) -> str | None:
    """`4/4` → 4, `6/8` → 6, and 2, 3, 4, 6 as they are; None where inference does not know it."""
    return _SIGNATURES.get(re.sub(r"\s", "", written).lower())


def language_code(written: str) -> str | None:
    """A language's name or code in any case, a region cut off (`en-US`) → its code; None for others."""
    name = written.strip().lower()
    for word in (name, re.split(r"[-_ (,]", name)[0]):
        if code := _CODES.get(word) or _ISO_639_2.get(word):
            return code
    return None
