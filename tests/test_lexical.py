"""Lexical scores: the table of a tiny corpus against Model 1 written out, and what they find."""

from pathlib import Path

import numpy as np
import pytest
from conftest import toy_pairs

import pycat
import pycat.lexical
from pycat.lexical import lexical_scores
from pycat.tokenizing import tokenize


def corpus_of(
    folder: Path, pairs: list[tuple[str, str]], tokenizer: Path | None = None
) -> pycat.Corpus:
    folder.mkdir(exist_ok=True)
    text = folder / "text.tsv"
    text.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs), "utf-8")
    return tokenize(tsv=text, out=folder / "corpus", tokenizer=tokenizer)


def by_hand(corpus: pycat.Corpus, given: int, rounds: int) -> list[float]:
    """The same over dictionaries, a pair and a token at a time."""
    pairs = [tuple(side[:-1].tolist() for side in corpus[i]) for i in range(len(corpus))]
    pairs = [([-1, *pair[given]], pair[1 - given]) for pair in pairs]
    counts: dict[tuple[int, int], float] = {}
    totals: dict[int, float] = {}
    before: tuple[dict[tuple[int, int], float], dict[int, float]] = ({}, {})
    for _ in range(rounds):
        before, (counts, totals) = (counts, totals), ({}, {})
        for xs, ys in pairs:
            for y in ys:
                chance = [before[0].get((x, y), 1.0) / before[1].get(x, 1.0) for x in xs]
                for x, share in zip(xs, chance, strict=True):
                    counts[x, y] = counts.get((x, y), 0.0) + share / sum(chance)
                    totals[x] = totals.get(x, 0.0) + share / sum(chance)
    num_y = sum(len(ys) for _, ys in pairs)
    scores = []
    for xs, ys in pairs:
        ratios = []
        for y in ys:
            chance = [before[0].get((x, y), 1.0) / before[1].get(x, 1.0) for x in xs]
            own = [share / sum(chance) for share in chance]
            rest = [
                max(counts[x, y] - o, 0) / max(totals[x] - o, 1e-3)
                for x, o in zip(xs, own, strict=True)
            ]
            frequency = sum(ys.count(y) for _, ys in pairs)
            ratios.append(
                np.log(max(sum(rest) / len(rest), 1e-7))
                - np.log((frequency + 1) / (num_y + corpus.vocab_size))
            )
        scores.append(float(np.mean(ratios)))
    return scores


@pytest.mark.parametrize("given", [0, 1])
def test_scores_are_model_1_without_the_pair_itself(
    tmp_path: Path, toy_corpus: pycat.Corpus, given: int
) -> None:
    corpus = toy_corpus[:40]
    found = lexical_scores(corpus)[given]
    np.testing.assert_allclose(
        found, by_hand(corpus, given, pycat.lexical._NUM_ROUNDS), rtol=2e-3, atol=2e-3
    )


def test_misaligned_pairs_score_low(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    pairs = toy_pairs(3000, seed=1)
    wrong = np.random.default_rng(0).random(3000) < 0.1
    shifted = [pair[1] for pair in pairs[1:]] + [pairs[0][1]]
    mixed = [(src, shifted[i] if wrong[i] else tgt) for i, (src, tgt) in enumerate(pairs)]
    corpus = corpus_of(tmp_path, mixed, toy_corpus.path / "tokenizer.model")
    for scores in lexical_scores(corpus):
        higher = (scores[~wrong][:, None] > scores[wrong]).mean()
        assert higher > 0.85  # neighbours share some words: every number has a unit


def test_chunks_do_not_matter_and_a_sample_is_close(
    toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lexical_scores(toy_corpus)
    monkeypatch.setattr(pycat.lexical, "_CHUNK_CELLS", 500)
    for one, other in zip(whole, lexical_scores(toy_corpus), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    for one, other in zip(whole, lexical_scores(toy_corpus, max_sample=200), strict=True):
        assert np.isfinite(other).all()
        assert np.corrcoef(one, other)[0, 1] > 0.8


def test_long_sides_are_cut_and_views_work(
    toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pycat.lexical, "_MAX_TOKENS", 3)
    view = toy_corpus.subset(np.arange(5, 300, 7))
    for scores in lexical_scores(view):
        assert scores.shape == (len(view),)
        assert np.isfinite(scores).all()


def test_tokens_that_the_sample_never_saw_leave_no_nan(tmp_path: Path, toy_tokenizer: Path) -> None:
    corpus = corpus_of(tmp_path / "c", toy_pairs(601), toy_tokenizer)
    for side in lexical_scores(corpus, max_sample=20):
        assert np.isfinite(side).all()
        assert len(np.unique(side)) > 100
