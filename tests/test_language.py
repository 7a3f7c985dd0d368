"""Languages of many lines at once: the same probabilities as py3langid's own, one by one."""

import numpy as np
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pycat.language import language_model

LINES = [
    "The cat sleeps on the table.",
    "Die Katze schläft auf dem Tisch.",
    "Le chat dort sur la table, et il ne veut pas se lever.",
    "Paka analala juu ya meza.",
    "THE CAT SLEEPS",
    "DIE KATZE SCHLÄFT",
    "这只猫睡在桌子上",
    "Die Katze schla\u0308ft",  # decomposed: the model was trained on composed letters
]


@pytest.mark.parametrize("code", ["en", "de", "fr", "sw", "zh"])
def test_probabilities_are_those_of_py3langid(code: str) -> None:
    found = language_model().probability([line.encode() for line in LINES], code)
    one_by_one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    expected = [dict(one_by_one.rank(line))[code] for line in LINES]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_the_language_of_a_sentence_is_the_likeliest() -> None:
    lines = [line.encode() for line in LINES[:4]]
    table = [language_model().probability(lines, code) for code in ("en", "de", "fr", "sw")]
    assert np.argmax(table, axis=0).tolist() == [0, 1, 2, 3]


def test_what_says_nothing_passes_for_any_language() -> None:
    assert language_model().probability([b"", b"17"], "de").tolist() == [1.0, 1.0]
    assert language_model().probability([], "de").shape == (0,)


def test_only_the_beginning_of_a_line_counts() -> None:
    german = b"Die Katze schlaeft auf dem Tisch und traeumt. " * 10
    english = b"The cat is sleeping on the table and dreams. " * 90
    one, both = language_model().probability([german, german + english], "de")
    assert one == both > 0.9


def test_aliases_of_a_code_count_together() -> None:
    serbian = ["Мачка спава на столу.", "Mačka spava na stolu."]
    found = language_model().probability([line.encode() for line in serbian], "sr")
    one_by_one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    expected = [dict(one_by_one.rank(line))["sr"] for line in serbian]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
