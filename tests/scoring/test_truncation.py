"""Pairs cut to what a model has positions for."""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import pycat
from pycat.data.batches import length_mask
from pycat.scoring.truncation import cut_packed, cut_padded


def test_packed_batches_are_cut_as_padded_ones(toy_corpus: pycat.Corpus) -> None:
    some = toy_corpus[:20]
    sides = [torch.from_numpy(lengths) for lengths in some.lengths]
    src, tgt = (torch.clamp(lengths, max=6) for lengths in sides)
    whole = some.read(some.pair_ids)
    rows = [
        pad_sequence(list(torch.split(tokens, lengths.tolist())), batch_first=True)
        for tokens, lengths in zip(whole[0:4:2], sides, strict=True)
    ]
    padded = cut_padded(whole._replace(src_tokens=rows[0], tgt_tokens=rows[1]), src, tgt, 2)
    packed = cut_packed(whole, src, tgt, 2)
    assert len(packed.src_tokens) < len(whole.src_tokens)
    for side in (0, 2):
        np.testing.assert_array_equal(packed[side + 1], padded[side + 1])
        kept = length_mask(padded[side], padded[side + 1])
        np.testing.assert_array_equal(packed[side], padded[side][kept])
