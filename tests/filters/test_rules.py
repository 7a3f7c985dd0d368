"""Rules: each measures what it says, drops what it should, and survives a second look."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import FileSizeLimit, MakeScores, corpus_of

import pycat
from pycat.errors import CorpusError, OutputError, PycatError
from pycat.filters.rule_measures import length_z, measure_rules, usual_lengths
from pycat.filters.rules import DEFAULT_RULES, RuleTable, read_rules
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

Measure = Callable[..., RuleTable]


@pytest.fixture
def measure(tmp_path: Path, toy_tokenizer: Path) -> Measure:
    def run(pairs: list[tuple[str, str]], **options: int) -> RuleTable:
        return measure_rules(corpus_of(tmp_path, pairs, toy_tokenizer), **options)

    return run


def hit_by(table: RuleTable, row: int) -> set[str]:
    return {rule for rule, hits in table.hits().items() if hits[row]}


def test_translations_pass_every_rule(measure: Measure) -> None:
    table = measure(GOOD)
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
    measure: Measure, pair: tuple[str, str], rules: set[str]
) -> None:
    table = measure([*GOOD, pair])
    assert hit_by(table, len(GOOD)) == rules
    assert not any(hit_by(table, row) for row in range(len(GOOD)))


def test_a_target_of_many_sources_is_capped(measure: Measure) -> None:
    sources = ["cats", "old dogs", "horses", "this child", "nobody", "all birds", "a whale"]
    pairs = [
        (f"We sometimes see {name} here.", "Bitte akzeptieren Sie Cookies.") for name in sources
    ]
    table = measure([*GOOD, *pairs])
    hits = table.hits({"near_duplicate": None})["target_copies"]
    assert np.flatnonzero(hits).tolist() == [len(GOOD) + 5, len(GOOD) + 6]
    assert table.columns["tgt_group"][-7:].tolist() == [len(GOOD)] * 7
    assert table.columns["src_group"][-7:].tolist() == [*range(len(GOOD), len(GOOD) + 7)]


def test_numbers_are_compared_without_separators_and_words(measure: Measure) -> None:
    table = measure(
        [("1,000 of 7 items", "7 von 1.000 Dingen"), ("2 men", "zwei Leute"), ("12 ab", "34 cd")]
    )
    assert table.columns["number_mismatch"].tolist() == [0, 0, 1]


def test_overlap_by_hand(measure: Measure) -> None:
    # "  ab  " gives the n-grams "  ab", " ab ", "ab  "; "  abc  " shares the first of four.
    table = measure([("ab", "abc"), ("AB", "ab"), ("ab ab", "ab"), ("one", "zwei")])
    np.testing.assert_allclose(table.columns["overlap"], [0.25, 1, 1, 0])


def test_repetition_by_hand(measure: Measure) -> None:
    # "abcdefghabcdefghabcd" has 13 n-grams of 8 bytes; the last 5 stood before.
    loop, once = "abcdefghABCDEFGHabcd", "a sentence without any loop"
    table = measure([(once, loop), (loop, once), (loop, loop), (once, once), ("short", "line")])
    expected = np.array([5 / 13, 5 / 13, 0, 0, 0], np.float32)
    assert table.columns["repetition"].tolist() == expected.tolist()


def test_length_z_has_unit_spread_and_knows_direction() -> None:
    rng = np.random.default_rng(0)
    src = rng.integers(20, 200, 20_000).astype(np.int32)
    # A language that takes 1.5 times the characters, spread as Gale and Church have it.
    tgt = np.maximum(1, rng.normal(1.5 * src, 2 * np.sqrt(src))).astype(np.int32)
    z = length_z(src, tgt, *usual_lengths(src, tgt))
    assert abs(float(np.median(z))) < 0.02
    assert abs(float(z.std()) - 1) < 0.05
    tgt[0], tgt[1] = tgt[0] // 4, 4 * tgt[1]
    z = length_z(src, tgt, *usual_lengths(src, tgt))
    assert z[0] < -4
    assert z[1] > 4


def test_thresholds_and_switches(measure: Measure) -> None:
    table = measure(
        [*GOOD, GOOD[0], ("It was 1945 and cold then.", "Es war 2783 und kalt damals.")]
    )
    assert table.apply()[1]["numbers"] == 1
    kept, counts = table.apply({"numbers": None, "duplicate": None, "near_duplicate": None})
    assert kept.all()
    assert "numbers" not in counts
    assert not table.apply({"length_z": 0.0})[0].any()


def test_threads_and_chunks_do_not_matter(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [*GOOD, *(pair for pair in GOOD), ("a b", "c d")] * 5
    one = measure_rules(corpus_of(tmp_path / "one", pairs, toy_tokenizer), num_threads=1)
    monkeypatch.setattr("pycat.data.parallel_text._CHUNK_LINES", 7)
    monkeypatch.setattr("pycat.data.parallel_text._STEP_LINES", 7)
    three = measure_rules(corpus_of(tmp_path / "three", pairs, toy_tokenizer), num_threads=3)
    assert one.columns.keys() == three.columns.keys()
    for name, values in one.columns.items():
        assert values.tolist() == three.columns[name].tolist(), name


def test_skipped_lines_and_views(tmp_path: Path, toy_tokenizer: Path) -> None:
    pairs = [GOOD[0], ("", "leer"), GOOD[1], ("copied line", "copied line"), GOOD[2]]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    table = measure_rules(corpus)
    assert table.columns["src_chars"].tolist() == [len(pairs[i][0]) for i in (0, 2, 3, 4)]
    assert table.columns["overlap"][2] == 1
    view = measure_rules(corpus.subset(np.array([2, 3])))
    assert view.columns["pair"].tolist() == [2, 3]
    assert view.columns["overlap"].tolist() == table.columns["overlap"][2:].tolist()


def test_measured_once_and_again_when_another_corpus_comes(
    tmp_path: Path, toy_tokenizer: Path
) -> None:
    corpus = corpus_of(tmp_path, GOOD, toy_tokenizer)
    measure_rules(corpus)
    file = corpus.path / "rules.parquet"
    before = file.stat().st_mtime_ns
    measure_rules(corpus)
    assert file.stat().st_mtime_ns == before
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(OutputError, match=r"rules\.parquet: cannot be read .*measure_rules"):
        RuleTable.open(corpus)
    assert len(measure_rules(corpus)) == len(GOOD)
    old = file.read_bytes()
    (tmp_path / "text.tsv").write_text("one\teins\n", "utf-8")
    other = pycat.tokenize(
        tsv=tmp_path / "text.tsv",
        out=corpus.path,
        tokenizer=toy_tokenizer,
        languages=("en", "de"),
        overwrite=True,
    )
    assert not file.exists()
    file.write_bytes(old)
    with pytest.raises(OutputError, match=r"holds 8 pairs of corpus \w+, expected 1 of"):
        RuleTable.open(other)


def test_what_older_code_wrote_is_measured_anew(tmp_path: Path, toy_tokenizer: Path) -> None:
    corpus = corpus_of(tmp_path, GOOD, toy_tokenizer)
    measure_rules(corpus)
    file = corpus.path / "rules.parquet"
    table = pq.read_table(file).drop_columns(["repetition"])
    facts = {**json.loads(table.schema.metadata[b"pycat"]), "format": "pycat.rules.1"}
    pq.write_table(table.replace_schema_metadata({"pycat": json.dumps(facts)}), file)
    with pytest.raises(
        OutputError, match=r"found format pycat.rules.1, expected pycat.rules.2; me"
    ):
        RuleTable.open(corpus)
    assert "repetition" in measure_rules(corpus).columns


def test_a_damaged_column_is_named_and_others_are_read(tmp_path: Path, toy_tokenizer: Path) -> None:
    corpus = corpus_of(tmp_path, GOOD, toy_tokenizer)
    measure_rules(corpus)
    file = corpus.path / "rules.parquet"
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    content = bytearray(file.read_bytes())
    content[columns["letters"].data_page_offset + columns["letters"].total_compressed_size - 1] ^= 1
    file.write_bytes(content)
    table = RuleTable.open(corpus)
    assert table.columns["overlap"].shape == (len(GOOD),)
    assert table.apply({"letters": None})[0].all()
    message = (
        r"rules\.parquet: column letters cannot be read .*delete the file and measure the rules"
    )
    for read in (table.apply, lambda: table.broken_by(3), lambda: table.columns["letters"]):
        with pytest.raises(OutputError, match=message):
            read()


def test_a_row_is_told_what_all_are_told(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pycat.filters.rule_measures._ROW_GROUP", 4)
    pairs = [*GOOD, ("1 dog", "2 Hunde"), GOOD[1], ("same line", "same line"), GOOD[1]]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    whole = measure_rules(corpus)
    view = RuleTable.open(corpus.subset(np.array([1, 3, 8, 9, 10])))
    assert view.columns["pair"].tolist() == [1, 3, 8, 9, 10]
    for table in (whole, view):
        assert any(hit_by(table, row) for row in range(len(table)))
        for row in range(len(table)):
            assert set(table.broken_by(row)) == hit_by(table, row)
            for name, values in table.columns.items():
                assert table.columns.rows(name, row, row + 1).tolist() == values[[row]].tolist()
        assert table.columns.rows("pair", 2, 5).tolist() == table.columns["pair"][2:5].tolist()
    with pytest.raises(KeyError, match="no_such"):
        whole.columns["no_such"]


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, toy_tokenizer: Path, file_size_limit: FileSizeLimit
) -> None:
    pairs = [(f"house number {i}", f"Haus Nummer {i}") for i in range(3000)]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    before = sorted(corpus.path.iterdir())
    with file_size_limit(8192), pytest.raises(OSError, match=r"rules\.parquet"):
        measure_rules(corpus)
    assert sorted(corpus.path.iterdir()) == before
    assert len(measure_rules(corpus)) == 3000


def test_a_rule_unknown_to_an_old_selection_is_off_when_it_is_made_again(
    tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores
) -> None:
    loop = ("We saw the cat sleep on the sofa.", "Wir sahen die Katze Katze Katze Katze")
    corpus = corpus_of(tmp_path, [*GOOD, loop], toy_tokenizer)
    table = make_scores(corpus, np.arange(18.0).reshape(9, 2) ** 2)
    new = pycat.select(table, keep=1.0, rules="default")
    assert len(new) == 8
    found = explain(table, 8, selection=new)
    assert found.decision is not None
    assert (found.decision.step, found.rules) == ("rules", ["repeated"])
    old = pycat.select(table, keep=1.0, rules={"repeated": None})
    del old.manifest["recipe"]["rules"]["repeated"]
    found = explain(table, 8, selection=old)
    assert found.decision is not None
    assert (found.decision.kept, found.rules) == (True, [])
    assert found.decision.step == "cut"


def test_any_parquet_reader_opens_it(measure: Measure, tmp_path: Path) -> None:
    table = measure(GOOD)
    read = pq.read_table(tmp_path / "corpus" / "rules.parquet")
    assert read.column_names == list(table.columns)
    assert {str(kind) for kind in read.schema.types} == {"int64", "int32", "float"}


def test_unknown_languages_are_left_out_and_said(tmp_path: Path, toy_tokenizer: Path) -> None:
    text = tmp_path / "text.tsv"
    text.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in GOOD), "utf-8")
    corpus = pycat.tokenize(tsv=text, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    table = measure_rules(corpus)
    assert "src_language" not in table.columns
    assert "'src' is not a language code" in table.manifest["without"]["tgt_language"]
    assert "tgt_language" not in table.apply()[1]


def test_a_corpus_without_text_is_refused(toy_corpus: pycat.Corpus) -> None:
    prefixes = toy_corpus.path / "src", toy_corpus.path / "tgt"
    tokens = pycat.open_corpus(prefixes, vocab_size=340, eos_id=2)
    with pytest.raises(CorpusError, match="holds tokens only"):
        measure_rules(tokens)


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
        ('{"copied": "much"}', "rule copied is 'much'; expected a number"),
    ):
        file.write_text(content)
        with pytest.raises(PycatError, match=message):
            read_rules(str(file))
    with pytest.raises(PycatError, match="cannot be read as rules"):
        read_rules(str(tmp_path / "missing.json"))


def test_a_chunk_without_a_kept_line_is_left_out(tmp_path: Path, toy_tokenizer: Path) -> None:
    # The text is read 1,024 lines at a time; the last chunk holds but an empty pair.
    pairs = [(f"house number {i}", f"Haus Nummer {i}") for i in range(1024)]
    corpus = corpus_of(tmp_path, [*pairs, ("", "")], toy_tokenizer)
    assert len(corpus) == 1024
    found = measure_rules(corpus, num_threads=1)
    assert len(found) == 1024
    assert found.columns["src_chars"][-1] == len("house number 1023")
