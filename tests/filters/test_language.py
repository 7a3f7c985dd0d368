"""Languages of many lines at once: the same probabilities as py3langid's own, one by one."""

from typing import Any

import numpy as np
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pycat import _core
from pycat.filters.language import language_model

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
    found = language_model().probability([line.encode() for line in LINES], [code])
    one_by_one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    expected = [dict(one_by_one.rank(line))[code] for line in LINES]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_many_lines_are_scored_as_they_are_alone() -> None:
    rng = np.random.default_rng(0)
    letters = [line[: rng.integers(1, len(line) + 1)].encode() for line in LINES * 9]
    together = language_model().probability(letters, ["de"])
    alone = [language_model().probability([line], ["de"])[0] for line in letters]
    assert together.tolist() == alone


def test_tables_that_lead_nowhere_are_refused() -> None:
    tables: dict[str, Any] = {
        "moves": np.zeros(256, np.uint32),
        "rows": np.zeros(1, np.uint16),
        "features": np.zeros(1, np.int32),
        "weights": np.zeros(16, np.uint16),
        "prior": np.array([0.0, 0.0, *[-np.inf] * 14], np.float32),
    }
    model = _core.LanguageModel(**tables)
    assert model.probability([b"ab", b""], [0]).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="language 16 is out of range; expected below 16"):
        model.probability([b"a"], [16])
    for name, value, message in (
        ("moves", np.ones(256, np.uint32), "a move leads to no state"),
        ("rows", np.ones(1, np.uint16), "a state has no row of moves"),
        ("features", np.ones(1, np.int32), "a state finds an unknown feature"),
        ("features", np.zeros(2, np.int32), "the sizes of its tables do not fit together"),
        ("prior", np.zeros(8, np.float32), "expected languages by the sixteen"),
        ("rows", np.zeros((1, 1), np.uint16), "rows has 2 dimensions, expected 1"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.LanguageModel(**{**tables, name: value})


def test_the_language_of_a_sentence_is_the_likeliest() -> None:
    lines = [line.encode() for line in LINES[:4]]
    table = [language_model().probability(lines, [code]) for code in ("en", "de", "fr", "sw")]
    assert np.argmax(table, axis=0).tolist() == [0, 1, 2, 3]


def test_what_says_nothing_passes_for_any_language() -> None:
    assert language_model().probability([b"", b"17"], ["de"]).tolist() == [1.0, 1.0]
    assert language_model().probability([], ["de"]).shape == (0,)


def test_only_the_beginning_of_a_line_counts() -> None:
    german = b"Die Katze schlaeft auf dem Tisch und traeumt. " * 10
    english = b"The cat is sleeping on the table and dreams. " * 90
    one, both = language_model().probability([german, german + english], ["de"])
    assert one == both > 0.9


def test_aliases_of_a_code_count_together() -> None:
    serbian = ["Мачка спава на столу.", "Mačka spava na stolu."]
    found = language_model().probability([line.encode() for line in serbian], ["sr"])
    one_by_one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    expected = [dict(one_by_one.rank(line))["sr"] for line in serbian]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
