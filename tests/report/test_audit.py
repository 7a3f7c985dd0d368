"""Figures about a selection: data map, domains, rules, and agreement with other criteria."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import MakeScores, bpe_corpus, damage_column, plain_select

import pycat
from pycat.errors import OutputError
from pycat.filters.rules import RULE_COLUMNS
from pycat.ranking.criteria import evaluate_criterion, possible
from pycat.ranking.ranks import spearman
from pycat.report.audit import Part, agreement, by_domain, by_rule, data_map
from pycat.selection.stability import jaccard, stability


@pytest.fixture
def table(toy_corpus: pycat.Corpus, make_scores: MakeScores) -> pycat.ScoreTable:
    nll = np.random.default_rng(5).uniform(1, 6, (300, 4)) * toy_corpus.num_tokens[:, None]
    return make_scores(toy_corpus, nll)


def test_map_of_nll_alone_and_of_probabilities(table: pycat.ScoreTable) -> None:
    mapped = data_map(table)
    probability = 1 / table.ppl
    assert mapped.geometric
    assert mapped.confidence == pytest.approx(probability.mean(axis=1))
    assert mapped.variability == pytest.approx(probability.std(axis=1))
    assert mapped.flags == {}
    rng = np.random.default_rng(1)
    sums = rng.uniform(0, 1, (300, 4)) * table.num_tokens[:, None]
    columns = table.rows(table.names, 0, 300)
    for k in range(4):
        columns = columns.append_column(f"p_target_{k}", pa.array(sums[:, k]))
    more = pycat.ScoreTable.from_arrow(columns, table.manifest)
    more.add("noisy", np.arange(300) < 20)
    more.add("hard", np.arange(300))  # a column of numbers is no flag
    mapped = data_map(more)
    assert not mapped.geometric
    assert mapped.confidence == pytest.approx(evaluate_criterion(more, "confidence"))
    assert mapped.variability == pytest.approx(evaluate_criterion(more, "variability"))
    assert list(mapped.flags) == ["noisy"]
    assert mapped.flags["noisy"].sum() == 20


def test_agreement_is_that_of_the_selections(table: pycat.ScoreTable) -> None:
    kept = plain_select(table, keep=0.3)
    values = evaluate_criterion(table, "cat_var")
    rarity = evaluate_criterion(table, "rarity")
    agreed = agreement(table, "cat_var", values, rarity, np.isin(table.pair_ids, kept.pair_ids), 0)
    assert agreed.names[0] == "cat_var"
    assert {*agreed.names} == {*possible(table)} - {"random"}
    assert agreed.overlaps.keys() == {*agreed.names} - {"cat_var"}
    for name, overlap in agreed.overlaps.items():
        assert overlap == jaccard(kept, plain_select(table, keep=0.3, by=name))
        i = agreed.names.index(name)
        expected = spearman(values, evaluate_criterion(table, name))
        assert agreed.correlations[0, i] == pytest.approx(expected)
    expected_stability = stability(table, keep=0.3, by="cat_var")
    assert agreed.without_checkpoint == expected_stability.without_checkpoint
    assert len(agreed.without_checkpoint) == 4
    assert agreed.chance == pytest.approx(expected_stability.chance)


def test_agreement_where_nothing_can_be_compared(
    table: pycat.ScoreTable, toy_corpus: pycat.Corpus, make_scores: MakeScores
) -> None:
    zeros = np.zeros(300)
    everything = agreement(table, "length", zeros, zeros, np.ones(300, bool), 0)
    assert everything.overlaps == {}
    assert everything.without_checkpoint == []
    # Criteria of a pair with infinite perplexity at two checkpoints are NaN, and are left out.
    nll = table.nll
    nll[3, :2] = np.inf
    infinite = make_scores(toy_corpus, nll)
    agreed = agreement(infinite, "length", zeros, zeros, np.arange(300) < 90, 0)
    assert "cat_var" not in agreed.names
    assert {"ppl", "rarity"} <= {*agreed.names}
    assert np.isnan(agreed.correlations[0]).all()


def test_domains_from_the_largest_with_the_rest_together(table: pycat.ScoreTable) -> None:
    kept = np.arange(300) % 2 == 0
    assert by_domain(table, kept) == []
    sizes = [60, 40, *([10] * 20)]
    names = [f"d{i:02}" for i in range(22)]
    table.add("domain", np.repeat(np.array(names), sizes))
    parts = by_domain(table, kept)
    assert parts[0] == Part("d00", 60, 30)
    assert parts[1] == Part("d01", 40, 20)
    assert len(parts) == 16
    assert parts[-1] == Part("7 others", 70, 35)
    assert parts[-1].share == 0.5
    assert sum(part.num_pairs for part in parts) == 300


def test_rules_counted_over_kept_and_dropped(tmp_path: Path) -> None:
    lines = [(f"the number {i} is here", f"die Zahl {i} steht hier") for i in range(60)]
    lines[7:9] = [(f"copied line {i} of both", f"copied line {i} of both") for i in (7, 8)]
    corpus = bpe_corpus(tmp_path, lines)
    kept = np.isin(corpus.pair_ids, [1, 8, 20])
    assert by_rule(None, kept) is None
    measures = pycat.measure(corpus, out=tmp_path / "measures")
    parts = by_rule(measures, kept)
    assert parts is not None
    assert Part("copied", 2, 1) in parts
    view = by_rule(measures.of(corpus.subset(np.arange(8, 60))), kept[8:])
    assert view is not None
    assert Part("copied", 1, 1) in view
    damage_column(measures.path / "part-00000.parquet", RULE_COLUMNS["copied"])
    with pytest.raises(OutputError, match=r"part-00000\.parquet: these measures cannot be read"):
        by_rule(measures, kept)


def test_tokens_alone_have_no_rules(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    prefixes = (toy_corpus.path / "src", toy_corpus.path / "tgt")
    bare = pycat.open_corpus(prefixes, vocab_size=toy_corpus.vocab_size, eos_id=toy_corpus.eos_id)
    measures = pycat.measure(bare, out=tmp_path / "measures")
    assert by_rule(measures, np.ones(len(bare), bool)) is None
