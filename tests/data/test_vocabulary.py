import pytest

from sidestep.data.vocabulary import language_code, time_signature


@pytest.mark.parametrize(
    ("written", "known"),
    [("4/4", "4"), ("3 / 4", "3"), ("2/4", "2"), ("6/8", "6"), *[(beats, beats) for beats in "2346"]],
)
def test_signatures_are_known_by_their_beats(written: str, known: str) -> None:
    assert time_signature(written) == known


@pytest.mark.parametrize("written", ["5/4", "7/8", "12/8", "4/8", "2/2", "1", "44", ""])
def test_other_signatures_are_not(written: str) -> None:
    assert time_signature(written) is None


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("english", "en"),
        ("English", "en"),
        ("EN", "en"),
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("zh-Hans-CN", "zh"),
        ("Chinese (Mandarin)", "zh"),
        ("Cantonese", "yue"),
        ("yue", "yue"),
        ("jpn", "ja"),
        ("Español", "es"),
        ("unknown", "unknown"),
        (" de ", "de"),
    ],
)
def test_languages_are_known_by_codes_and_names(written: str, code: str) -> None:
    assert language_code(written) == code


@pytest.mark.parametrize("written", ["klingon", "xx", "", "engl", "e", "tlh-US"])
def test_other_languages_are_not(written: str) -> None:
    assert language_code(written) is None
