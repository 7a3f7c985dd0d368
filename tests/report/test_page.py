"""The report's page: numbers, order and escaping, for every kind of selection."""

import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import plain_select
from numpy.typing import NDArray

import pycat
from pycat import report
from pycat.cli.main import main
from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.evaluation.results import Evaluation, Translated
from pycat.filters.rules import DEFAULT_RULES
from pycat.ranking.criteria import cat_var
from pycat.report import page as report_page
from pycat.report.evaluation_page import write_evaluation_page
from pycat.report.formatting import duration, number, series, signed
from pycat.report.page import write_report
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection
from pycat.selection.stability import jaccard

TIMINGS = {"tokenize": 0.5, "train": 75.0, "score": 20.0, "select": 0.004}
VOID = {"meta", "br", "link", "img", "hr", "input"}
HOSTILE = "<script>alert('x')</script> & \"so\" on"
RIGHT_TO_LEFT = "\u202eשלום עולם مرحبا"

Made = tuple[Corpus, ScoreTable]


class Page(HTMLParser):
    """Parser of a page: checks that every element is closed, and gathers tables and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.paragraphs: list[tuple[dict[str, str | None], str]] = []
        self.tags: set[str] = set()
        self.captions = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "p":
            self.paragraphs.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)
        elif tag == "br":
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> opens nowhere"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "caption" in self.open:
            self.captions += data
        if self.paragraphs and "p" in self.open:
            attributes, text = self.paragraphs[-1]
            self.paragraphs[-1] = attributes, text + data

    def table(self, heading: str) -> list[list[str]]:
        """Rows of the first table that has this heading."""
        return self.all_tables(heading)[0]

    def all_tables(self, heading: str) -> list[list[list[str]]]:
        """Rows, blanks joined, of each table that has this heading."""
        tables = [
            [[" ".join(cell.split()) for cell in row] for row in table] for table in self.tables
        ]
        return [rows for rows in tables if heading in rows[0]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    def make_table(
        lines: list[tuple[str, str]],
        ppl: NDArray[np.float64] | None = None,
        *,
        num_checkpoints: int = 3,
        steps: list[int] | None = None,
        suffixes: tuple[str, str] = ("xx", "he"),
    ) -> Made:
        paths = [tmp_path / f"text.{suffix}" for suffix in suffixes]
        for path, side in zip(paths, zip(*lines, strict=True), strict=True):
            path.write_text("\n".join(side) + "\n", "utf-8")
        corpus = pycat.tokenize(
            *paths, out=tmp_path / "corpus", vocab_size=400, model_type="bpe", max_tokens=2000
        )
        if ppl is None:
            noise = np.random.default_rng(3).normal(0, 1, (len(corpus), num_checkpoints))
            ppl = np.exp(5 + noise - 0.5 * np.arange(num_checkpoints))
        nll: NDArray[np.float64] = np.log(ppl) * corpus.num_tokens[:, None]
        return corpus, table(corpus, nll, steps)

    return make_table


def table(corpus: Corpus, nll: NDArray[np.float64], steps: list[int] | None = None) -> ScoreTable:
    num_checkpoints = nll.shape[1]
    manifest = {
        "recipe": {
            "corpus": corpus.id,
            "checkpoints": [f"{k:064x}" for k in range(num_checkpoints)],
            "device": "cpu",
            "dtype": "float32",
        },
        "corpus": corpus.id,
        "corpus_path": str(corpus.path.resolve()),
        "steps": steps or [100 * (k + 1) for k in range(num_checkpoints)],
        "torch": "2.x",
    }
    columns = {
        "pair": corpus.pair_ids,
        "num_src_tokens": corpus.num_src_tokens,
        "num_tokens": corpus.num_tokens,
        **{f"nll_{k}": nll[:, k] for k in range(num_checkpoints)},
    }
    return ScoreTable.from_arrow(pa.table(columns), manifest)


def invented(count: int) -> list[tuple[str, str]]:
    words = ["mo", "karu", "tesi", "lafon", "brim", "oda", "senek", "wuli"]
    rng = np.random.default_rng(7)
    return [
        (f"n{i} {' '.join(rng.choice(words, 1 + i % 9))}", f"z{i} {' '.join(rng.choice(words, 3))}")
        for i in range(count)
    ]


def write(tmp_path: Path, selection: Selection, scores: ScoreTable, **more: Any) -> str:
    path = write_report(tmp_path / "report.html", selection, scores, timings=TIMINGS, **more)
    assert path == tmp_path / "report.html"
    return path.read_text("utf-8")


def ranks(rows: list[list[str]]) -> list[int]:
    return [int(row[0].split(" ")[0].replace(",", "")) for row in rows[1:]]


def test_headline_and_properties(tmp_path: Path, make: Callable[..., Made]) -> None:
    corpus, scores = make(invented(1200))
    selection = plain_select(scores, keep=0.25)
    text = write(tmp_path, selection, scores)
    assert "<h1>Kept 300 of 1,200 pairs (25.0%)</h1>" in text
    kept_tokens = int(corpus.num_tokens[selection.pair_ids].sum())
    total = int(corpus.num_tokens.sum())
    flat = " ".join(unescape(re.sub("<[^>]*>", " ", text)).split())
    assert f"{kept_tokens:,} of {total:,}, {100 * kept_tokens / total:.1f}%" in flat
    assert f"Threshold {number(selection.manifest['threshold'])}" in flat
    assert "criterion cat_var , keep 0.25" in flat
    assert "3 at updates 100, 200, 300" in flat
    rows = Page(text).table("property of a pair")
    first = scores.ppl[:, 0]
    kept = np.isin(corpus.pair_ids, selection.pair_ids)
    ranks_of = [np.argsort(np.argsort(x)) for x in (cat_var(scores.ppl), first)]
    rho = np.asarray(np.corrcoef(ranks_of))[0, 1]
    assert rows[1][0] == "first-checkpoint perplexity"
    assert rows[1][1] == f"{rho:+.2f}"
    for cell, group in zip(rows[1][3:], (kept, ~kept), strict=True):
        assert float(cell) == pytest.approx(np.median(first[group]), rel=0.01)


def test_extremes_come_in_the_order_of_the_scores(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    lines = invented(90)
    lines.insert(4, ("", "a line without a source"))
    corpus, scores = make(lines)
    values = cat_var(scores.ppl)
    page = Page(write(tmp_path, plain_select(scores, keep=0.5), scores))
    pairs = page.all_tables("source and target")
    order = np.argsort(-values, kind="stable")
    for rows, expected in ((pairs[0], order[:20]), (pairs[1], order[::-1][:20])):
        assert len(rows) == 21
        for row, pair in zip(rows[1:], expected.tolist(), strict=True):
            line = pair + 1 if pair < 4 else pair + 2
            rank = int(np.flatnonzero(order == pair)[0]) + 1
            assert row[0] == f"{rank} line {line}"
            assert row[1] == " ".join(lines[line - 1])
            assert row[2] == number(values[pair])
            assert row[3] == f"{number(scores.ppl[pair, 0])} → {number(scores.ppl[pair, -1])}"
            assert row[4] == f"{corpus.num_src_tokens[pair]} → {corpus.num_tokens[pair]}"
    assert "20 highest scores, all kept" in page.captions
    assert "20 lowest scores, all dropped" in page.captions
    threshold_kept, threshold_dropped, random_kept, random_dropped = pairs[2:]
    assert ranks(threshold_kept) == list(range(36, 46))
    assert ranks(threshold_dropped) == list(range(46, 56))
    assert len(random_kept) == len(random_dropped) == 11
    assert max(ranks(random_kept)) <= 45 < min(ranks(random_dropped))
    assert page.table("reason")[1] == ["empty source", "1"]


def test_text_is_escaped_tagged_and_cut(tmp_path: Path, make: Callable[..., Made]) -> None:
    long = "lorum " * 120
    lines = [(HOSTILE, RIGHT_TO_LEFT), ("a\x07bell", long), *invented(4)]
    _, scores = make(lines)
    text = write(tmp_path, plain_select(scores, keep=0.5), scores)
    page = Page(text)
    assert "<script" not in text
    assert "script" not in page.tags
    by_text = {" ".join(content.split()): attributes for attributes, content in page.paragraphs}
    assert by_text[" ".join(HOSTILE.split())] == {"dir": "auto", "lang": "xx"}
    assert by_text[RIGHT_TO_LEFT] == {"dir": "auto", "lang": "he"}
    assert by_text["a␇bell"]
    assert " ".join(("lorum " * 67)[:400].split()) + "…" in by_text
    assert "he cut: 400 of 720 characters shown" in by_text
    assert max(map(len, by_text)) < 1000


def test_unnamed_languages_get_no_lang(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(6), suffixes=("src", "tgt"))
    page = Page(write(tmp_path, plain_select(scores, keep=0.5), scores))
    assert [value for tag, name, value in page.attributes if name == "lang"] == ["en"]


@pytest.mark.parametrize(("count", "highest", "lowest"), [(1, 1, 0), (7, 4, 3), (39, 20, 19)])
def test_small_corpora_show_no_pair_at_both_ends(
    tmp_path: Path, make: Callable[..., Made], count: int, highest: int, lowest: int
) -> None:
    _, scores = make(invented(count))
    page = Page(write(tmp_path, plain_select(scores, keep=1.0), scores))
    pairs = page.all_tables("source and target")
    assert ranks(pairs[0]) == list(range(1, highest + 1))
    if lowest:
        assert ranks(pairs[1]) == list(range(count, count - lowest, -1))


def test_a_table_of_both_kinds_says_which_is_which(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    _, scores = make(invented(10))
    page = Page(write(tmp_path, plain_select(scores, keep=0.2), scores))
    states = [row[0].split()[3:] for row in page.all_tables("source and target")[0][1:]]
    assert states == [["kept"], ["kept"], ["dropped"], ["dropped"], ["dropped"]]
    assert "5 highest scores, all" not in page.captions


def test_nothing_dropped(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(30))
    text = write(tmp_path, plain_select(scores, keep=1.0), scores)
    assert "Nothing was dropped: keep is 1.0." in text
    assert Page(text).table("property of a pair")[0][3:] == [
        "median, kept",
        "median, dropped",
    ]
    assert all(row[4] == "–" for row in Page(text).table("property of a pair")[1:])


def test_equal_scores_keep_the_earlier_pairs(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(10), np.full((10, 3), 40.0))
    text = write(tmp_path, plain_select(scores, keep=0.3), scores)
    assert "All pairs have the same score" in text
    page = Page(text)
    assert page.table("property of a pair")[1][1:3] == ["–", "not defined: all values are equal"]
    assert ranks(page.all_tables("source and target")[0]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("criterion", ["cat_var", "cat_diff", "length", "random"])
def test_two_checkpoints_and_every_criterion(
    tmp_path: Path, make: Callable[..., Made], criterion: str
) -> None:
    _, scores = make(invented(25), num_checkpoints=2)
    text = write(tmp_path, plain_select(scores, keep=0.4, by=criterion, seed=5), scores)
    page = Page(text)
    links = [value for _, name, value in page.attributes if name in ("href", "xlink:href", "src")]
    outside = {link for link in links if not link.startswith("#")}
    sources = ["2009.10795", *(["2405.19462"] if criterion.startswith("cat") else [])]
    assert outside == {f"https://arxiv.org/abs/{source}" for source in sources}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    # Pairs of equal length at the cut are told apart by a seeded hash.
    assert ("seed 5" in text) == (criterion in ("random", "length"))
    assert len(page.table("update")) == 3


def test_ids_are_unique(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(60))
    page = Page(write(tmp_path, plain_select(scores, keep=0.5), scores))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [value[1:] for _, name, value in page.attributes if value.startswith("#")]
    assert set(targets) <= set(ids)


@pytest.mark.parametrize("criterion", ["cat_diff", "length"])
def test_infinite_perplexity(tmp_path: Path, make: Callable[..., Made], criterion: str) -> None:
    corpus, scores = make(invented(50))
    nll = scores.nll.copy()
    nll[7, 0] = 800.0 * corpus.num_tokens[7]
    nll[:4, 0] = 700.0 * corpus.num_tokens[:4]
    scores = table(corpus, nll)
    with np.errstate(over="ignore"):
        selection = plain_select(scores, keep=0.5, by=criterion)
    page = Page(write(tmp_path, selection, scores))
    if criterion == "cat_diff":
        first = page.all_tables("source and target")[0][1]
        assert first[0] == "1 line 8"
        assert first[2:3] == ["∞"]
        assert first[3].startswith("∞ → ")


def test_extreme_and_repeated_steps(tmp_path: Path, make: Callable[..., Made]) -> None:
    rising = np.exp(np.linspace(1, 690, 12))[:, None] * np.array([1.0, 1.5, 2.0])
    _, scores = make(invented(12), rising, steps=[0, 0, 5])
    rows = Page(write(tmp_path, plain_select(scores, keep=0.5, by="length"), scores)).table(
        "update"
    )
    assert [row[0] for row in rows[1:]] == ["0", "0", "5"]


def test_evaluation_table(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(40))

    def result(nll: float, gain: float, share: float | None, verdict: str) -> dict[str, Any]:
        return {
            "nll": nll,
            "nll_by_updates": {"30": nll + 2, "60": nll + 1, "120": nll},
            "gain_on_random": [gain, gain - 0.1, gain + 0.1],
            "effective_data": [share, share, share],
            "verdict": verdict,
            "matches_full": verdict == "better",
        }

    arms = {
        arm: {"pairs": pairs, "target_tokens": tokens, "seeds": 2, "tests": {"<b>news": found}}
        for arm, pairs, tokens, found in (
            ("full", 40, 1400, result(3.25, 0.25, 1.0, "better")),
            ("random", 20, 700, result(3.5, 0.0, 0.5, "tie")),
            ("selected", 20, 720, result(3.75, -0.25, None, "worse")),
        )
    }
    rows = [Translated("selected", "<b>news", 19.51, 44.2, "bleu|sig", "chrf|sig")]
    manifest: dict[str, Any] = {
        "recipe": {"beam": 5, "tests": {}, "updates": [30, 60, 120]},
        "ledger": {"paid_after": 2.5, "seconds": {"retrain": 3.0}, "flops": {"retrain": 1e12}},
    }
    evaluation = Evaluation(tmp_path / "evaluation", arms, rows, ["one seed: noise"], manifest)
    text = write(tmp_path, plain_select(scores, keep=0.5), scores, evaluation=evaluation)
    cells = Page(text).table("arm")
    assert cells[1][:5] == ["full", "40", "1,400", "2", "3.2500"]
    assert cells[1][6:] == ["all of it", "better; matches the whole"]
    assert cells[2][6:] == ["50 %", "tie"]
    assert cells[3][5].startswith("-0.250")
    assert cells[3][6:] == ["–", "worse"]
    assert "Loss on <b>news of models trained on each arm for 120 updates" in Page(text).captions
    assert "paid for itself after 2.5" in " ".join(text.split())
    assert "one seed: noise." in text
    assert "bleu|sig" in text
    assert "chrf|sig" in text
    assert ["beam", "5"] in Page(text).all_tables("option")[-1]
    assert "Held-out loss on &lt;b&gt;news by arm and updates" in text
    assert "Effective data of each arm on &lt;b&gt;news" in text


def evaluated(folder: Path, names: Sequence[str] = ("full", "random", "selected")) -> Evaluation:
    """An evaluation of these arms on the test set "news"."""
    arms = {
        name: {
            "pairs": 40,
            "target_tokens": 1400 if name == "full" else 700,
            "seeds": 1,
            "tests": {
                "news": {
                    "nll": 3.5,
                    "nll_by_updates": {"30": 5.0, "120": 3.5},
                    "gain_on_random": [0.0, -0.1, 0.1],
                    "effective_data": [0.5, 0.25, 1.0],
                    "verdict": "tie",
                    "matches_full": False,
                }
            },
        }
        for name in names
    }
    ledger = {"paid_after": None, "seconds": {"retrain": 3.0}, "flops": {"retrain": 1e12}}
    manifest: dict[str, Any] = {
        "recipe": {"beam": 5, "tests": {}, "arms": {}, "updates": [30, 120]},
        "ledger": ledger,
    }
    folder.mkdir()
    return Evaluation(folder, arms, [], ["one seed: noise"], manifest)


def test_the_page_of_an_evaluation_and_its_charts(tmp_path: Path) -> None:
    names = ["full", "random", "selected", "_one & $two$", *(f"arm{i}" for i in range(9))]
    evaluation = evaluated(tmp_path / "evaluation", names)
    page = write_evaluation_page(evaluation)
    text = page.read_text("utf-8")
    assert page == tmp_path / "evaluation" / "evaluation.html"
    assert Page(text).table("arm")[3][0] == "selected"
    assert ["retrain", "3.0", "1e+12"] in Page(text).table("stage")
    assert text.count("<svg ") == 2
    for name in ("news.loss.svg", "news.worth.svg"):
        svg = (evaluation.path / name).read_text("utf-8")
        assert "var(" not in svg
        assert svg.startswith("<svg ")
        assert all(escape(arm, quote=False) in svg for arm in names)
    # Beside the chart of effective data stands what the table says.
    assert Page(text).table("arm")[3][6] == "50 % [25, 100]"
    assert svg.count("50 % [25, 100]") == len(names) - 1
    again = write_evaluation_page(evaluation).read_text("utf-8")
    assert again == text


def test_an_evaluation_without_a_curve_has_one_chart(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path / "evaluation", ["selected"])
    for key in ("gain_on_random", "effective_data", "verdict", "matches_full"):
        del evaluation.arms["selected"]["tests"]["news"][key]
    text = write_evaluation_page(evaluation).read_text("utf-8")
    assert text.count("<svg ") == 1
    assert not (evaluation.path / "news.worth.svg").exists()


def test_the_page_of_an_evaluation_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    evaluation = evaluated(tmp_path / "evaluation")
    text = write_evaluation_page(evaluation).read_text("utf-8")
    assert "<svg" not in text
    assert "matplotlib is not installed" in text
    assert [path.name for path in evaluation.path.iterdir()] == ["evaluation.html"]


def test_text_that_is_gone_is_put_together_from_tokens(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    lines = invented(10)
    _, scores = make(lines)
    selection = plain_select(scores, keep=0.5)
    (tmp_path / "text.xx").unlink()
    text = write(tmp_path, selection, scores)
    assert "put together from the corpus’s tokens" in text
    row = Page(text).all_tables("source and target")[0][1]
    line = int(row[0].split()[2])
    assert row[1] == " ".join(lines[line - 1])


def test_without_matplotlib_the_numbers_stay(
    tmp_path: Path, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scores = make(invented(400))
    selection = plain_select(scores, keep=0.5)
    with_pictures = Page(write(tmp_path, selection, scores))
    assert "svg" in with_pictures.tags
    monkeypatch.delattr(report, "charts", raising=False)
    monkeypatch.delitem(sys.modules, "pycat.report.charts", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write(tmp_path, selection, scores)
    page = Page(text)
    assert 'pip install "pycat-nmt[plot]"' in unescape(text)
    assert "svg" not in page.tags
    assert page.tables == with_pictures.tables
    for name in ("cat_var from", "target tokens from", "rarity, bits from"):
        rows = page.table(name)[1:]
        assert sum(int(row[2]) for row in rows) == (200 if name == "cat_var from" else 400)
    assert sum(int(row[3]) for row in page.table("target tokens from")[1:]) == 200


def test_a_broken_charts_module_is_not_taken_for_a_missing_matplotlib(
    tmp_path: Path, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scores = make(invented(4))
    monkeypatch.delattr(report, "charts", raising=False)
    monkeypatch.setitem(sys.modules, "pycat.report.charts", None)
    with pytest.raises(ModuleNotFoundError):
        write(tmp_path, plain_select(scores, keep=0.5), scores)


def test_equal_input_gives_equal_bytes(
    tmp_path: Path, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scores = make(invented(200))
    selection = plain_select(scores, keep=0.5)
    first = write(tmp_path, selection, scores)
    matplotlib = importlib.import_module("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 31.0)
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    assert write(tmp_path, selection, scores) == first
    path = write_report(
        tmp_path / "report.html", selection, scores, timings={**TIMINGS, "train": 80.0}
    )
    second = path.read_text("utf-8")
    assert second != first

    def untimed(text: str) -> str:
        return re.sub(r"<h3>Time per stage.*?</table>", "", text, flags=re.DOTALL)

    assert untimed(second) == untimed(first)


def test_times(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(4))
    text = write(tmp_path, plain_select(scores, keep=0.5), scores)
    rows = [row[:2] for row in Page(text).table("stage")[1:]]
    assert rows == [
        ["tokenize", "0.5 s"],
        ["train", "75.0 s"],
        ["score", "20.0 s"],
        ["select", "4 ms"],
        ["all", "95.5 s"],
    ]
    assert "width: 78.5%" in text


def test_page_stays_small_and_names_its_files(tmp_path: Path, make: Callable[..., Made]) -> None:
    corpus, scores = make(invented(6000))
    selection = plain_select(scores, keep=0.5)
    text = write(tmp_path, replace(selection, path=tmp_path / "selection"), scores)
    assert len(text.encode()) < 500_000
    assert Page(text).table("what")[1:] == [["corpus", "corpus"], ["selection", "selection"]]
    assert corpus.manifest["tokenizer_sha256"] in text


def test_a_selection_of_another_table_is_refused(tmp_path: Path, make: Callable[..., Made]) -> None:
    corpus, scores = make(invented(8))
    other = table(corpus, scores.nll)
    other.manifest = {**scores.manifest, "recipe": {"corpus": corpus.id}}
    with pytest.raises(PycatError, match="made from another score table than the one given"):
        write(tmp_path, plain_select(scores, keep=0.5), other)
    assert not (tmp_path / "report.html").exists()


def test_a_function_without_a_known_name_is_refused(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    _, scores = make(invented(8))

    def mine(table: ScoreTable) -> NDArray[np.float64]:
        return table.ppl[:, 0]

    with pytest.raises(PycatError, match="criterion 'mine' is not known"):
        write(tmp_path, plain_select(scores, keep=0.5, by=mine), scores)


def test_what_else_would_be_kept(tmp_path: Path, make: Callable[..., Made]) -> None:
    _, scores = make(invented(200))
    scores.add("domain", np.array(["news", "talks"] * 100))
    scores.add("noisy", np.arange(200) < 30)
    selection = plain_select(scores, keep=0.3)
    kept = np.isin(scores.pair_ids, selection.pair_ids)
    text = write(tmp_path, selection, scores)
    page = Page(text)
    other = plain_select(scores, keep=0.3, by="cat_diff")
    overlap = f"{100 * jaccard(selection, other):.1f}%"
    assert ["cat_diff", overlap] in page.table("as many by")
    assert [row[0] for row in page.table("without the checkpoint at")[1:]] == ["100", "200", "300"]
    rho = page.table("rank correlation")
    assert rho[0][1:] == [row[0] for row in rho[1:]]
    assert all(row[i] == "+1.00" for i, row in enumerate(rho[1:], 1))
    for heading, columns in (
        ("domain", {"news": slice(0, None, 2)}),
        ("marked", {"noisy": slice(30)}),
    ):
        for name, rows in columns.items():
            part = kept[rows]
            share = f"{100 * part.mean():.1f}%"
            assert [name, str(len(part)), str(part.sum()), share] in page.table(heading)
    assert "since the table holds only nll" in " ".join(text.split())
    assert 'href="#rules"' not in text
    assert "evenly drawn from all" not in " ".join(text.split())


def test_rules_where_they_were_measured(tmp_path: Path, make: Callable[..., Made]) -> None:
    line = "this line was copied as it stands, word for word, and nobody has translated it"
    corpus, scores = make([(line, line), *invented(30)])
    selection = plain_select(scores, keep=0.5)
    hit = pycat.measure(corpus, out=corpus.path.parent / "measures").hits()["copied"]
    page = Page(write(tmp_path, selection, scores))
    rules = {row[0]: row[1:] for row in page.table("rule")[1:]}
    kept = int(hit[selection.pair_ids].sum())
    assert hit[0]
    assert rules["copied"] == [str(hit.sum()), str(kept), f"{100 * kept / hit.sum():.1f}%"]


def test_the_threshold_shows_none_that_other_steps_left_out(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    _, scores = make(invented(90))
    selection = plain_select(scores, keep=0.3, drop={"cat_var": 0.2})
    page = Page(write(tmp_path, selection, scores))
    # Ranks 1 to 18 are dropped first, 19 to 45 kept.
    assert ranks(page.all_tables("source and target")[2]) == list(range(36, 46))
    assert ranks(page.all_tables("source and target")[3]) == list(range(46, 56))
    text = write(tmp_path, plain_select(scores, keep=0.3, part="bottom"), scores)
    assert "No pair below the threshold was dropped." in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"part": "bottom"}, "The pairs with the lowest cat_var are kept."),
        ({"part": "middle"}, "The pairs in the middle of the ranking by cat_var are kept."),
        (
            {"keep": (0.2, 0.5)},
            "The pairs from 20.0% to 50.0% of the ranking by cat_var, highest first, are kept.",
        ),
        (
            {"strata": "score", "num_strata": 4},
            "About equally many pairs are drawn at random from each of 4 strata of equal width in "
            "cat_var.",
        ),
        (
            {"strata": "length"},
            "of a small proxy model. Pairs are ranked within strata by length; each stratum keeps "
            "the same share.",
        ),
        (
            {"rules": dict.fromkeys(DEFAULT_RULES), "drop": {"length": 0.2}},
            "CAT-VAR keeps the pairs whose",
        ),
    ],
)
def test_the_recipe_is_said_as_it_was_followed(
    tmp_path: Path, make: Callable[..., Made], options: dict[str, Any], sentence: str
) -> None:
    corpus, scores = make(invented(90))
    if "rules" in options:
        pycat.measure(corpus, out=tmp_path / "measures")
    selection = plain_select(scores, **{"keep": 0.3, **options})
    text = " ".join(write(tmp_path, selection, scores).split())
    assert sentence in text
    assert ("varies most" in text) == (sentence.startswith("CAT") or "strata by" in sentence)
    steps = selection.manifest["dropped"]
    counts = ", ".join(f"{step} {count:,}" for step, count in steps.items())
    assert (f"<p>Pairs dropped by each step, in order: {counts}.</p>" in text) == (len(steps) > 1)


def test_charts_of_a_large_table_show_a_sample_and_say_so(
    tmp_path: Path, make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scores = make(invented(400))
    selection = plain_select(scores, keep=0.5)
    everything = Page(write(tmp_path, selection, scores))
    monkeypatch.setattr(report_page, "_MAX_PAIRS", 100)
    text = write(tmp_path, selection, scores)
    assert "are computed from 100 pairs, evenly drawn from all 400." in " ".join(text.split())
    assert "<h1>Kept 200 of 400 pairs (50.0%)</h1>" in text
    page = Page(text)
    assert sum(int(row[2]) for row in page.table("target tokens from")[1:]) == 100
    for shown, expected in zip(
        page.all_tables("source and target")[:4],
        everything.all_tables("source and target")[:4],
        strict=True,
    ):
        assert shown == expected


def test_tokens_without_text(tmp_path: Path, make: Callable[..., Made]) -> None:
    made, scores = make(invented(40))
    corpus = pycat.open_corpus(
        (made.path / "src", made.path / "tgt"), vocab_size=made.vocab_size, eos_id=made.eos_id
    )
    scores = table(corpus, scores.nll)
    scores.manifest = {**scores.manifest, "corpus_options": corpus.options}
    text = write(tmp_path, plain_select(scores, keep=0.5), scores)
    page = Page(text)
    assert page.all_tables("source and target") == []
    assert "#pairs" not in text
    assert "Not known: the corpus was tokenized elsewhere." in text
    assert page.table("as many by")[1][0] == "cat_diff"


def test_report_of_stages_run_one_by_one(
    tmp_path: Path,
    toy_corpus: Corpus,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [tmp_path / name for name in ("proxy", "scores", "selection")]
    run = pycat.train(toy_corpus, out=folders[0], updates=4, checkpoints=2, batch_tokens=200)
    scores = pycat.score(toy_corpus, run.checkpoints, out=folders[1])
    plain_select(scores, keep=0.5, out=folders[2])
    words = ["report", "--out", str(tmp_path / "page.html")]
    for folder in folders:
        words += [f"--{folder.name}", str(folder)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    assert [row[0] for row in page.table("stage")[1:]] == [
        *("tokenize", "train", "score", "select", "all")
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567.4, "1,234,567"),
        (61.54, "61.5"),
        (73.98, "74.0"),
        (13.0, "13"),
        (999.4, "999"),
        (-0.0314, "−0.0314"),
        (3.5e9, "3.5×10⁹"),
        (1e300, "10³⁰⁰"),
        (-2.5e-7, "−2.5×10⁻⁷"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_durations_and_series() -> None:
    assert [duration(s) for s in (0.0042, 9.96, 192.4, 7322)] == [
        "4 ms",
        "10.0 s",
        "3 min 12 s",
        "2 h 02 min",
    ]
    assert series([1, 2000]) == "1, 2,000"
    assert series(list(range(10, 90, 10))) == "10, 20, … 80"
    assert (signed(-0.25, 2), signed(math.nan)) == ("−0.25", "–")
    assert (signed(-0.004, 2), signed(0.004, 2), signed(0.04)) == ("0.00", "0.00", "0.0")
