"""The measure stage: what its folder holds, resuming, subsets, and what it refuses."""

import json
from pathlib import Path
from shutil import copytree
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import (
    FileSizeLimit,
    MakeScores,
    corpus_of,
    damage_column,
    number_pair,
    toy_pairs,
)

import pycat
from pycat.data import text_parts
from pycat.errors import OutputError, PycatError, TextError
from pycat.filters import duplicates, measure_steps
from pycat.filters import measures as stage
from pycat.filters.fluency import fluency
from pycat.filters.lexical import lexical_scores
from pycat.filters.measures import Measures, find_measures, measure, no_measures
from pycat.filters.noise import (
    corpus_signals,
    noise_score,
    sum_of_squares,
    surprise_evidence,
)
from pycat.filters.rules import DEFAULT_RULES
from pycat.runtime.output import write_manifest

LEXICAL = ("lexical_tgt", "lexical_src", "gap_tgt", "gap_src")
FLUENCY = ("order_tgt", "order_src", "ending")


def use_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make and read parts of 4 pairs."""
    for module in ("measures", "measure_steps", "rule_measures"):
        monkeypatch.setattr(f"pycat.filters.{module}.PART_PAIRS", 4)


def stamps(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_workers_measure_the_same_and_find_the_same_duplicates(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = toy_pairs(60)
    pairs = [*pairs, *pairs[:20], *((src.upper() + ".", tgt) for src, tgt in pairs[30:50])]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    here = measure(corpus, out=tmp_path / "here")
    # Three parts of text; and each column of hashes in three ranges.
    monkeypatch.setattr(text_parts, "PART_LINES", 40)
    monkeypatch.setattr(duplicates, "_RANGE_PAIRS", 40)
    there = measure(corpus, out=tmp_path / "there", num_workers=2)
    shouted = {"pair_group": 80, "src_group": 80, "tgt_group": 30, "near_group": 30}
    for name, first in shouted.items():
        expected = [*range(60), *range(20), *range(first, first + 20)]
        np.testing.assert_array_equal(there.column(name), expected)
    part = "part-00000.parquet"
    assert (there.path / part).read_bytes() == (here.path / part).read_bytes()
    assert sorted(path.name for path in there.path.iterdir()) == ["measures.json", part]


def tokens_of(corpus: pycat.Corpus) -> pycat.Corpus:
    """The same tokens without their text."""
    prefixes = corpus.path / "src", corpus.path / "tgt"
    return pycat.open_corpus(prefixes, vocab_size=corpus.vocab_size, eos_id=corpus.eos_id)


def test_columns_are_those_of_the_steps(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    measures = measure(toy_corpus, out=tmp_path / "measures")
    assert len(measures) == 300
    assert measures.names[0] == "pair"
    assert measures.names[-9:] == (*LEXICAL, *FLUENCY, "noise_evidence", "noise_score")
    assert measures.column("pair").tolist() == list(range(300))
    expected = zip(
        (*LEXICAL, *FLUENCY), (*lexical_scores(toy_corpus), *fluency(toy_corpus)), strict=True
    )
    for name, values in expected:
        np.testing.assert_array_equal(measures.column(name), values)
    signals = dict(corpus_signals(measures.column, *toy_corpus.lengths, has_text=True))
    total = sum_of_squares(signals.values(), 300)
    np.testing.assert_array_equal(measures.column("noise_evidence"), total)
    np.testing.assert_array_equal(measures.noise_score(), noise_score(total))
    np.testing.assert_array_equal(
        measures.column("noise_score"), noise_score(total).astype(np.float32)
    )
    assert measures.apply()[1].keys() == DEFAULT_RULES.keys()
    assert sorted(file.name for file in measures.path.iterdir()) == [
        "measures.json",
        "part-00000.parquet",
    ]


def test_any_parquet_reader_opens_the_parts(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_parts(monkeypatch)
    measures = measure(corpus_of(tmp_path, toy_pairs(10), toy_tokenizer), out=tmp_path / "measures")
    files = [measures.path / f"part-0000{i}.parquet" for i in range(3)]
    tables = [pq.read_table(file) for file in files]
    assert [len(table) for table in tables] == [4, 4, 2]
    for table in tables:
        assert tuple(table.column_names) == measures.names
        assert {str(kind) for kind in table.schema.types} == {"int64", "int32", "float"}
    for name in measures.names:
        rows = [value for table in tables for value in table[name].to_pylist()]
        assert measures.column(name).tolist() == rows


def test_threads_chunks_and_parts_do_not_matter(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [*toy_pairs(9), *toy_pairs(9), ("a b", "c d")]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    one = measure(corpus, out=tmp_path / "one", num_threads=1)
    expected = {name: one.column(name).tolist() for name in one.names}
    use_small_parts(monkeypatch)
    monkeypatch.setattr("pycat.data.parallel_text._CHUNK_LINES", 7)
    monkeypatch.setattr("pycat.data.parallel_text._BLOCK_BYTES", 200)
    three = measure(corpus, out=tmp_path / "three", num_threads=3)
    assert three.manifest["num_parts"] == 5
    assert {name: three.column(name).tolist() for name in three.names} == expected


def test_skipped_lines_are_left_out(tmp_path: Path, toy_tokenizer: Path) -> None:
    pairs = [number_pair(1), ("", "leer"), number_pair(2), ("copied line", "copied line")]
    measures = measure(corpus_of(tmp_path, pairs, toy_tokenizer), out=tmp_path / "measures")
    assert measures.column("src_chars").tolist() == [len(pairs[i][0]) for i in (0, 2, 3)]
    assert measures.column("overlap")[2] == 1


def test_a_chunk_without_a_kept_line_is_left_out(tmp_path: Path, toy_tokenizer: Path) -> None:
    # The text is read 1,024 lines at a time; the last chunk holds only an empty pair.
    pairs = [(f"house number {i}", f"Haus Nummer {i}") for i in range(1024)]
    corpus = corpus_of(tmp_path, [*pairs, ("", "")], toy_tokenizer)
    measures = measure(corpus, out=tmp_path / "measures", num_threads=1)
    assert len(measures) == 1024
    assert measures.column("src_chars")[-1] == len("house number 1023")


def test_a_subset_and_a_row_are_told_what_all_are_told(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_parts(monkeypatch)
    numbers = [number_pair(i) for i in (11, 342, 5, 18, 77, 2120, 13, 40)]
    pairs = [*numbers, ("1 dog", "2 Hunde"), numbers[1], ("same line", "same line"), numbers[1]]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    whole = measure(corpus.subset(np.array([1, 3])), out=tmp_path / "measures")
    assert len(whole) == 12
    subset = corpus.subset(np.array([1, 3, 8, 9, 10]))
    view = whole.of(subset)
    assert view.column("pair").tolist() == [1, 3, 8, 9, 10]
    for measures in (whole, view):
        hits = measures.hits()
        assert any(hit.any() for hit in hits.values())
        for row in range(len(measures)):
            assert set(measures.broken_by(row)) == {rule for rule, hit in hits.items() if hit[row]}
        for name in measures.names:
            values = measures.column(name)
            for first, end in ((0, 1), (2, 5), (3, 4), (4, 4)):
                assert measures.column(name, first, end).tolist() == values[first:end].tolist()
    # Of three equal pairs a subset without the first has one duplicate, not two.
    assert whole.hits()["duplicate"].sum() == 2
    assert whole.of(corpus.subset(np.array([9, 10, 11]))).hits()["duplicate"].sum() == 1
    with pytest.raises(PycatError, match=r"has no column 'no_such', expected one of pair, src_ch"):
        whole.column("no_such")


def test_noise_of_a_subset_keeps_the_order_and_adds_surprise(
    toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    measures = measure(toy_corpus, out=tmp_path / "measures")
    subset = toy_corpus.subset(np.arange(0, 300, 3))
    of_subset = measures.of(subset)
    order = np.argsort(of_subset.noise_score(), kind="stable").tolist()
    assert order == np.argsort(measures.noise_score()[::3], kind="stable").tolist()
    nll = np.random.default_rng(0).uniform(1, 9, (100, 3))
    table = make_scores(subset, nll)
    np.testing.assert_array_equal(of_subset.noise_score(table), of_subset.noise_score())
    columns = table.rows(table.names, 0, 100)
    for k, entropy in enumerate(np.random.default_rng(1).uniform(1, 9, (3, 100))):
        columns = columns.append_column(f"entropy_{k}", [entropy])
    more = pycat.ScoreTable.from_arrow(columns, table.manifest)
    surprised = surprise_evidence(more)
    assert surprised is not None
    total = measures.column("noise_evidence")[::3] + np.square(surprised)
    np.testing.assert_array_equal(of_subset.noise_score(more), noise_score(total))
    assert (of_subset.noise_score(more) != of_subset.noise_score()).any()
    with pytest.raises(PycatError, match="holds 100 pairs, expected the 300 of"):
        measures.noise_score(more)


def test_a_finished_folder_is_opened_as_it_is_and_another_corpus_refused(
    tmp_path: Path, toy_tokenizer: Path
) -> None:
    corpus = corpus_of(tmp_path / "one", toy_pairs(20), toy_tokenizer)
    out = tmp_path / "measures"
    measure(corpus, out=out)
    before = stamps(out)
    corpus.text().paths[0].unlink()  # not needed any more
    assert len(measure(corpus.path, out=out)) == 20
    assert stamps(out) == before
    other = corpus_of(tmp_path / "two", toy_pairs(30), toy_tokenizer)
    with pytest.raises(OutputError, match=r"measures folder was made with other options \(corpus"):
        measure(other, out=out)
    with pytest.raises(OutputError) as caught:
        Measures.open(out).of(other)
    assert str(caught.value) == (
        f"{out}: holds measures of another corpus than {other.path}, or of what it was before it "
        f"was made anew; run 'pycat measure --corpus {other.path} --out {out} --overwrite'"
    )
    assert stamps(out) == before
    assert len(measure(other, out=out, overwrite=True).of(other)) == 30


def _module_of(step: str) -> ModuleType:
    """The module whose function makes a step."""
    return stage if step == "_write_parts" else measure_steps


@pytest.mark.parametrize("stop", ["measure_text", "lexical_scores", "fluency", "_write_parts"])
def test_an_interrupted_run_goes_on_after_its_last_finished_step(
    toy_corpus: pycat.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    whole = measure(toy_corpus, out=tmp_path / "whole")
    out = tmp_path / "measures"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_module_of(stop), stop, Mock(side_effect=KeyboardInterrupt))
        measure(toy_corpus, out=out)
    with pytest.raises(OutputError, match="this measures folder is incomplete"):
        Measures.open(out)
    steps = ["measure_text", "lexical_scores", "fluency", "_write_parts"]
    for finished in steps[: steps.index(stop)]:
        again_is_an_error = Mock(side_effect=AssertionError("measured again"))
        monkeypatch.setattr(_module_of(finished), finished, again_is_an_error)
    again = measure(toy_corpus, out=out)
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.path.iterdir()}
    part = "part-00000.parquet"
    assert (again.path / part).read_bytes() == (whole.path / part).read_bytes()


def test_text_that_is_gone_is_said_and_a_later_run_goes_on(
    tmp_path: Path, toy_tokenizer: Path
) -> None:
    corpus = corpus_of(tmp_path, toy_pairs(20), toy_tokenizer)
    text = corpus.text().paths[0]
    content = text.read_bytes()
    text.unlink()
    with pytest.raises(TextError, match=r"text.tsv: the text of .* is gone; put it back"):
        measure(corpus, out=tmp_path / "measures")
    text.write_bytes(content)
    assert len(measure(corpus, out=tmp_path / "measures")) == 20


def test_a_full_disk_leaves_nothing_half_made(
    tmp_path: Path, toy_tokenizer: Path, file_size_limit: FileSizeLimit
) -> None:
    pairs = [(f"house number {i}", f"Haus Nummer {i}") for i in range(3000)]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    before = stamps(corpus.path)
    out = tmp_path / "measures"
    with file_size_limit(8192), pytest.raises(OSError, match=r"step-rules\.parquet"):
        measure(corpus, out=out)
    assert [file.name for file in out.iterdir()] == ["measures.json"]
    assert len(measure(corpus, out=out)) == 3000
    assert stamps(corpus.path) == before


def test_a_damaged_column_is_named_and_others_are_read(
    toy_corpus: pycat.Corpus, tmp_path: Path
) -> None:
    measures = measure(toy_corpus, out=tmp_path / "measures")
    damage_column(measures.path / "part-00000.parquet", "letters")
    measures = Measures.open(measures.path)
    assert measures.column("overlap").shape == (300,)
    assert measures.apply({"letters": None})[1]["copied"] == 0
    message = (
        r"part-00000\.parquet: these measures cannot be read \(column letters: .*\); delete "
        r".*measures and run 'pycat measure' again"
    )
    for read in (
        measures.apply,
        lambda: measures.broken_by(3),
        lambda: measures.column("letters"),
    ):
        with pytest.raises(OutputError, match=message):
            read()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "is missing"),
        ("cut", r"has [\d,]+ bytes, expected"),
        ("fewer rows", r"has [\d,]+ bytes, expected|is not as it was written"),
        ("other columns", r"has [\d,]+ bytes, expected"),
    ],
)
def test_a_damaged_part_is_refused_by_name(
    tmp_path: Path,
    toy_tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    message: str,
) -> None:
    use_small_parts(monkeypatch)
    measures = measure(corpus_of(tmp_path, toy_pairs(10), toy_tokenizer), out=tmp_path / "measures")
    part = measures.path / "part-00001.parquet"
    table = pq.read_table(part)
    if damage == "missing":
        part.unlink()
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    else:
        pq.write_table(
            table.slice(1) if damage == "fewer rows" else table.drop_columns(["letters"]), part
        )
    with pytest.raises(
        OutputError, match=rf"part-00001\.parquet: (?:{message}).*'pycat measure' again"
    ):
        Measures.open(measures.path)


def test_measures_of_older_definitions_are_refused_with_the_command(
    toy_corpus: pycat.Corpus, tmp_path: Path
) -> None:
    measures = measure(toy_corpus, out=tmp_path / "measures")
    file = measures.path / "measures.json"
    manifest = json.loads(file.read_text("utf-8"))
    manifest["recipe"]["definitions"] -= 1
    write_manifest(file, manifest)
    with pytest.raises(OutputError, match=r"of definitions 4, expected 5; .*measure --overwrite"):
        Measures.open(measures.path)
    with pytest.raises(OutputError, match=r"other options \(definitions was 4, now 5\)"):
        measure(toy_corpus, out=measures.path)
    assert len(measure(toy_corpus, out=measures.path, overwrite=True)) == 300


def test_tokens_alone_have_no_rules(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    corpus = tokens_of(toy_corpus)
    measures = measure(corpus, out=tmp_path / "measures")
    assert measures.names == ("pair", *LEXICAL, *FLUENCY, "noise_evidence", "noise_score")
    assert measures.manifest["without"] == {
        "rules": "the corpus was not made from text, which rules read"
    }
    kept, hits = measures.apply()
    assert kept.all()
    assert hits == {}
    assert len(np.unique(measures.noise_score())) == 300
    with pytest.raises(PycatError, match=r"no column 'overlap', .*; the corpus was not made from"):
        measures.column("overlap")


def test_measures_are_found_beside_the_scores_then_beside_the_corpus(
    toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    corpus = pycat.open_corpus(copytree(toy_corpus.path, tmp_path / "data" / "corpus"))
    nll = np.ones((300, 2))
    table = make_scores(corpus, nll, tmp_path / "work" / "scores")
    beside_scores = tmp_path / "work" / "measures"
    beside_corpus = (tmp_path / "data" / "measures").resolve()
    assert find_measures(table, corpus) is None
    assert str(no_measures(table, corpus)) == (
        f"{beside_scores} and {beside_corpus}: expected the measures of {corpus.path}, which rules "
        f"and noise filter read, found none of this corpus; run 'pycat measure --corpus "
        f"{corpus.path} --out {beside_scores}' (pycat.measure), name another folder (--measures, "
        "measures=...), or leave both out: --rules none --guard 0 (rules='none', guard=0)"
    )
    measure(corpus, out=beside_corpus)
    in_memory = make_scores(corpus, nll)
    for scores in (table, in_memory):
        found = find_measures(scores, corpus)
        assert found is not None and found.path == beside_corpus
    # Those of another corpus are passed over, and named where they are given.
    other = corpus_of(tmp_path / "other", toy_pairs(20), toy_corpus.path / "tokenizer.model")
    measure(other, out=beside_scores)
    found = find_measures(table, corpus)
    assert found is not None and found.path == beside_corpus
    with pytest.raises(OutputError, match="holds measures of another corpus than"):
        find_measures(table, corpus, beside_scores)
    assert f"--out {beside_scores} --overwrite' (pycat.measure)" in str(no_measures(table, corpus))
    measure(corpus, out=beside_scores, overwrite=True)
    found = find_measures(table, corpus)
    assert found is not None and found.path == beside_scores


def test_the_command_for_tokens_names_all_that_opens_them(
    toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    corpus = tokens_of(toy_corpus)
    table = make_scores(corpus, np.ones((300, 2)), tmp_path / "scores")
    assert (
        f"run 'pycat measure --corpus {corpus.path / 'src'} {corpus.path / 'tgt'} --languages "
        f"src,tgt --vocab-size {corpus.vocab_size} --eos-id {corpus.eos_id} --out "
        f"{tmp_path / 'measures'}' (pycat.measure)"
    ) in str(no_measures(table, corpus))
