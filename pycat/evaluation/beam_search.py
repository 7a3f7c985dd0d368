"""Translation by beam search."""

import re
from collections.abc import Callable, Sequence
from operator import itemgetter

import torch
from torch import Tensor

from pycat.data.vocabularies import AnyTokenizer
from pycat.proxy.transformer import Transformer
from pycat.runtime.progress import progress

# From ids of sources, EOS included, to ids of targets, without it.
Search = Callable[[Sequence[Sequence[int]]], list[list[int]]]


def translate(
    model: Transformer,
    tokenizer: AnyTokenizer,
    sentences: Sequence[str],
    *,
    beam: int = 5,
    length_penalty: float = 1.0,
    batch_tokens: int = 4096,
    max_source_tokens: int = 512,
    search: Search | None = None,
) -> list[str]:
    """Translate sentences, batched by length.

    Args:
        model: in evaluation mode; the search runs on its device.
        tokenizer: the one that the model was trained with.
        sentences: source text; a blank sentence translates to "".
        beam: hypotheses kept for each sentence; 1 is greedy search.
        length_penalty: alpha in score = log p / length ** alpha, EOS counted.
        batch_tokens: source tokens times `beam` in a batch. It bounds memory and changes results
            by rounding only.
        max_source_tokens: longer sources are cut to this length, EOS counted.
        search: finds the targets in place of `beam_search`; it knows model, beam and penalty.

    Returns:
        A translation of each sentence, in their order.
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
            sources = [rows[i] for i in ids]
            if search is None:
                hypotheses = beam_search(model, sources, tokenizer.eos_id, beam, length_penalty)
            else:
                hypotheses = search(sources)
            for i, hypothesis in zip(ids, hypotheses, strict=True):
                results[i] = hypothesis
            advance(len(ids))
            first = last
    # Byte pieces can decode to line ends, but a translation is one line.
    return [re.sub(r"[\r\n]", " ", text) for text in tokenizer.decode(results)]


@torch.inference_mode()
def beam_search(
    model: Transformer, sources: Sequence[Sequence[int]], eos_id: int, beam: int, alpha: float
) -> list[list[int]]:
    """Search the target of highest log p / length ** alpha for each of S sources.

    Each step keeps the `beam` best unfinished prefixes of a sentence. A prefix that ends among the
    `beam` best continuations becomes a finished hypothesis. The search of a sentence ends when it
    has `beam` finished hypotheses and no unfinished prefix scores higher than the best of them. It
    also ends at twice the source's length plus ten tokens; the unfinished prefixes then count as
    finished.

    Args:
        model: in evaluation mode.
        sources: ids of S source sentences, EOS included.
        eos_id: ends a sentence, and is the decoder's first input.
        beam: prefixes kept for each sentence.
        alpha: exponent of the length, EOS counted.

    Returns:
        Ids of the best target of each source, without EOS.
    """
    device = model.output_weight.device
    src, lengths = _pad(sources, eos_id, device)
    state = model.start(src, lengths)
    state.reorder(torch.arange(len(sources), device=device).repeat_interleave(beam))
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
    sentences = list(range(len(sources)))  # index of the source of each row below
    prefixes = src.new_full((len(sources), beam, 1), eos_id)  # (S, beam, length)
    # All beams of a sentence start with the same prefix, so only the first may be continued.
    scores = torch.full((len(sources), beam), -torch.inf, device=device)
    scores[:, 0] = 0.0  # (S, beam)
    while sentences:
        # Continue each prefix by each token, and keep the 2 * beam best continuations. Each prefix
        # can end in one way only, so at least `beam` of those go on.
        log_probs = torch.log_softmax(model.step(prefixes[:, :, -1].flatten(), state).float(), -1)
        vocab_size = log_probs.shape[-1]
        continued = (scores[:, :, None] + log_probs.view(len(sentences), beam, -1)).flatten(1)
        scores, best = continued.topk(2 * beam)
        origin, token = best // vocab_size, best % vocab_size

        # Continuations that end among the `beam` best are finished hypotheses.
        ends = token == eos_id
        length = prefixes.shape[2]  # tokens of a continuation, without the leading EOS
        for row, rank in (ends[:, :beam] & scores[:, :beam].isfinite()).nonzero().tolist():
            ids = prefixes[row, origin[row, rank], 1:].tolist()
            score = scores[row, rank].item() / length**alpha
            finished[sentences[row]].append((score, ids))

        # The `beam` best continuations that do not end are the next prefixes.
        going = ends.long().argsort(dim=1, stable=True)[:, :beam]
        scores, origin, token = (x.gather(1, going) for x in (scores, origin, token))
        prefixes = prefixes.gather(1, origin[:, :, None].expand(-1, -1, length))
        prefixes = torch.cat((prefixes, token[:, :, None]), dim=2)

        # Rows of the sentences that are not done.
        best_open = (scores[:, 0] / length**alpha).tolist()
        rows = []
        for row, sentence in enumerate(sentences):
            if length >= 2 * len(sources[sentence]) + 10:
                finished[sentence] += zip(
                    (scores[row] / length**alpha).tolist(),
                    prefixes[row, :, 1:].tolist(),
                    strict=True,
                )
            elif len(finished[sentence]) < beam or best_open[row] > max(finished[sentence])[0]:
                rows.append(row)

        # Put the decoder's state in the order of the new prefixes.
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
    """Rows of ids padded at the end, (S, max length), and their lengths (S,)."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)
    return padded.to(device), lengths
