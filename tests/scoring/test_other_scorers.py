"""Scores against CTranslate2's, whose code shares nothing with ours, for the same weights."""

import math
from pathlib import Path

import numpy as np
import pytest
from tolerances import assert_nll

import pycat
from pycat.proxy.checkpoint import read_info, save_checkpoint
from pycat.proxy.transformer import ModelConfig
from pycat.scoring.adapter import ProxyAdapter

ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is the oracle here")

from proxies import EOS_ID, random_proxy, save_ctranslate2, words, write_corpus  # noqa: E402

CONFIG = ModelConfig(vocab_size=500, d_model=64, num_heads=4, d_ff=128, num_layers=2)


def test_float32_scores_equal_ctranslate2(tmp_path: Path) -> None:
    # Each length from 1, EOS alone, to 60, with a source of any other.
    lengths = np.tile(np.arange(1, 61, dtype=np.int32), (2, 3))
    lengths[0] = np.random.default_rng(0).permutation(lengths[0])
    corpus = write_corpus(tmp_path, lengths, CONFIG.vocab_size)
    src, tgt = words(corpus)
    adapters, theirs = [], []
    for k in range(2):
        model = random_proxy(CONFIG, seed=k, learned=(k + 1) / 2)
        model.decoder_norm.weight.data.mul_(4.0)  # sure of its tokens, right or wrong
        path = tmp_path / f"{k}.safetensors"
        save_checkpoint(path, model, step=k + 1, tokenizer_sha256="none")
        adapters.append(ProxyAdapter(read_info(path), EOS_ID))
        save_ctranslate2(model, tmp_path / f"{k}")
        translator = ctranslate2.Translator(str(tmp_path / f"{k}"), compute_type="float32")
        log_probs = [result.log_probs for result in translator.score_batch(src, tgt)]
        assert [len(row) for row in log_probs] == corpus.num_tokens.tolist()
        assert np.std(np.concatenate(log_probs)) > 3  # a uniform guess would have 0
        theirs.append([-math.fsum(row) for row in log_probs])
    table = pycat.score(corpus, adapters, device="cpu", dtype="float32")
    assert_nll(table.nll, np.array(theirs).T, corpus.num_tokens[:, None], float32_sides=2)
