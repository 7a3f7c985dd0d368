"""Rarity of target tokens against cases worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import pycat
from pycat.data.corpus import Corpus
from pycat.ranking.rarity import token_rarity


@pytest.fixture
def word_corpus(tmp_path: Path) -> Corpus:
    """Three pairs whose target tokens are whole words: 4 x mo, 2 x ka, 1 x ri, 1 x su."""
    src, tgt = ["a b", "a", "b"], ["mo mo ka", "mo ri", "ka su mo"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(src + tgt),
        model_prefix=str(tmp_path / "word"),
        model_type="word",
        vocab_size=9,
        minloglevel=2,
    )
    for name, lines in (("t.xx", src), ("t.yy", tgt)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
    return pycat.tokenize(
        tmp_path / "t.xx",
        tmp_path / "t.yy",
        out=tmp_path / "corpus",
        tokenizer=tmp_path / "word.model",
    )


def test_rarity_is_the_mean_surprisal_in_bits(word_corpus: Corpus) -> None:
    # Of 8 tokens mo is 1/2 (1 bit), ka 1/4 (2 bits), ri and su 1/8 (3 bits); EOS counts nowhere.
    rarity = token_rarity(word_corpus)
    assert rarity.dtype == np.float32
    np.testing.assert_allclose(rarity, [(1 + 1 + 2) / 3, (1 + 3) / 2, (2 + 3 + 1) / 3], rtol=1e-6)


def test_rarity_of_a_view_counts_the_view_alone(word_corpus: Corpus) -> None:
    # mo, ri, ka, su, mo: 2/5 for mo and 1/5 for the others.
    mo, other = -math.log2(2 / 5), -math.log2(1 / 5)
    rarity = token_rarity(word_corpus.subset(np.array([1, 2])))
    np.testing.assert_allclose(rarity, [(mo + other) / 2, (mo + 2 * other) / 3], rtol=1e-6)


def test_rarity_does_not_depend_on_the_block(
    word_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = token_rarity(word_corpus)
    monkeypatch.setattr("pycat.ranking.rarity._BLOCK_PAIRS", 2)
    np.testing.assert_array_equal(token_rarity(word_corpus), whole)
