"""Explanations of a pair: its text and ranks, and the step that kept or dropped it."""

import io
import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores, bpe_corpus, damage_column, plain_select
from numpy.typing import NDArray
from rich.console import Console

import pycat
from pycat.cli.main import main
from pycat.cli.pair_view import show
from pycat.errors import OutputError, PycatError
from pycat.filters.noise import corpus_signals, surprise_evidence
from pycat.filters.rules import RULE_COLUMNS
from pycat.ranking.criteria import cat_var, evaluate_criterion
from pycat.report import explaining
from pycat.report.explaining import Explanation, explain
from pycat.report.formatting import number

PAIR = 17


@pytest.fixture
def table(toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path) -> pycat.ScoreTable:
    nll = np.random.default_rng(5).uniform(1, 6, (300, 3)) * toy_corpus.num_tokens[:, None]
    return make_scores(toy_corpus, nll, tmp_path / "scores")


def percentile(values: NDArray[Any], row: int) -> float:
    return 100 * float(np.mean([value < values[row] for value in values.tolist()]))


def test_text_trajectory_and_standing(toy_corpus: pycat.Corpus, table: pycat.ScoreTable) -> None:
    table.add("quality", np.arange(300, 0, -1))
    table.add("label", np.array(["a", "b", "c"] * 100))
    explanation = explain(table, PAIR)
    assert explanation.pair == PAIR
    assert explanation.line == PAIR + 1
    assert explanation.text == toy_corpus.sentences([PAIR])[0]
    assert explanation.text_problem is None
    assert explanation.num_tokens == toy_corpus.num_tokens[PAIR]
    assert explanation.num_src_tokens == toy_corpus.num_src_tokens[PAIR]
    assert explanation.steps == [10, 20, 30]
    assert explanation.trajectory == {"ppl": pytest.approx(table.ppl[PAIR])}
    variance = cat_var(table.ppl)
    assert explanation.criteria["cat_var"].value == pytest.approx(variance[PAIR])
    assert explanation.criteria["cat_var"].percentile == pytest.approx(percentile(variance, PAIR))
    assert explanation.criteria["length"].percentile == pytest.approx(
        percentile(table.num_tokens, PAIR)
    )
    assert explanation.criteria["quality"].value == 283
    assert explanation.criteria["quality"].percentile == pytest.approx(100 * 282 / 300)
    assert {"rarity", "cat_var_rank", "learnability"} <= explanation.criteria.keys()
    assert not {"random", "label", "el2n", "nll_0"} & explanation.criteria.keys()
    assert explanation.num_ranked == 300
    assert explanation.decision is None
    assert explanation.rules is None


def test_more_statistics_are_followed(
    toy_corpus: pycat.Corpus, table: pycat.ScoreTable, tmp_path: Path
) -> None:
    table = pycat.ScoreTable.from_arrow(
        table.rows(table.names, 0, 300)
        .append_column("p_target_0", [np.full(300, 2.0)])
        .append_column("p_target_1", [np.full(300, 3.0)])
        .append_column("p_target_2", [np.full(300, 4.0)]),
        {**table.manifest, "corpus_path": str(table.corpus_path)},
    )
    explanation = explain(table, PAIR)
    expected = np.array([2, 3, 4]) / toy_corpus.num_tokens[PAIR]
    assert explanation.trajectory["p_target"] == pytest.approx(expected)
    assert explanation.criteria["confidence"].value == pytest.approx(expected.mean())


def test_of_many_pairs_every_nth_is_ranked_with_this_one(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "_MAX_PAIRS", 30)
    explanation = explain(table, PAIR)
    rows = sorted({*range(0, 300, 10), PAIR})
    assert explanation.num_ranked == len(rows) == 31
    values = cat_var(table.ppl)[rows]
    expected = percentile(values, rows.index(PAIR))
    assert explanation.criteria["cat_var"].percentile == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.3},
        {"keep": 0.4, "by": "-ppl", "drop": {"length": 0.2, "learnability": 0.3}},
        {"keep": (0.2, 0.5), "drop": {"ppl": 0.1}},
        {"keep": 0.3, "part": "middle"},
        {"keep": 0.3, "part": "bottom", "unit": "tokens"},
        {"keep": 0.3, "cap": ("group", 20), "drop": {"length": 0.1}},
        {"keep": 0.3, "strata": "length", "num_strata": 4, "drop": {"ppl": 0.2}},
        {"keep": 0.3, "strata": "group", "cap": ("group", 40)},
        {"keep": 0.3, "strata": "score", "seed": 4},
        {"keep": 0.3, "by": "random", "seed": 9},
    ],
)
def test_each_pair_is_told_the_step_that_settled_it(
    table: pycat.ScoreTable, options: dict[str, Any]
) -> None:
    table.add("group", np.arange(300) // 50)
    selection = plain_select(table, **options)
    kept = {*selection.pair_ids.tolist()}
    scores = {
        by: evaluate_criterion(table, by, options.get("seed", 0))
        for by in (options.get("by", "cat_var"), *options.get("drop", {}))
    }
    left = np.arange(300)
    dropped_at: dict[int, str] = {}
    for by, share in options.get("drop", {}).items():
        order = left[np.argsort(-scores[by][left], kind="stable")]
        for pair in order[: round(300 * share)].tolist():
            dropped_at[pair] = f"drop {by}"
        left = np.sort(order[round(300 * share) :])
    for pair in range(0, 300, 7):
        decision = explain(table, pair, selection=selection).decision
        assert decision is not None
        assert decision.kept == (pair in kept)
        assert decision.reason.startswith("kept: " if decision.kept else "dropped: ")
        if pair in dropped_at:
            assert decision.step == dropped_at[pair]
        elif "cap" in options and not decision.kept and decision.step != "cut":
            rivals = [p for p in left if p // 50 == pair // 50]
            better = sum(scores["cat_var"][p] > scores["cat_var"][pair] for p in rivals)
            assert decision.step == "cap"
            assert better >= options["cap"][1]
        else:
            assert decision.step in ("cut", "range")
            if decision.kept:
                assert decision.step == "cut"


def test_above_a_range_is_told_apart_from_below(table: pycat.ScoreTable) -> None:
    selection = plain_select(table, keep=(0.2, 0.5))
    order = np.argsort(-cat_var(table.ppl), kind="stable").tolist()
    steps = [explain(table, order[rank], selection=selection).decision for rank in (0, 100, 299)]
    assert [step and (step.kept, step.step) for step in steps] == [
        (False, "range"),
        (True, "cut"),
        (False, "cut"),
    ]


def test_rules_and_noise_filter_are_named(
    toy_corpus: pycat.Corpus, table: pycat.ScoreTable, tmp_path: Path
) -> None:
    measures = pycat.measure(toy_corpus, out=tmp_path / "measures")
    selection = pycat.select(table, keep=0.4, rules={"length_z": 0.5}, guard=0.5)
    by_rules, _ = measures.apply({"length_z": 0.5})
    noise = measures.noise_score(table)
    assert 0 < (~by_rules).sum() < 150
    left = np.sort(noise[by_rules])[::-1]
    num_noisy = selection.manifest["dropped"]["guard"]
    max_noise_kept = left[num_noisy]
    for pair in range(0, 300, 5):
        decision = explain(table, pair, selection=selection).decision
        assert decision is not None
        if not by_rules[pair]:
            assert (decision.step, decision.reason) == ("rules", "dropped: it breaks a rule")
        elif noise[pair] > max_noise_kept:
            assert decision.step == "guard"
            reason = f"the noise filter dropped it; its noise score is {number(noise[pair])}; among"
            assert reason in decision.reason
        else:
            assert decision.step == "cut"


@pytest.mark.parametrize("has_entropy", [False, True])
def test_the_strongest_noise_signals_are_named(
    toy_corpus: pycat.Corpus, table: pycat.ScoreTable, tmp_path: Path, has_entropy: bool
) -> None:
    measures = pycat.measure(toy_corpus, out=tmp_path / "measures")
    if has_entropy:
        columns = table.rows(table.names, 0, 300)
        for k in range(3):
            columns = columns.append_column(f"entropy_{k}", [np.full(300, 2.0)])
        where = {"corpus_path": str(table.corpus_path)}
        table = pycat.ScoreTable.from_arrow(columns, {**table.manifest, **where})
    selection = pycat.select(table, keep=0.4, rules="none", guard=0.5, measures=measures)
    worst = int(np.argmax(measures.noise_score(table)))
    decision = explain(table, worst, selection=selection, measures=measures).decision
    assert decision is not None and decision.step == "guard"
    signals = {
        name: values[worst]
        for name, values in corpus_signals(measures.column, *toy_corpus.lengths, has_text=True)
    }
    if has_entropy:
        of_model = surprise_evidence(table)
        assert of_model is not None
        signals["surprise"] = of_model[worst]
    assert len(signals) == 6 + has_entropy
    first, second = sorted(signals, key=lambda name: -signals[name])[:2]
    share = 1 - np.exp(-signals[first])
    assert (
        f"among pairs of similar length it is more suspect than {share:.1%} by {first}, and than "
        in decision.reason
    )
    assert decision.reason.endswith(f" by {second}")


def test_a_choice_that_needs_measures_is_not_known_without_them(
    toy_corpus: pycat.Corpus, table: pycat.ScoreTable, tmp_path: Path
) -> None:
    measures = pycat.measure(toy_corpus, out=tmp_path / "measures")
    selection = pycat.select(table, keep=0.4)
    part = measures.path / "part-00000.parquet"
    part.write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"part-00000\.parquet: has 7 bytes, expected"):
        explain(table, PAIR, selection=selection)
    rmtree(measures.path)
    explanation = explain(table, PAIR, selection=selection)
    assert explanation.rules is None
    assert explanation.decision is not None and explanation.decision.step == "not known"
    assert "run 'pycat measure --c" in explanation.decision.reason
    with pytest.raises(OutputError, match=r"measures.json: expected the manifest of a pycat measu"):
        explain(table, PAIR, measures=measures.path)


def test_the_reason_holds_score_and_threshold(table: pycat.ScoreTable) -> None:
    values = np.arange(300.0)
    table.add("quality", values)
    selection = plain_select(table, keep=0.1, by="quality", drop={"-quality": 0.5})
    reasons = [
        decision.reason
        for pair in (285, 200, 3)
        if (decision := explain(table, pair, selection=selection).decision)
    ]
    assert reasons == [
        "kept: its quality is 285; kept pairs have 270 to 299",
        "dropped: its quality is 200; kept pairs have 270 to 299",
        "dropped: it is among the 50.0% of the pairs with the highest -quality, which were dropped "
        "before the cut; its -quality is −3",
    ]


def test_what_cannot_be_chosen_again_says_so(table: pycat.ScoreTable) -> None:
    def mine(given: pycat.ScoreTable) -> NDArray[np.float64]:
        return given.ppl[:, 0]

    decision = explain(table, 3, selection=plain_select(table, by=mine)).decision
    assert decision is not None
    assert decision.step == "not known"
    assert "cannot be made again: criterion 'mine' is not known" in decision.reason
    table.add("quality", np.arange(300.0))
    selection = plain_select(table, by="quality")
    other = pycat.ScoreTable.from_arrow(
        table.rows([name for name in table.names if name != "quality"], 0, 300),
        {**table.manifest, "columns": [], "corpus_path": str(table.corpus_path)},
    )
    other.add("quality", np.zeros(300))
    decision = explain(other, 3, selection=selection).decision
    assert decision is not None
    assert "dropped; the selection cannot be made again: " in decision.reason
    assert "a column that the selection used holds other values now (by)" in decision.reason


def test_rules_that_a_pair_breaks(tmp_path: Path, make_scores: MakeScores) -> None:
    lines = [(f"the number {i} is here", f"die Zahl {i} steht hier") for i in range(60)]
    lines[7] = ("a line that was copied whole", "a line that was copied whole")
    corpus = bpe_corpus(tmp_path, lines)
    measures = pycat.measure(corpus, out=tmp_path / "measures")
    scores = make_scores(corpus, np.random.default_rng(0).uniform(1, 9, (60, 2)))
    copied = explain(scores, 7).rules
    assert copied is not None
    assert "copied" in copied
    clean = explain(scores, 8).rules
    assert clean is not None
    assert "copied" not in clean
    # A selection's own thresholds are used; in a view, rows and pair ids differ.
    assert explain(scores, 7).default_rules
    loose = pycat.select(scores, rules={"copied": None})
    explanation = explain(scores, 7, selection=loose)
    assert explanation.rules is not None
    assert "copied" not in explanation.rules
    assert not explanation.default_rules
    plain = explain(scores, 7, selection=plain_select(scores))
    assert (plain.rules, plain.default_rules) == (copied, True)
    rest = corpus.subset(np.arange(5, 60))
    part = make_scores(rest, np.random.default_rng(0).uniform(1, 9, (55, 2)))
    of_part = [explain(part, pair).rules for pair in (7, 59)]
    assert [rules is not None and "copied" in rules for rules in of_part] == [True, False]
    damage_column(measures.path / "part-00000.parquet", RULE_COLUMNS["copied"])
    with pytest.raises(OutputError, match=r"part-00000\.parquet: these measures cannot be read"):
        explain(scores, 7)


def test_text_that_is_gone_comes_from_tokens(tmp_path: Path, make_scores: MakeScores) -> None:
    corpus = bpe_corpus(tmp_path, [(f"word {i}", f"Wort {i}") for i in range(40)])
    scores = make_scores(corpus, np.ones((40, 2)))
    (tmp_path / "text.de").unlink()
    explanation = explain(scores, 4)
    assert explanation.text == ("word 4", "Wort 4")
    assert explanation.text_problem is not None
    assert "the text of" in explanation.text_problem


def test_tokens_without_a_tokenizer_have_no_text(
    toy_corpus: pycat.Corpus, make_scores: MakeScores
) -> None:
    prefixes = (toy_corpus.path / "src", toy_corpus.path / "tgt")
    bare = pycat.open_corpus(prefixes, vocab_size=toy_corpus.vocab_size, eos_id=toy_corpus.eos_id)
    scores = make_scores(bare, np.ones((300, 2)))
    scores.manifest = {**scores.manifest, "corpus_options": bare.options}
    explanation = explain(scores, 4)
    assert explanation.line is None
    assert explanation.text is None
    assert explanation.text_problem is not None
    assert "no tokenizer is known" in explanation.text_problem


def test_refused(table: pycat.ScoreTable, make_scores: MakeScores) -> None:
    with pytest.raises(PycatError) as caught:
        explain(table, 300)
    assert str(caught.value) == (
        f"pair 300: {table.path} has no pair of this id; expected one of its 300 ids, which run "
        "from 0 to 299"
    )
    selection = plain_select(table)
    table.manifest = {**table.manifest, "recipe": {"corpus": "other"}}
    with pytest.raises(PycatError, match="selection: made from another score table than"):
        explain(table, 3, selection=selection)


def test_command_prints_json_and_words(
    table: pycat.ScoreTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_select(table, keep=0.5, out=tmp_path / "selection")
    words = ["explain", "--scores", str(table.path), "--pair", str(PAIR)]
    words += ["--selection", str(tmp_path / "selection")]
    assert main([*words, "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    expected = explain(table, PAIR, selection=tmp_path / "selection")
    assert parsed == expected.json()
    assert parsed["criteria"]["cat_var"]["value"] == expected.criteria["cat_var"].value
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"Pair {PAIR}, line {PAIR + 1} of the text" in shown
    assert expected.text is not None
    for part in (*expected.text, "cat_var", "perplexity"):
        assert part in shown
    assert expected.decision is not None
    assert expected.decision.reason in " ".join(shown.split())


def test_terminal_shows_hostile_text_harmlessly() -> None:
    hostile = Explanation(
        pair=1,
        line=None,
        text=("[bold]not markup[/nonsense]", "bell\x07 and \x1b[31mred\x9b"),
        text_problem="a [reason]",
        num_src_tokens=3,
        num_tokens=4,
        steps=[1],
        trajectory={"ppl": [np.inf]},
        criteria={"cat_var": explaining.Standing(float("nan"), float("nan"))},
        num_ranked=2,
        decision=None,
        rules=[],
        default_rules=True,
    )
    screen = io.StringIO()
    show(hostile, Console(file=screen, width=100, highlight=False))
    shown = screen.getvalue()
    assert "[bold]not markup[/nonsense]" in shown
    assert "bell␇ and ␛[31mred␡" in shown
    assert "\x1b" not in shown
    assert "∞" in shown
    assert "rules it breaks at default thresholds: none" in shown
    assert hostile.json()["trajectory"] == {"ppl": [None]}
    assert hostile.json()["criteria"]["cat_var"] == {"value": None, "percentile": None}
