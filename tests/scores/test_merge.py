"""Merging score tables: rows of other pairs, columns of other checkpoints, nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import MakeScores
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import OutputError, PycatError
from pycat.scores import merge, score_table
from pycat.scores.merge import merge_scores
from pycat.scores.score_table import ScoreTable

NLL = np.random.default_rng(0).uniform(1, 50, (300, 4))


class Make:
    """Tables of some pairs and checkpoints of NLL, in memory."""

    def __init__(self, corpus: Corpus, make_scores: MakeScores) -> None:
        self.corpus, self.make_scores = corpus, make_scores

    def __call__(
        self, pairs: NDArray[np.int64], checkpoints: list[int], **recipe: Any
    ) -> ScoreTable:
        table = self.make_scores(self.corpus.subset(pairs), NLL[pairs][:, checkpoints])
        table.manifest = {
            **table.manifest,
            "recipe": {"checkpoints": [f"sha {k}" for k in checkpoints], "dtype": "x", **recipe},
            "steps": [100 * (k + 1) for k in checkpoints],
        }
        return table


@pytest.fixture
def make(toy_corpus: Corpus, make_scores: MakeScores) -> Make:
    return Make(toy_corpus, make_scores)


EVERY = np.arange(300)


@pytest.mark.parametrize("on_disk", [False, True])
def test_other_pairs_come_in_pair_order(
    make: Make, tmp_path: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (merge, score_table):
        monkeypatch.setattr(module, "PART_PAIRS", 64)
    shards = [make(EVERY[rank::3], [0, 1], device="cpu") for rank in (2, 0, 1)]
    out = tmp_path / "merged" if on_disk else None
    merged = merge_scores(shards, out=out)
    whole = make(EVERY, [0, 1])
    for name in whole.names:
        assert merged.column(name).tolist() == whole.column(name).tolist()
        assert merged.column(name).dtype == whole.column(name).dtype
    assert merged.steps == [100, 200]
    assert merged.manifest["num_tokens"] == int(whole.num_tokens.sum())
    assert merged.manifest["recipe"]["checkpoints"] == ["sha 0", "sha 1"]
    assert merged.corpus_path == whole.corpus_path
    if out is not None:
        assert len([*out.glob("part-*.parquet")]) == 5
        again = merge_scores(shards[::-1], out=out)  # recognised in any order
        assert again.manifest == merged.manifest


@pytest.mark.parametrize("on_disk", [False, True])
def test_other_checkpoints_come_in_the_order_of_their_updates(
    make: Make, tmp_path: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "PART_PAIRS", 64)
    out = tmp_path / "merged" if on_disk else None
    merged = merge_scores([make(EVERY, [1, 3]), make(EVERY, [0, 2])], out=out)
    assert merged.nll.tolist() == NLL.tolist()
    assert merged.steps == [100, 200, 300, 400]
    assert merged.manifest["recipe"]["checkpoints"] == ["sha 0", "sha 1", "sha 2", "sha 3"]
    assert merged.names == (
        *("pair", "num_src_tokens", "num_tokens", "nll_0", "nll_1", "nll_2", "nll_3"),
    )


def test_what_was_measured_of_one_table_is_said_of_it_alone(make: Make, tmp_path: Path) -> None:
    shards = [make(EVERY[rank::2], [0, 1], rank=rank) for rank in range(2)]
    for shard, spearman, torch in zip(shards, (0.999, 0.998), ("2.1", "2.2"), strict=True):
        shard.manifest = {
            **shard.manifest,
            "rank_agreement": {"spearman": spearman},
            "exact_cut": {"keep": 0.5, "num_pairs": 7},
            "torch": torch,
            "tokenizer_sha256": "t",
            "model_flops": 10,
            "tokens_per_s": 3.0,
            "corpus_options": {"eos_id": 2, "opened": torch},  # either opens the same corpus
        }
    merged = merge_scores(shards, out=tmp_path / "merged").manifest
    assert not merged.keys() & {"rank_agreement", "exact_cut", "torch", "tokens_per_s"}
    assert (merged["tokenizer_sha256"], merged["model_flops"]) == ("t", 20)
    assert merged["corpus_options"]["eos_id"] == 2
    assert [each["recipe"] for each in merged["inputs"]] == merged["recipe"]["merged"]
    by_spearman = sorted(merged["inputs"], key=lambda each: each["rank_agreement"]["spearman"])
    assert [{**each, "recipe": ""} for each in by_spearman] == [
        {
            "recipe": "",
            "num_pairs": 150,
            "steps": [100, 200],
            "torch": torch,
            "rank_agreement": {"spearman": spearman},
            "exact_cut": {"keep": 0.5, "num_pairs": 7},
        }
        for spearman, torch in ((0.998, "2.2"), (0.999, "2.1"))
    ]
    more = make(EVERY, [2])
    again = merge_scores([ScoreTable.open(tmp_path / "merged"), more]).manifest
    nested = [each["inputs"] for each in again["inputs"] if "inputs" in each]
    assert nested == [merged["inputs"]]
    assert "model_flops" not in again  # unknown of the other table


def test_tables_that_do_not_belong_together_are_refused(make: Make) -> None:
    first = make(EVERY[:200], [0, 1])
    foreign = make(EVERY[200:], [0, 1])
    foreign.manifest = {**foreign.manifest, "corpus": "another"}
    other_stats = make(EVERY[200:], [0, 1])
    columns = other_stats.rows(other_stats.names, 0, 100)
    for k in range(2):
        columns = columns.append_column(f"el2n_{k}", columns["nll_0"])
    other_stats = ScoreTable.from_arrow(columns, other_stats.manifest)
    for others, message in (
        ([other_stats], r"found statistics \('nll', 'el2n'\), but table in memory has \('nll',\)"),
        ([], "found 1 score tables to merge, expected two or more"),
        ([foreign], "table in memory: found corpus another, but table in memory has "),
        ([make(EVERY[200:], [0, 1], dtype="y")], "found dtype y, but table in memory has x"),
        ([make(EVERY[199:], [0, 1])], "pair 199 is in two of the tables, which have the same"),
        ([make(EVERY[200:], [2])], "has other checkpoints than table in memory and other pairs"),
        ([make(EVERY[:200], [1, 2])], "a checkpoint is in two of the tables"),
    ):
        with pytest.raises(PycatError, match=message):
            merge_scores([first, *others])


def test_the_folder_of_an_input_is_no_place_for_the_result(make: Make, tmp_path: Path) -> None:
    shards = [make(EVERY[rank::2], [0, 1]) for rank in range(2)]
    merge_scores(shards, out=tmp_path / "one")
    one = ScoreTable.open(tmp_path / "one")
    other = make(EVERY, [2, 3])
    with pytest.raises(OutputError, match="one: is one of the tables to merge; name another"):
        merge_scores([one, other], out=tmp_path / "one", overwrite=True)
    assert len(ScoreTable.open(tmp_path / "one").nll) == 300


def test_pairs_cut_to_other_lengths_are_refused(make: Make) -> None:
    one, other = make(EVERY, [0, 1]), make(EVERY, [2, 3])
    columns = other.rows(list(other.names), 0, 300)
    at = columns.column_names.index("num_tokens")
    cut = columns.set_column(at, "num_tokens", pa.array(np.minimum(other.num_tokens, 3)))
    with pytest.raises(PycatError, match="num_tokens differs from that in table in memory, as"):
        merge_scores([one, ScoreTable.from_arrow(cut, other.manifest)])
