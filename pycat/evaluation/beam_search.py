"""Translate by beam search."""

import re
from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import Tensor

from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.tokenizer import Tokenizer
from pycat.proxy.transformer import Transformer
from pycat.runtime.progress import progress


def translate(
    model: Transformer,
    tokenizer: Tokenizer | HuggingFaceTokenizer,
    sentences: Sequence[str],
    *,
    beam: int = 5,
    length_penalty: float = 1.0,
    batch_tokens: int = 4096,
    max_source_tokens: int = 512,
) -> list[str]:
    """Translate sentences, batched by length.

    Args:
        model: in evaluation mode; its device computes.
        tokenizer: the one the model was trained with.
        sentences: source text; a blank one translates to "".
        beam: hypotheses kept alive a sentence; 1 is greedy search.
        length_penalty: alpha of score = log p / length ** alpha, EOS counted.
        batch_tokens: source tokens times `beam` of a batch; bounds memory, changes nothing else
            beyond rounding.
        max_source_tokens: longer sources are cut there.

    Returns:
        One translation a sentence, in order.
    """
    rows = [row[: max_source_tokens - 1] for row in tokenizer.encode(sentences)]
    rows = [row if row[-1] == tokenizer.eos_id else [*row, tokenizer.eos_id] for row in rows]
    order = sorted((i for i in range(len(rows)) if len(rows[i]) > 1), key=lambda i: len(rows[i]))
    results: list[list[int]] = [[] for _ in rows]
    with progress("translate", len(order), "sentences") as advance:
        first = 0
        while first < len(order):
            last = first + 1
            while (
                last < len(order)
                and (last + 1 - first) * len(rows[order[last]]) * beam <= batch_tokens
            ):
                last += 1
            ids = order[first:last]
            found = beam_search(
                model, [rows[i] for i in ids], tokenizer.eos_id, beam, length_penalty
            )
            for i, hypothesis in zip(ids, found, strict=True):
                results[i] = hypothesis
            advance(len(ids))
            first = last
    # Byte fallback can spell line ends, and a translation is one line.
    return [re.sub(r"[\r\n]", " ", text) for text in tokenizer.decode(results)]


@torch.inference_mode()
def beam_search(
    model: Transformer, sources: Sequence[Sequence[int]], eos_id: int, beam: int, alpha: float
) -> list[list[int]]:
    """The best target found for each source under log p / length ** alpha, without EOS.

    Each step keeps the `beam` best unfinished prefixes of a sentence; one that ends among the
    `beam` best continuations is finished. A sentence is done when `beam` hypotheses are finished
    and none alive scores better so far than the best of them; or at twice the source's length and
    ten tokens more, where the prefixes alive count as finished.
    """
    device = model.output_weight.device
    src, lengths = _pad(sources, eos_id, device)
    state = model.start(src, lengths)
    state.reorder(torch.arange(len(sources), device=device).repeat_interleave(beam))
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
    sentences = list(range(len(sources)))  # those not done, one row of `scores` each
    prefixes = src.new_full((len(sources), beam, 1), eos_id)
    # All beams start equal: only the first may continue.
    scores = torch.full((len(sources), beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    while sentences:
        log_probs = torch.log_softmax(model.step(prefixes[:, :, -1].flatten(), state).float(), -1)
        vocab_size = log_probs.shape[-1]
        continued = (scores[:, :, None] + log_probs.view(len(sentences), beam, -1)).flatten(1)
        # Each prefix ends in one way only, so twice `beam` hold at least `beam` that go on.
        scores, best = continued.topk(2 * beam)
        origin, token = best // vocab_size, best % vocab_size
        ends = token == eos_id
        length = prefixes.shape[2]  # of what this step makes, without the leading EOS
        for row, rank in (ends[:, :beam] & scores[:, :beam].isfinite()).nonzero().tolist():
            ids = prefixes[row, origin[row, rank], 1:].tolist()
            score = scores[row, rank].item() / length**alpha
            finished[sentences[row]].append((score, ids))
        going = ends.long().argsort(dim=1, stable=True)[:, :beam]
        scores, origin, token = (x.gather(1, going) for x in (scores, origin, token))
        prefixes = prefixes.gather(1, origin[:, :, None].expand(-1, -1, length))
        prefixes = torch.cat((prefixes, token[:, :, None]), dim=2)
        alive = (scores[:, 0] / length**alpha).tolist()
        rows = []
        for row, sentence in enumerate(sentences):
            if length >= 2 * len(sources[sentence]) + 10:
                finished[sentence] += zip(
                    (scores[row] / length**alpha).tolist(),
                    prefixes[row, :, 1:].tolist(),
                    strict=True,
                )
            elif len(finished[sentence]) < beam or alive[row] > max(finished[sentence])[0]:
                rows.append(row)
        first_rows = torch.arange(0, len(sentences) * beam, beam, device=device)
        moved = origin + first_rows[:, None]
        if len(rows) < len(sentences):
            sentences = [sentences[row] for row in rows]
            keep = torch.tensor(rows, dtype=torch.long, device=device)
            scores, prefixes, moved = scores[keep], prefixes[keep], moved[keep]
            state.reorder(moved.flatten())
        else:
            state.reorder(moved.flatten(), same_source=True)
    return [max(hypotheses, key=itemgetter(0))[1] for hypotheses in finished]


def _pad(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)
    return padded.to(device), lengths
