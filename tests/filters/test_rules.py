"""Rules: each measures what it says, and drops what it should."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import MakeScores, corpus_of

import pycat
from pycat.errors import PycatError
from pycat.filters.measures import Measures, measure
from pycat.filters.rule_measures import length_z, usual_lengths
from pycat.filters.rules import DEFAULT_RULES, read_rules
from pycat.report.explaining import explain

GOOD = [
    ("The cat sleeps on the old table.", "Die Katze schläft auf dem alten Tisch."),
    (
        "We would like to order two cups of coffee.",
        "Wir möchten gern zwei Tassen Kaffee bestellen.",
    ),
    ("Yesterday the children played in the garden.", "Gestern spielten die Kinder im Garten."),
    ("The train to Berlin leaves at 10:45 today.", "Der Zug nach Berlin fährt heute um 10.45 Uhr."),
    ("She has lived in this house for many years.", "Sie wohnt seit vielen Jahren in diesem Haus."),
    ("Nobody knows what will happen tomorrow.", "Niemand weiß, was morgen geschehen wird."),
    ("The book lies open on the kitchen table.", "Das Buch liegt offen auf dem Küchentisch."),
    ("He asked whether the shop was still open.", "Er fragte, ob der Laden noch geöffnet sei."),
]

MeasurePairs = Callable[[list[tuple[str, str]]], Measures]


@pytest.fixture
def measure_pairs(tmp_path: Path, toy_tokenizer: Path) -> MeasurePairs:
    def run(pairs: list[tuple[str, str]]) -> Measures:
        return measure(corpus_of(tmp_path, pairs, toy_tokenizer), out=tmp_path / "measures")

    return run


def hit_by(table: Measures, row: int) -> set[str]:
    return {rule for rule, hits in table.hits().items() if hits[row]}


def test_translations_pass_every_rule(measure_pairs: MeasurePairs) -> None:
    table = measure_pairs(GOOD)
    kept, counts = table.apply()
    assert kept.all()
    assert counts == dict.fromkeys(DEFAULT_RULES, 0)


@pytest.mark.parametrize(
    ("pair", "rules"),
    [
        (GOOD[0], {"duplicate", "near_duplicate"}),
        (("The cat sleeps  on the old table!", GOOD[0][1]), {"near_duplicate"}),
        (
            ("The dog barks at the old moon.", "The dog barks at the old moon."),
            {"copied", "tgt_language"},
        ),
        (("Der Hund bellt den Mond an.", "Der Kater schläft im Garten."), {"src_language"}),
        (("The dog barks at the moon.", "Le chien aboie toujours à la lune."), {"tgt_language"}),
        (("The dog barks at the moon.", "Der Hund bellt. " * 12), {"length_z", "repeated"}),
        (
            ("We saw the cat sleep on the sofa.", "Wir sahen die Katze Katze Katze Katze"),
            {"repeated"},
        ),
        ((f"The dog barks. {'-' * 40}", f"Der Hund bellt. {'-' * 40}"), {"letters"}),
        (("It was 1945 and cold then.", "Es war 2783 und kalt damals."), {"numbers"}),
        (("The dog barks at the moon.", "Der Hund heult dann fÃ¼rchterlich."), {"encoding"}),
        (("The dog barks at the moon.", "Der Hund heult dann f\ufffdrchterlich."), {"encoding"}),
        (("The dog barks at the moon.", "Der Hund heult dann f?rchterlich."), {"encoding"}),
        (("The dog barks at the moon?", "Der Hund bellt laut? Siehe moon.de/x?y=z."), set()),
        (("“What?” the dog barks—why?—loudly.", "„Was?“ bellt der Hund – wozu?… Laut."), set()),
    ],
)
def test_each_rule_drops_its_kind_alone(
    measure_pairs: MeasurePairs, pair: tuple[str, str], rules: set[str]
) -> None:
    table = measure_pairs([*GOOD, pair])
    assert hit_by(table, len(GOOD)) == rules
    assert not any(hit_by(table, row) for row in range(len(GOOD)))


def test_a_target_of_many_sources_is_capped(measure_pairs: MeasurePairs) -> None:
    sources = ["cats", "old dogs", "horses", "this child", "nobody", "all birds", "a whale"]
    pairs = [
        (f"We sometimes see {name} here.", "Bitte akzeptieren Sie Cookies.") for name in sources
    ]
    table = measure_pairs([*GOOD, *pairs])
    hits = table.hits({"near_duplicate": None})["target_copies"]
    assert np.flatnonzero(hits).tolist() == [len(GOOD) + 5, len(GOOD) + 6]
    assert table.column("tgt_group")[-7:].tolist() == [len(GOOD)] * 7
    assert table.column("src_group")[-7:].tolist() == [*range(len(GOOD), len(GOOD) + 7)]


def test_numbers_are_compared_without_separators_and_words(measure_pairs: MeasurePairs) -> None:
    table = measure_pairs(
        [("1,000 of 7 items", "7 von 1.000 Dingen"), ("2 men", "zwei Leute"), ("12 ab", "34 cd")]
    )
    assert table.column("number_mismatch").tolist() == [0, 0, 1]


def test_overlap_by_hand(measure_pairs: MeasurePairs) -> None:
    # "  ab  " gives the n-grams "  ab", " ab ", "ab  "; "  abc  " shares the first of four.
    table = measure_pairs([("ab", "abc"), ("AB", "ab"), ("ab ab", "ab"), ("one", "zwei")])
    np.testing.assert_allclose(table.column("overlap"), [0.25, 1, 1, 0])


def test_repetition_by_hand(measure_pairs: MeasurePairs) -> None:
    # "abcdefghabcdefghabcd" has 13 n-grams of 8 bytes; the last 5 stood before.
    loop, once = "abcdefghABCDEFGHabcd", "a sentence without any loop"
    table = measure_pairs(
        [(once, loop), (loop, once), (loop, loop), (once, once), ("short", "line")]
    )
    expected = np.array([5 / 13, 5 / 13, 0, 0, 0], np.float32)
    assert table.column("repetition").tolist() == expected.tolist()


def test_length_z_by_hand() -> None:
    # A letter is added to each side: (100 - 2 x 40) / sqrt(90 + 20 + 0.015 x 90^2) / 1.5.
    found = length_z(np.array([39], np.int32), np.array([99], np.int32), 2.0, 1.5)
    np.testing.assert_allclose(found, [20 / np.sqrt(90 + 20 + 121.5) / 1.5], rtol=1e-6)


def test_length_z_has_unit_spread_and_knows_direction() -> None:
    rng = np.random.default_rng(0)
    src = rng.integers(20, 200, 20_000).astype(np.int32)
    # A language that takes 1.5 times the letters, with a spread of 1.2.
    mean = 1.5 * src
    spread = 1.2 * np.sqrt(mean + 20 + 0.015 * mean**2)
    tgt = np.maximum(1, rng.normal(mean, spread)).astype(np.int32)
    z = length_z(src, tgt, *usual_lengths(src, tgt))
    assert abs(float(np.median(z))) < 0.02
    assert abs(float(z.std()) - 1) < 0.05
    tgt[0], tgt[1] = tgt[0] // 4, 4 * tgt[1]
    z = length_z(src, tgt, *usual_lengths(src, tgt))
    assert z[0] < -4
    assert z[1] > 4


def test_thresholds_and_switches(measure_pairs: MeasurePairs) -> None:
    table = measure_pairs(
        [*GOOD, GOOD[0], ("It was 1945 and cold then.", "Es war 2783 und kalt damals.")]
    )
    assert table.apply()[1]["numbers"] == 1
    kept, counts = table.apply({"numbers": None, "duplicate": None, "near_duplicate": None})
    assert kept.all()
    assert "numbers" not in counts
    assert not table.apply({"length_z": 0.0})[0].any()


def test_a_rule_unknown_to_an_old_selection_is_off_when_it_is_made_again(
    tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores
) -> None:
    loop = ("We saw the cat sleep on the sofa.", "Wir sahen die Katze Katze Katze Katze")
    corpus = corpus_of(tmp_path, [*GOOD, loop], toy_tokenizer)
    measure(corpus, out=tmp_path / "measures")
    table = make_scores(corpus, np.arange(18.0).reshape(9, 2) ** 2)
    new = pycat.select(table, keep=1.0, rules="default", guard=0)
    assert len(new) == 8
    found = explain(table, 8, selection=new)
    assert found.decision is not None
    assert (found.decision.step, found.rules) == ("rules", ["repeated"])
    old = pycat.select(table, keep=1.0, rules={"repeated": None}, guard=0)
    del old.manifest["recipe"]["rules"]["repeated"]
    found = explain(table, 8, selection=old)
    assert found.decision is not None
    assert (found.decision.kept, found.rules) == (True, [])
    assert found.decision.step == "cut"


def test_unknown_languages_are_left_out_and_said(tmp_path: Path, toy_tokenizer: Path) -> None:
    text = tmp_path / "text.tsv"
    text.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in GOOD), "utf-8")
    corpus = pycat.tokenize(tsv=text, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    table = measure(corpus, out=tmp_path / "measures")
    assert "src_language" not in table.names
    with pytest.raises(PycatError, match=r"has no column 'src_language', expected .* 'src' is not"):
        table.column("src_language")
    assert "'tgt' is not a language code" in table.manifest["without"]["tgt_language"]
    assert "tgt_language" not in table.apply()[1]


def test_read_rules(tmp_path: Path) -> None:
    assert read_rules("none") is None
    assert read_rules("default") == {}
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"copied": 0.7, "numbers": None}))
    assert read_rules(str(file)) == {"copied": 0.7, "numbers": None}
    for content, message in (
        ("[1]", "expected a JSON object of rules, found list"),
        ("{", "cannot be read as rules .*default, none, or a JSON file"),
        ('{"copied_source": 1}', "rule 'copied_source' is not known; expected one of duplicate"),
        ('{"copied": "much"}', "rule copied is 'much'; expected a finite number"),
    ):
        file.write_text(content)
        with pytest.raises(PycatError, match=message):
            read_rules(str(file))
    with pytest.raises(PycatError, match="cannot be read as rules"):
        read_rules(str(tmp_path / "missing.json"))
