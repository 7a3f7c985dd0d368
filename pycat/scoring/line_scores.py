"""Scores as other scorers write them, line by line in the order of the text.

Formats, with n target tokens of a pair, EOS counted, and p_t the probability of the t-th:

    marian   sum over t of ln p_t, as `marian-scorer` prints it: a number a line of the text
    fairseq  `S- T- H- D- P-` lines as `fairseq-generate --score-reference` prints them: `H-` has
             mean over t of log2 p_t, `P-` each log2 p_t; ids are line numbers from 0
    jsonl    an object a line of the text: `line` (from 1), `pair`, `num_tokens`, `nll` (nats, a
             number a checkpoint), and with per_token `token_nll`, a list a checkpoint

A line that is not in the corpus is `nan` (marian), left out (fairseq, whose ids show the gap), or
`{"line": …, "pair": null, "skipped": "<reason>"}` (jsonl): line i of the output, or the lines of id
i, always belong to line i of the text.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import SKIPPED_FILE, Corpus, as_corpus
from pycat.errors import CorpusError, OutputError, PycatError, TokenizerError
from pycat.runtime.device import SCORING_DTYPES, choose_device, choose_dtype
from pycat.runtime.output import replacing
from pycat.runtime.progress import progress
from pycat.scoring.adapter import Adapter
from pycat.scoring.engine import batch_sums, check_too_long, make_forward
from pycat.scoring.forward import Forward
from pycat.scoring.loading import Checkpoint, load_adapters
from pycat.scoring.truncation import KeptLengths

FORMATS = ("fairseq", "marian", "jsonl")

# Pairs scored before their lines are written: bounds memory.
_PART_PAIRS = 65_536

_Pieces = Callable[[NDArray[Any]], tuple[str, str]]


def score_lines(
    corpus: Corpus | str | PathLike[str],
    checkpoints: Checkpoint | Sequence[Checkpoint],
    *,
    format: str,
    out: str | PathLike[str] | None = None,
    per_token: bool = False,
    batch_tokens: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    too_long: str = "refuse",
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write the log-probability of each target as fairseq, Marian or JSON lines have it.

    Args:
        corpus: an open Corpus, or the path of one.
        checkpoints: one or more, as for `score`.
        format: "fairseq", "marian" or "jsonl".
        out: the file to write, None for standard output. With several checkpoints, fairseq and
            marian write a file each, the update count in its name: `scores-1000.txt`.
        per_token: scores of single tokens, in jsonl; fairseq always has them.
        batch_tokens, device, dtype, too_long: as for `score`.
        overwrite: replace files that exist.

    Returns:
        The files written.

    Raises:
        CheckpointError, CorpusError: as for `score`.
        OutputError: a file exists, or several checkpoints have no file.
    """
    if format not in FORMATS:
        raise PycatError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    if per_token and format == "marian":
        raise PycatError(
            "marian-scorer writes no scores of tokens; for those use format jsonl or fairseq"
        )
    check_too_long(too_long)
    corpus = as_corpus(corpus)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device, SCORING_DTYPES)
    models = [
        adapter.to(torch_device) for adapter in load_adapters(checkpoints, corpus, at_least=1)
    ]
    kept = KeptLengths.of(corpus, models, too_long)
    num_files = 1 if format == "jsonl" else len(models)
    paths = _paths(out, [model.step for model in models][:num_files], num_files)
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path}: exists; pass --overwrite (overwrite=True) to replace it, or choose "
                "another name"
            )
    pieces = _piece_writer(corpus) if format == "fairseq" else None
    lines = _Lines(corpus)
    with_tokens = per_token or format == "fairseq"
    forward = make_forward(models, kept, torch_device, torch_dtype, per_token=with_tokens)
    with (
        progress("score", int(kept.tgt.sum()) * len(models), "tokens") as advance,
        ExitStack() as stack,
    ):
        files: list[TextIO] = [sys.stdout]
        if paths:
            temporaries = [stack.enter_context(replacing(path)) for path in paths]
            files = [
                stack.enter_context(temporary.open("w", encoding="utf-8"))
                for temporary in temporaries
            ]
        for first in range(0, len(corpus), _PART_PAIRS):
            part = corpus[first : first + _PART_PAIRS]
            lengths = kept.rows(first, len(part))
            tokens, starts, nll = _part_nll(
                part,
                models,
                lengths,
                forward,
                batch_tokens,
                advance,
                per_token=with_tokens,
            )
            for row in range(len(part)):
                some = None if tokens is None else tokens[:, starts[row] : starts[row + 1]]
                gaps, line = lines.up_to(first + row)
                if format == "jsonl":
                    files[0].writelines(_skipped_json(number, why) for number, why in gaps)
                    length = int(lengths.tgt[row])
                    files[0].write(
                        _json(line, int(part.pair_ids[row]), length, nll[:, row], some, per_token)
                    )
                    continue
                for k, file in enumerate(files):
                    if format == "marian":
                        file.write("nan\n" * len(gaps) + f"{-nll[k, row]:.6f}\n")
                    elif pieces is not None and some is not None:
                        src, tgt = part[row]
                        texts = pieces(src), pieces(tgt[: lengths.tgt[row]])
                        file.write(_fairseq(line, *texts, some[k]))
        rest, _ = lines.up_to(len(corpus))
        if format == "jsonl":
            files[0].writelines(_skipped_json(number, why) for number, why in rest)
        elif format == "marian":
            for file in files:
                file.write("nan\n" * len(rest))
    return paths


def _paths(
    out: str | PathLike[str] | None, steps: Sequence[int], num_files: int
) -> tuple[Path, ...]:
    if out is None and num_files > 1:
        raise OutputError(
            f"{num_files} checkpoints cannot share standard output in this format; pass --out, or "
            "use --format jsonl"
        )
    if out is None:
        return ()
    path = Path(out)
    if num_files == 1:
        return (path,)
    paths = tuple(path.with_name(f"{path.stem}-{step}{path.suffix}") for step in steps)
    if len(set(paths)) < num_files:
        raise OutputError(
            f"{path}: checkpoints of equal update counts {list(steps)} would share a file; score "
            "them one by one, or use --format jsonl"
        )
    return paths


def _part_nll(
    part: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    forward: Forward,
    batch_tokens: int | None,
    advance: Callable[[int], None],
    *,
    per_token: bool,
) -> tuple[NDArray[np.float64] | None, NDArray[np.int64], NDArray[np.float64]]:
    """Nll of tokens (K, T) if asked for, where each pair's begin (N + 1,), and of pairs (K, N)."""
    starts = np.concatenate(([0], np.cumsum(lengths.tgt, dtype=np.int64)))
    nll = np.empty((len(models), len(part)))
    tokens = np.empty((len(models), starts[-1])) if per_token else None
    for rows, found in batch_sums(part, models, lengths, forward, batch_tokens, advance):
        values, boundaries = found.nll_per_token, found.tgt_cu_seqlens
        if tokens is None or values is None:
            nll[:, rows] = found.sums[0]
            continue
        for i, row in enumerate(rows.tolist()):
            own = values[:, boundaries[i] : boundaries[i + 1]]
            tokens[:, starts[row] : starts[row + 1]] = own
            nll[:, row] = own.sum(axis=1)
    return tokens, starts, nll


class _Lines:
    """Which line of the text each pair is, and why the lines between have none."""

    def __init__(self, corpus: Corpus) -> None:
        self._reasons: dict[int, str] = {}
        if corpus.has_text:
            self._lines, self._num_lines = corpus.lines, int(corpus.manifest["num_lines"])
            with (corpus.path / SKIPPED_FILE).open(encoding="utf-8") as file:
                next(file)
                for row in file:
                    number, why = row.rstrip("\n").split("\t", 1)
                    self._reasons[int(number) - 1] = why
        else:
            self._lines = corpus.pair_ids
            self._num_lines = int(corpus.manifest.get("num_pairs", self._lines[-1] + 1))
        self._next = 0

    def up_to(self, row: int) -> tuple[list[tuple[int, str]], int]:
        """Lines without a pair since the last call, with reasons, and the line of pair `row`."""
        line = int(self._lines[row]) if row < len(self._lines) else self._num_lines
        gaps = [
            (number, self._reasons.get(number, "not in this view of the corpus"))
            for number in range(self._next, line)
        ]
        self._next = line + 1
        return gaps, line


def _piece_writer(corpus: Corpus) -> _Pieces:
    """A sentence's tokens as spelled in the vocabulary, and its text; ids where none is known."""
    try:
        tokenizer = corpus.tokenizer
    except (CorpusError, TokenizerError):
        tokenizer = None

    def write(tokens: NDArray[Any]) -> tuple[str, str]:
        ids = [token for token in tokens.tolist() if token != corpus.eos_id]
        if tokenizer is None:
            return (" ".join(map(str, ids)),) * 2
        # Byte fallback can spell line ends, and a sentence is one line.
        [text] = tokenizer.decode([ids])
        return " ".join(tokenizer.pieces(ids)), text.replace("\r", " ").replace("\n", " ")

    return write


def _fairseq(
    line: int, src: tuple[str, str], tgt: tuple[str, str], nll: NDArray[np.float64]
) -> str:
    scores = -nll / math.log(2)
    mean = float(scores.mean())
    return (
        f"S-{line}\t{src[0]}\nT-{line}\t{tgt[0]}\nH-{line}\t{mean}\t{tgt[0]}\n"
        f"D-{line}\t{mean}\t{tgt[1]}\n"
        f"P-{line}\t{' '.join(f'{score:.4f}' for score in scores)}\n"
    )


def _json(
    line: int,
    pair: int,
    num_tokens: int,
    nll: NDArray[np.float64],
    tokens: NDArray[np.float64] | None,
    per_token: bool,
) -> str:
    record = {"line": line + 1, "pair": pair, "num_tokens": num_tokens, "nll": nll.tolist()}
    if per_token and tokens is not None:
        record["token_nll"] = tokens.tolist()
    return json.dumps(record) + "\n"


def _skipped_json(line: int, reason: str) -> str:
    return json.dumps({"line": line + 1, "pair": None, "skipped": reason}) + "\n"
