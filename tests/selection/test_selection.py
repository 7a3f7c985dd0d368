"""Selection: exact counts, ties by pair id, and text that comes out as it went in."""

import errno
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import FileSizeLimit, MakeScores, SmallDisk, ToyText, plain_select
from numpy.typing import NDArray

import pycat
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.data.tokenizing import tokenize
from pycat.errors import OutputError, PycatError, TextError
from pycat.ranking.criteria import mean_of_ranks, random
from pycat.ranking.tie_keys import tie_keys
from pycat.ranking.top_k import highest
from pycat.report.page import write_report
from pycat.runtime.output import write_manifest
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection


def nll_of(corpus: Corpus, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(1, 50, (len(corpus), 2))


def keeping(ids: list[int]) -> Callable[[ScoreTable], NDArray[np.float64]]:
    """A criterion that ranks these pairs above all others."""

    def chosen(table: ScoreTable) -> NDArray[np.float64]:
        return np.isin(table.pair_ids, ids).astype(np.float64)

    return chosen


# round(keep * N), halves to the even number as Python rounds, and at least one.
@pytest.mark.parametrize(
    ("keep", "counts"),
    [
        (1e-9, {1: 1, 5: 1, 7: 1, 300: 1}),
        (0.1, {1: 1, 5: 1, 7: 1, 15: 2, 25: 2, 300: 30}),
        (1 / 3, {1: 1, 4: 1, 5: 2, 7: 2, 8: 3, 300: 100}),
        (0.5, {1: 1, 3: 2, 5: 2, 7: 4, 300: 150}),
        (1.0, {1: 1, 5: 5, 7: 7, 300: 300}),
        (1, {7: 7}),
    ],
)
def test_the_count_kept_is_exact(
    toy_corpus: Corpus, make_scores: MakeScores, keep: float, counts: dict[int, int]
) -> None:
    for num_pairs, count in counts.items():
        view = toy_corpus.subset(toy_corpus.pair_ids[:num_pairs])
        selection = plain_select(make_scores(view, nll_of(view)), keep=keep)
        assert len(selection) == len(selection.pair_ids) == count, num_pairs
        assert selection.manifest["num_kept"] == count


@pytest.mark.parametrize("by", ["cat_var", "cat_diff", "length", "random"])
def test_the_highest_scores_are_kept(toy_corpus: Corpus, make_scores: MakeScores, by: str) -> None:
    view = toy_corpus.subset(np.arange(1, 300, 3))
    table = make_scores(view, nll_of(view))
    ppl = np.exp(table.nll / table.num_tokens[:, None])
    scores = {
        "cat_var": (ppl[:, 0] - ppl[:, 1]) ** 2 / 4,  # population variance of two values
        "cat_diff": ppl[:, 0] - ppl[:, 1],
        "length": table.num_tokens,
        "random": random(table.pair_ids, 7),
    }[by]
    keys = tie_keys(view, 7)(np.arange(len(view))).tolist()
    ranked = [
        (score, pair)
        for score, _, pair in sorted(
            zip((-scores).tolist(), keys, view.pair_ids.tolist(), strict=True)
        )
    ]
    selection = plain_select(table, keep=0.3, by=by, seed=7)
    assert selection.pair_ids.dtype == np.int64
    assert selection.pair_ids.tolist() == sorted(pair for _, pair in ranked[:30])
    assert selection.manifest["threshold"] == pytest.approx(-ranked[29][0], rel=1e-12)
    if by == "length":
        assert ranked[29][0] == ranked[30][0]  # the cut goes through a tie


def test_equal_scores_are_kept_by_their_text(toy_corpus: Corpus, make_scores: MakeScores) -> None:
    table = make_scores(toy_corpus, np.ones((300, 2)))
    constant = plain_select(table, keep=0.1, by=lambda given: np.full(300, -2.5))
    keys = tie_keys(toy_corpus)(np.arange(300))
    assert constant.pair_ids.tolist() == sorted(np.argsort(keys)[:30].tolist())
    assert constant.manifest["ties"] == {"criterion": {"num_pairs": 300, "num_before": 30}}
    assert highest(np.array([1.0, 3.0, 2.0, 3.0, 2.0, 2.0]), 4).tolist() == [1, 2, 3, 4]
    assert highest(np.array([-np.inf, np.inf, 0.0, np.inf]), 2).tolist() == [1, 3]


@pytest.mark.parametrize("keep", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_out_of_range_is_refused(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path, keep: float
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus))
    with pytest.raises(PycatError) as caught:
        plain_select(table, keep=keep, out=tmp_path / "out")
    assert str(caught.value) == (
        f"keep is {keep}; expected a fraction above 0 and at most 1, such as 0.5, or a range of "
        "the ranking, such as (0.2, 0.7)"
    )
    assert not (tmp_path / "out").exists()


def test_a_selection_folder_round_trip(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    nll = nll_of(toy_corpus)
    make_scores(toy_corpus, nll, tmp_path / "scores")
    out = tmp_path / "selection"
    kept = plain_select(tmp_path / "scores", keep=0.25, by="cat_diff", out=out)
    in_memory = plain_select(make_scores(toy_corpus, nll), keep=0.25, by="cat_diff")
    reopened = Selection.open(out)
    for selection in (kept, reopened, in_memory):
        assert selection.pair_ids.tolist() == kept.pair_ids.tolist()
        assert selection.corpus_path == toy_corpus.path.resolve()
        assert selection.corpus().id == toy_corpus.id
        facts = dict(selection.manifest)
        assert facts["num_pairs"] == 300
        assert facts["num_kept"] == len(selection) == 75
        assert facts["num_tokens"] == toy_corpus.num_tokens.sum()
        assert facts["num_tokens_kept"] == toy_corpus.num_tokens[kept.pair_ids].sum()
        recipe = facts["recipe"]
        assert (recipe["criterion"], recipe["keep"], recipe["seed"]) == ("cat_diff", 0.25, None)
    table = pq.read_table(out / "kept.parquet")
    assert table.schema.equals(pa.schema([("pair", pa.int64()), ("line", pa.int64())]))
    assert table["pair"].to_pylist() == kept.pair_ids.tolist()
    assert table["line"].to_pylist() == (kept.pair_ids + 1).tolist()


def test_the_line_column_counts_skipped_lines(
    tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores
) -> None:
    (tmp_path / "a.en").write_text("\none\ntwo\n\nthree\n")
    (tmp_path / "a.de").write_text("x\neins\nzwei\nx\ndrei\n")
    corpus = tokenize(
        tmp_path / "a.en", tmp_path / "a.de", out=tmp_path / "corpus", tokenizer=toy_tokenizer
    )
    table = make_scores(corpus, np.ones((3, 2)))
    plain_select(table, keep=0.67, by=keeping([0, 2]), out=tmp_path / "selection")
    rows = pq.read_table(tmp_path / "selection" / "kept.parquet").to_pylist()
    assert rows == [{"pair": 0, "line": 2}, {"pair": 2, "line": 5}]


def test_a_finished_selection_is_not_made_again_and_a_changed_option_is_refused(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus))
    out = tmp_path / "selection"
    first = plain_select(table, keep=0.25, out=out, seed=1)
    (out / "notes.txt").write_text("mine")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()}
    again = plain_select(table, keep=0.25, out=out, seed=2)  # a seed that cat_var does not use
    assert again.pair_ids.tolist() == first.pair_ids.tolist()
    for options, change in (
        ({"keep": 0.5}, "keep was 0.25, now 0.5"),
        ({"keep": 0.25, "by": "length"}, 'criterion was "cat_var", now "length"'),
        (
            {"keep": 0.25, "by": "random", "seed": 3},
            'criterion was "cat_var", now "random"; seed was null, now 3',
        ),
    ):
        with pytest.raises(OutputError) as caught:
            plain_select(table, out=out, **options)
        assert str(caught.value) == (
            f"{out}: this selection folder was made with other options ({change}); pass "
            "--overwrite (overwrite=True) to replace it, or choose another folder"
        )
    assert before == {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()
    }
    assert len(plain_select(table, keep=0.5, out=out, overwrite=True)) == 150
    assert (out / "notes.txt").read_text() == "mine"


def test_functions_of_one_name_are_told_apart(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus))
    out = tmp_path / "selection"
    first = plain_select(table, keep=0.5, by=lambda given: given.nll[:, 0], out=out)
    same = plain_select(table, keep=0.5, by=lambda given: given.nll[:, 0], out=out)
    assert same.pair_ids.tolist() == first.pair_ids.tolist()
    with pytest.raises(OutputError, match=r"other options \(hashes was"):
        plain_select(table, keep=0.5, by=lambda given: -given.nll[:, 0], out=out)


def test_a_call_that_fails_does_not_claim_the_folder(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus))
    with pytest.raises(PycatError, match="criterion 'cat_vra' is not known"):
        plain_select(table, keep=0.5, by="cat_vra", out=tmp_path / "selection")
    assert len(plain_select(table, keep=0.5, out=tmp_path / "selection")) == 150


def test_a_corpus_made_anew_is_refused(
    toy_text: ToyText, toy_tokenizer: Path, make_scores: MakeScores, tmp_path: Path
) -> None:
    text, out = toy_text(60), tmp_path / "corpus"
    corpus = tokenize(*text, out=out, tokenizer=toy_tokenizer)
    table = make_scores(corpus, nll_of(corpus), tmp_path / "scores")
    selection = plain_select(table, keep=0.5, out=tmp_path / "selection")
    tokenize(*text, out=out, tokenizer=toy_tokenizer, max_tokens=12, overwrite=True)
    with pytest.raises(PycatError) as caught:
        plain_select(table, keep=0.25)
    assert str(caught.value) == (
        f"{out.resolve()}: the corpus was made anew since it was scored; run 'pycat score' again"
    )
    with pytest.raises(PycatError) as caught:
        selection.write_text(tmp_path / "o.en", tmp_path / "o.de")
    assert str(caught.value) == (
        f"{out.resolve()}: the corpus was made anew since these pairs were selected; score and "
        "select again"
    )
    assert not (tmp_path / "o.en").exists()


def test_a_moved_work_folder_still_finds_its_corpus(
    tmp_path: Path, toy_corpus: Corpus, make_scores: MakeScores
) -> None:
    work = tmp_path / "work"
    corpus = open_corpus(shutil.copytree(toy_corpus.path, work / "corpus"))
    table = make_scores(corpus, nll_of(corpus), work / "scores")
    selection = plain_select(table, keep=0.1, out=work / "deeper" / "selection")
    moved = work.rename(tmp_path / "elsewhere")
    reopened = Selection.open(moved / "deeper" / "selection")
    assert reopened.corpus_path == (moved / "corpus").resolve()
    assert reopened.corpus().id == corpus.id
    assert reopened.pair_ids.tolist() == selection.pair_ids.tolist()


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "other columns"])
def test_a_damaged_selection_is_refused_by_name(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "selection"
    plain_select(make_scores(toy_corpus, nll_of(toy_corpus)), keep=0.5, out=out)
    file = out / "kept.parquet"
    data = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    if damage == "missing":
        file.unlink()
    elif damage == "other columns":
        pq.write_table(pa.table({"line": [1]}), file)
    else:
        file.write_bytes(data if damage == "flipped" else data[:-9])
    with pytest.raises(OutputError) as caught:
        Selection.open(out)
    how = {"missing": "is missing", "flipped": "cannot be read ("}.get(damage, "has ")
    assert str(caught.value).startswith(f"{file}: {how}")
    assert str(caught.value).endswith("; run 'pycat select' again with --overwrite")


HOSTILE_SRC = [
    b"one\r\n",
    b"two \r two\n",
    b"\n",
    b"three\t\0 three\n",
    "four \u2028 four \u0085\n".encode(),
    b" \r\n",
    b" five  five \r\r\n",
    b"six",
]
HOSTILE_TGT = [
    b"eins\n",
    b"zwei\tzwei\r\n",
    b"leer\n",
    b"drei\n",
    b"vier \v\f\x1c vier\n",
    b"leer\n",
    "fünf\r\n".encode(),
    b"sechs\n",
]
HOSTILE_LINES = [0, 1, 3, 4, 6, 7]  # of the pairs: lines 2 and 5 have an empty side


@pytest.fixture
def hostile(tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores) -> ScoreTable:
    src, tgt = tmp_path / "in.en", tmp_path / "in.de"
    src.write_bytes(b"".join(HOSTILE_SRC))
    tgt.write_bytes(b"".join(HOSTILE_TGT))
    corpus = tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    return make_scores(corpus, nll_of(corpus))


@pytest.mark.parametrize("pairs", [[0, 1, 2, 3, 4, 5], [0, 3], [2, 4, 5], [5]])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_pruned_text_is_the_input_byte_for_byte(
    hostile: ScoreTable, tmp_path: Path, pairs: list[int], suffix: str
) -> None:
    src, tgt = tmp_path / f"out.en{suffix}", tmp_path / f"out.de{suffix}"
    plain_select(hostile, keep=len(pairs) / 6, by=keeping(pairs)).write_text(src, tgt)
    for path, lines in ((src, HOSTILE_SRC), (tgt, HOSTILE_TGT)):
        data, expected = path.read_bytes(), b"".join(lines[HOSTILE_LINES[pair]] for pair in pairs)
        if suffix == ".gz":
            data = gzip.decompress(data)
        elif suffix == ".zst":
            data = pa.decompress(data, len(expected), codec="zstd", asbytes=True)
        assert data == expected


def test_tsv_keeps_all_columns_or_gives_both_sides(
    tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores
) -> None:
    lines = [
        b"one\teins\t0.5\thttp://x \r\n",
        b"\tleer\n",
        b"two \r two\tzwei\n",
        b"three\tdrei\t\t\0\n",
        b"four\tvier\tlast",
    ]
    tsv = tmp_path / "in.tsv"
    tsv.write_bytes(b"".join(lines))
    corpus = tokenize(tsv=tsv, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    table = make_scores(corpus, nll_of(corpus))
    selection = plain_select(table, keep=0.75, by=keeping([0, 2, 3]))
    selection.write_tsv(tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_bytes() == lines[0] + lines[3] + lines[4]
    selection.write_tsv(tmp_path / "out.tsv.gz")
    packed = gzip.decompress((tmp_path / "out.tsv.gz").read_bytes())
    assert packed == lines[0] + lines[3] + lines[4]
    selection.write_text(tmp_path / "out.en", tmp_path / "out.de")
    assert (tmp_path / "out.en").read_bytes() == b"one\nthree\nfour\n"
    assert (tmp_path / "out.de").read_bytes() == b"eins\ndrei\nvier\n"
    with pytest.raises(OutputError, match="this is the text being pruned; write to another file"):
        selection.write_tsv(tsv)
    assert tsv.read_bytes() == b"".join(lines)


def test_tsv_is_refused_where_the_text_is_two_files(hostile: ScoreTable, tmp_path: Path) -> None:
    selection = plain_select(hostile, keep=0.5)
    with pytest.raises(PycatError) as caught:
        selection.write_tsv(tmp_path / "out.tsv")
    assert str(caught.value) == (
        f"{selection.corpus_path}: the text is two files, not tab-separated; name two files to "
        "write (write_text, --text SRC TGT)"
    )
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("side", [0, 1])
def test_the_input_is_never_written_over(hostile: ScoreTable, tmp_path: Path, side: int) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "in.en")
    for source in ("in.en", "in.de", "link"):
        outs = [tmp_path / "out", tmp_path / "out"]
        outs[side] = tmp_path / source
        with pytest.raises(OutputError) as caught:
            plain_select(hostile, keep=0.5).write_text(*outs)
        assert str(caught.value) == (
            f"{outs[side]}: this is the text being pruned; write to another file"
        )
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "in.en").read_bytes() == b"".join(HOSTILE_SRC)
    assert (tmp_path / "in.de").read_bytes() == b"".join(HOSTILE_TGT)


def test_changed_text_is_refused_and_old_output_left(hostile: ScoreTable, tmp_path: Path) -> None:
    outs = tmp_path / "out.en", tmp_path / "out.de"
    selection = plain_select(hostile, keep=0.5)
    for out in outs:
        out.write_bytes(b"old\n")
    with (tmp_path / "in.de").open("ab") as file:
        file.write(b"sieben\n")
    with pytest.raises(TextError, match=r"in\.de: changed since .* was made from it"):
        selection.write_text(*outs)
    assert [out.read_bytes() for out in outs] == [b"old\n", b"old\n"]


@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_is_named_and_the_next_run_succeeds(
    hostile: ScoreTable, tmp_path: Path, small_disk: SmallDisk, full: int
) -> None:
    disk = small_disk(16)
    (disk / "filler").write_bytes(bytes(16 << 10))
    outs = [tmp_path / "out.en", tmp_path / "out.de"]
    outs[full] = disk / "out"
    selection = plain_select(hostile, keep=1)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError) as caught:
        selection.write_text(*outs)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(outs[full]))
    assert sorted(tmp_path.iterdir()) == before
    assert [file.name for file in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    selection.write_text(*outs)
    lines = HOSTILE_TGT if full else HOSTILE_SRC
    assert outs[full].read_bytes() == b"".join(lines[line] for line in HOSTILE_LINES)


def test_a_file_too_large_is_named_and_the_next_run_succeeds(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path, file_size_limit: FileSizeLimit
) -> None:
    selection = plain_select(make_scores(toy_corpus, nll_of(toy_corpus)), keep=1)
    outs = tmp_path / "out.en", tmp_path / "out.de"
    with file_size_limit(1000), pytest.raises(OSError) as caught:
        selection.write_text(*outs)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename in map(str, outs)
    assert list(tmp_path.iterdir()) == []
    selection.write_text(*outs)
    texts = toy_corpus.text().paths
    assert [out.read_bytes() for out in outs] == [text.read_bytes() for text in texts]


def test_an_existing_file_is_replaced_only_when_told(
    make_scores: MakeScores, toy_corpus: pycat.Corpus, tmp_path: Path
) -> None:
    nll = np.random.default_rng(0).uniform(5, 50, (len(toy_corpus), 2))
    kept = plain_select(make_scores(toy_corpus, nll), keep=0.1)
    src, tgt = tmp_path / "half.en", tmp_path / "half.de"
    tgt.write_text("mine")
    with pytest.raises(OutputError, match=r"half.de: this file exists; pass --overwrite"):
        kept.write_text(src, tgt)
    assert tgt.read_text() == "mine"
    assert not src.exists()
    kept.write_text(src, tgt, overwrite=True)
    assert len(tgt.read_bytes().splitlines()) == 30


def test_a_selection_applies_to_another_text_of_the_same_lines(
    tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores
) -> None:
    (tmp_path / "a.en").write_text("\none\ntwo\n\nthree\n")
    (tmp_path / "a.de").write_text("x\neins\nzwei\nx\ndrei\n")
    corpus = tokenize(
        tmp_path / "a.en", tmp_path / "a.de", out=tmp_path / "corpus", tokenizer=toy_tokenizer
    )
    table = make_scores(corpus, np.ones((3, 2)))
    made = plain_select(table, keep=0.67, by=keeping([0, 2]), out=tmp_path / "selection")
    in_memory = plain_select(table, keep=0.67, by=keeping([0, 2]))
    assert made.kept_corpus().pair_ids.tolist() == [0, 2]
    # Whoever has the selection alone can apply it.
    shutil.rmtree(corpus.path)
    fr, sw, tsv = tmp_path / "o.fr", tmp_path / "o.sw", tmp_path / "o.tsv"
    fr.write_bytes(b"0\n1\r\n2\n3\n4")
    sw.write_bytes(b"a\nb\nc\nd\ne\n")
    tsv.write_bytes(b"0\ta\tx\n1\tb\ty\n2\tc\n3\td\n4\te\tz\n")
    for selection in (Selection.open(made.path or ""), in_memory):
        assert selection.lines.tolist() == [1, 4]
        out = tmp_path / "k.fr", tmp_path / "k.sw"
        selection.write_text(*out, of=(fr, sw), overwrite=True)
        assert [path.read_bytes() for path in out] == [b"1\r\n4", b"b\ne\n"]
        selection.write_text(*out, of=tsv, overwrite=True)
        assert [path.read_bytes() for path in out] == [b"1\n4\n", b"b\ne\n"]
        selection.write_tsv(tmp_path / "k.tsv", of=tsv, overwrite=True)
        assert (tmp_path / "k.tsv").read_bytes() == b"1\tb\ty\n4\te\tz\n"
        with pytest.raises(OutputError, match="this is the text being pruned"):
            selection.write_tsv(tsv, of=tsv, overwrite=True)


@pytest.mark.parametrize("count", [299, 301])
def test_a_text_of_other_lines_is_refused_and_nothing_written(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path, count: int
) -> None:
    selection = plain_select(make_scores(toy_corpus, nll_of(toy_corpus)), keep=0.5)
    src, tgt = tmp_path / "o.en", tmp_path / "o.de"
    for path in (src, tgt):
        path.write_text("x\n" * count)
    with pytest.raises(TextError) as caught:
        selection.write_text(tmp_path / "k.en", tmp_path / "k.de", of=(src, tgt))
    assert str(caught.value) == (
        f"{src}, {tgt}: found {count} lines, but the pairs were selected from text of 300; pass a "
        "text of the same lines"
    )
    assert sorted(tmp_path.iterdir()) == [tgt, src]


def test_a_recipe_of_every_option_is_recorded_and_opened_again(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    make_scores(toy_corpus, nll_of(toy_corpus), tmp_path / "scores")
    options: dict[str, Any] = {
        "keep": 0.4,
        "by": "random",
        "unit": "tokens",
        "drop": {"-ppl@0": 0.1, "length": 0.2},
        "strata": "length",
        "num_strata": 4,
        "seed": 3,
        "out": tmp_path / "selection",
    }
    made = plain_select(tmp_path / "scores", **options)
    recipe = dict(made.manifest["recipe"])
    del recipe["scores"]
    assert recipe == {
        "criterion": "random",
        "keep": 0.4,
        "seed": 3,
        "unit": "tokens",
        "num_strata": 4,
        "drop": [["-ppl@0", 0.1], ["length", 0.2]],
        "strata": "length",
    }
    again = plain_select(tmp_path / "scores", **options)
    assert again.pair_ids.tolist() == made.pair_ids.tolist()
    with pytest.raises(OutputError, match=r"other options \(num_strata was 4, now 5\)"):
        plain_select(tmp_path / "scores", **{**options, "num_strata": 5})


def contents(*folders: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and time of change of every file below these folders."""
    return {
        file: (file.read_bytes(), file.stat().st_mtime_ns)
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_default_recipe_reads_measures_and_writes_nothing_into_its_input(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus), tmp_path / "scores")
    recipe = {**table.manifest["recipe"], "checkpoints": ["one", "two"]}
    write_manifest(
        tmp_path / "scores" / "scores.json", {**table.manifest, "recipe": recipe, "torch": "2"}
    )
    table = ScoreTable.open(tmp_path / "scores")
    measures = pycat.measure(toy_corpus, out=tmp_path / "measures")
    inputs = [toy_corpus.path, tmp_path / "scores", tmp_path / "measures"]
    before = contents(*inputs)
    found = pycat.select(tmp_path / "scores", keep=0.3, out=tmp_path / "selection")
    given = pycat.select(table, keep=0.3, measures=measures)
    by_path = pycat.select(make_scores(toy_corpus, table.nll), keep=0.3, measures=measures.path)
    # By hand: the rules, then half of the 210 that go by noise, then the highest mean of ranks.
    left, hits = measures.apply()
    suspect = np.flatnonzero(left)[np.argsort(-measures.noise_score()[left], kind="stable")]
    dropped = found.manifest["dropped"]
    assert dropped["guard"] == min(105, int(left.sum()) - 90)
    left[suspect[: dropped["guard"]]] = False
    rows = np.flatnonzero(left)
    fall = (table.nll[:, 0] - table.nll[:, 1]) / table.num_tokens
    mean_rank = mean_of_ranks([fall, -measures.noise_score()])
    best = rows[np.argsort(-mean_rank[rows], kind="stable")[:90]]
    for selection in (found, given, by_path):
        assert selection.pair_ids.tolist() == sorted(best.tolist())
        assert selection.manifest["rule_hits"] == hits
        assert selection.manifest["recipe"]["guard"] == 0.5
        assert selection.manifest["recipe"]["rules"] == pycat.DEFAULT_RULES
    explained = pycat.explain(table, int(suspect[0]), selection=tmp_path / "selection")
    assert explained.decision is not None and explained.decision.step == "guard"
    write_report(tmp_path / "report.html", found, table, timings={})
    assert contents(*inputs) == before


def test_without_a_criterion_each_cluster_keeps_its_share(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus))
    measures = pycat.measure(toy_corpus, out=tmp_path / "measures")
    clusters = np.arange(300) % 3
    table.add("cluster", clusters)
    plain = {"measures": measures, "rules": "none"}
    kept = pycat.select(table, **plain)
    assert kept.manifest["recipe"]["strata"] == "cluster"
    # The noise filter takes 75 pairs, and of the rest each cluster keeps the same share.
    noise = measures.noise_score()
    left = np.ones(300, bool)
    left[np.argsort(-noise, kind="stable")[:75]] = False
    sizes = np.bincount(clusters[left])
    of_clusters = np.bincount(clusters[kept.pair_ids])
    assert np.abs(of_clusters - sizes * 150 / 225).max() < 1
    for other in ({"by": "noise"}, {"part": "bottom"}, {"keep": (0.2, 0.7)}):
        assert "strata" not in pycat.select(table, **plain, **other).manifest["recipe"]
    by_length = pycat.select(table, strata="length", **plain).manifest["recipe"]
    assert by_length["strata"] == "length" and by_length["criterion"] == "learnability+noise"
    unmeasured = pycat.select(table, rules="none", guard=0).manifest["recipe"]
    assert unmeasured["strata"] == "cluster" and unmeasured["criterion"] == "learnability"


def test_missing_measures_are_named_with_the_command(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus), tmp_path / "scores")
    command = (
        f"pycat measure --corpus {toy_corpus.path.resolve()} --out {tmp_path / 'measures'}' "
        r"\(pycat.measure\), name another folder \(--measures, measures=...\), or leave both out"
    )
    for options in ({}, {"rules": "none"}, {"guard": 0}):
        with pytest.raises(OutputError, match=command):
            pycat.select(table, out=tmp_path / "selection", **options)
    with pytest.raises(OutputError, match=r"measures.json: expected the manifest .*no such folder"):
        pycat.select(table, measures=tmp_path / "measures")
    assert not (tmp_path / "selection").exists()
    assert len(plain_select(table)) == 150


def test_tokens_alone_have_a_noise_filter_and_no_rules(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    prefixes = toy_corpus.path / "src", toy_corpus.path / "tgt"
    corpus = open_corpus(prefixes, vocab_size=toy_corpus.vocab_size, eos_id=toy_corpus.eos_id)
    table = make_scores(corpus, nll_of(corpus))
    table.manifest = {**table.manifest, "corpus_options": corpus.options}
    without = {"rules": "the corpus was not made from text, which rules read"}
    assert pycat.select(table, guard=0).manifest["without"] == without
    with pytest.raises(OutputError, match=r"pycat measure --corpus \S+/src \S+/tgt --languages"):
        pycat.select(table)
    measures = pycat.measure(corpus, out=tmp_path / "measures")
    kept = pycat.select(table, measures=measures)
    assert kept.manifest["without"] == without
    assert kept.manifest["dropped"] == {"guard": 75, "criterion": 75}


def test_rules_that_leave_nothing_say_how_many_each_hits(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, nll_of(toy_corpus), tmp_path / "scores")
    pycat.measure(toy_corpus, out=tmp_path / "measures")
    with pytest.raises(PycatError) as caught:
        pycat.select(table, rules={**dict.fromkeys(pycat.DEFAULT_RULES), "letters": 1.1})
    assert str(caught.value) == (
        "the rules leave none of 300 pairs (hits: letters 300); loosen their thresholds, or pass "
        "--rules none (rules='none')"
    )


def old_layout(corpus: Corpus, table: ScoreTable) -> None:
    """What an earlier pycat left: rules beside the corpus, noise columns beside the scores."""
    facts = {"format": "pycat.rules.2", "corpus": corpus.manifest["id"], "without": {}}
    rules = pa.table({"pair": np.arange(len(corpus)), "overlap": np.ones(len(corpus), np.float32)})
    pq.write_table(
        rules.replace_schema_metadata({"pycat": json.dumps(facts)}), corpus.path / "rules.parquet"
    )
    names = ("lexical_tgt", "lexical_src", "gap_tgt", "gap_src", "order_tgt", "order_src", "ending")
    for name in names:
        table.add(name, np.zeros(len(table), np.float32))
    table.add("noise_score", np.arange(len(table)) / len(table))


def test_folders_of_an_earlier_pycat_open_and_what_they_measured_is_not_read(
    toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    corpus = open_corpus(shutil.copytree(toy_corpus.path, tmp_path / "corpus"))
    table = make_scores(corpus, nll_of(corpus), tmp_path / "scores")
    old_layout(corpus, table)
    before = contents(tmp_path)
    opened = ScoreTable.open(tmp_path / "scores")
    with pytest.raises(
        OutputError, match=r"expected the measures of .*; run 'pycat measure --corp"
    ):
        pycat.select(opened)
    assert pycat.explain(opened, 3).rules is None
    assert plain_select(opened, by="-noise_score").pair_ids.tolist() == list(range(150))
    assert contents(tmp_path) == before
    # By its rules every pair would be a copy, and by its noise the last pairs would go.
    measures = pycat.measure(corpus, out=tmp_path / "measures")
    kept = pycat.select(opened, keep=0.3)
    expected = pycat.select(make_scores(toy_corpus, opened.nll), keep=0.3, measures=measures)
    assert kept.pair_ids.tolist() == expected.pair_ids.tolist()
    assert kept.manifest["rule_hits"]["copied"] == 0
    # Made anew, the corpus loses the old file.
    tokenize(
        *corpus.text().paths,
        out=corpus.path,
        tokenizer=toy_corpus.path / "tokenizer.model",
        max_tokens=400,
        overwrite=True,
    )
    assert not (corpus.path / "rules.parquet").exists()
