"""Scores in the formats of other scorers, line by line in the order of the text.

Formats, with n target tokens of a pair, EOS counted, and p_t the probability of the t-th:

    marian   sum over t of ln p_t, as `marian-scorer` prints it: a number a line of the text. With
             `normalize` their mean; with `summary` one number for the whole text
    fairseq  `S- T- H- D- P-` lines as `fairseq-generate --score-reference` prints them: `H-` has
             mean over t of log2 p_t, `P-` each log2 p_t; ids are line numbers from 0
    jsonl    an object a line of the text: `line` (from 1), `pair`, `num_tokens`, `nll` (nats, a
             number a checkpoint), and with per_token `token_nll`, a list a checkpoint

A line that is not in the corpus becomes `nan` (marian), is left out (fairseq, whose ids show the
gap), or becomes `{"line": …, "pair": null, "skipped": "<reason>"}` (jsonl). Line i of the output,
or the lines of id i, always belong to line i of the text.
"""

import io
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import SKIPPED_FILE, Corpus
from pycat.data.opening import as_corpus
from pycat.errors import CorpusError, OutputError, PycatError, TokenizerError
from pycat.runtime.device import SCORING_DTYPES, choose_device, choose_dtype
from pycat.runtime.named_files import is_standard_output, is_stream, refuse_existing, writing
from pycat.runtime.numbers import check_number
from pycat.runtime.progress import progress
from pycat.scoring.adapter import Adapter
from pycat.scoring.engine import check_too_long
from pycat.scoring.forward import Forward
from pycat.scoring.loading import Checkpoint, load_adapters
from pycat.scoring.sums import batch_sums, make_forward
from pycat.scoring.truncation import KeptLengths

FORMATS = ("fairseq", "marian", "jsonl")
SUMMARIES = ("cross-entropy", "ce-mean", "ce-mean-words", "ce-sum", "perplexity")

# Pairs scored before their lines are written: bounds memory.
_PART_PAIRS = 65_536

_Pieces = Callable[[NDArray[Any], bool], tuple[str, str]]

# What would end a field or a line of fairseq's format for some reader: byte-level pieces can spell
# any of these, and a sentence is one field.
_BLANKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BLANKS_AND_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


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
    normalize: bool = False,
    summary: str | None = None,
) -> tuple[Path, ...]:
    """Write the log-probability of each target as fairseq or Marian does, or as JSON lines.

    Args:
        corpus: an open Corpus, or the path of one.
        checkpoints: one or more, as for `score`.
        format: "fairseq", "marian" or "jsonl".
        out: the file to write, None or "-" for standard output. For several checkpoints, fairseq
            and marian write a file each, with the update count in its name: `scores-1000.txt`.
        per_token: write scores of single tokens in jsonl; fairseq always has them.
        batch_tokens, device, dtype, too_long: as for `score`.
        overwrite: replace files that exist.
        normalize: in marian, divide each score by its number of tokens, EOS counted.
        summary: in marian, one number in place of the lines: "cross-entropy" or "ce-mean", nats a
            pair; "ce-mean-words", nats a token; "ce-sum", nats in all; "perplexity".

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
    if (normalize or summary is not None) and format != "marian":
        raise PycatError("normalize and summary go with the format marian; leave them out")
    if summary is not None and summary not in SUMMARIES:
        raise PycatError(f"summary is {summary!r}; expected one of {', '.join(SUMMARIES)}")
    check_too_long(too_long)
    if batch_tokens is not None:
        check_number("batch_tokens", batch_tokens, low=1)
    corpus = as_corpus(corpus)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device, SCORING_DTYPES)
    models = [
        adapter.to(torch_device)
        for adapter in load_adapters(checkpoints, corpus, min_checkpoints=1)
    ]
    kept = KeptLengths.of(corpus, models, too_long)
    num_files = 1 if format == "jsonl" else len(models)
    paths = _paths(out, [model.step for model in models][:num_files], num_files)
    if not overwrite:
        refuse_existing(paths)
    writer = _Writer(corpus, format, per_token, normalize, summary)
    forward = make_forward(
        models, kept, torch_device, torch_dtype, per_token=writer.needs_token_scores
    )
    with (
        progress("score", int(kept.tgt.sum()) * len(models), "tokens") as advance,
        ExitStack() as stack,
    ):
        files: list[TextIO] = [sys.stdout]
        if paths:
            streams = stack.enter_context(writing(paths, overwrite=overwrite))
            files = [
                io.TextIOWrapper(cast(BinaryIO, stream), "utf-8", newline="\n")
                for stream in streams
            ]
        elif isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        for first in range(0, len(corpus), _PART_PAIRS):
            part = corpus[first : first + _PART_PAIRS]
            lengths = kept.rows(first, len(part))
            scores = _part_scores(
                part,
                models,
                lengths,
                forward,
                batch_tokens,
                advance,
                per_token=writer.needs_token_scores,
            )
            writer.write(files, first, part, lengths, scores)
        writer.finish(files)
        for file in files:
            file.flush()
    return paths


def _paths(
    out: str | PathLike[str] | None, steps: Sequence[int], num_files: int
) -> tuple[Path, ...]:
    path = Path("-" if out is None else out)
    if num_files > 1 and is_stream(path):
        name = "standard output" if is_standard_output(path) else str(path)
        raise OutputError(
            f"{num_files} checkpoints cannot share {name} in this format; pass --out with the name "
            "of a file, or use --format jsonl"
        )
    if str(path) == "-":
        return ()
    if num_files == 1:
        return (path,)
    paths = tuple(path.with_name(f"{path.stem}-{step}{path.suffix}") for step in steps)
    if len(set(paths)) < num_files:
        raise OutputError(
            f"{path}: checkpoints of equal update counts {list(steps)} would share a file; score "
            "them one by one, or use --format jsonl"
        )
    return paths


class _PartScores(NamedTuple):
    """Nll of a part of N pairs with T target tokens under K checkpoints.

    Attributes:
        nll: float64 (K, N), in nats.
        nll_per_token: float64 (K, T), pair after pair; None unless asked for.
        starts: int64 (N + 1,), where the tokens of each pair begin, then T.
    """

    nll: NDArray[np.float64]
    nll_per_token: NDArray[np.float64] | None
    starts: NDArray[np.int64]


def _part_scores(
    part: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    forward: Forward,
    batch_tokens: int | None,
    advance: Callable[[int], None],
    *,
    per_token: bool,
) -> _PartScores:
    """Score a part of the corpus, and put batches back into the order of its pairs."""
    starts = np.concatenate(([0], np.cumsum(lengths.tgt, dtype=np.int64)))
    nll = np.empty((len(models), len(part)))
    tokens = np.empty((len(models), starts[-1])) if per_token else None
    for rows, batch in batch_sums(part, models, lengths, forward, batch_tokens, advance):
        if tokens is None or batch.nll_per_token is None:
            nll[:, rows] = batch.sums[0]
            continue
        ends = batch.tgt_cu_seqlens
        for i, row in enumerate(rows.tolist()):
            pair_nll = batch.nll_per_token[:, ends[i] : ends[i + 1]]  # (K, tokens)
            tokens[:, starts[row] : starts[row + 1]] = pair_nll
            nll[:, row] = pair_nll.sum(axis=1)
    return _PartScores(nll, tokens, starts)


class _Writer:
    """Writes scores of pairs in one of the formats, and the lines between that have no pair.

    Attributes:
        needs_token_scores: whether the format has scores of single tokens.
    """

    def __init__(
        self, corpus: Corpus, format: str, per_token: bool, normalize: bool, summary: str | None
    ) -> None:
        self._normalize, self._summary = normalize, summary
        self._nll_sums: Any = 0.0  # (K,) over all pairs
        self._num_tokens = 0
        self._format, self._num_pairs = format, len(corpus)
        self._lines = _Lines(corpus)
        self._pieces = _piece_writer(corpus) if format == "fairseq" else None
        self.needs_token_scores = per_token or format == "fairseq"

    def write(
        self,
        files: Sequence[TextIO],
        first: int,
        part: Corpus,
        lengths: KeptLengths,
        scores: _PartScores,
    ) -> None:
        """Write a part of the corpus that begins with row `first`, in order."""
        starts = scores.starts.tolist()
        if self._summary is not None:
            self._nll_sums = self._nll_sums + scores.nll.sum(axis=1)
            self._num_tokens += starts[-1]
            return
        nll = scores.nll / lengths.tgt if self._normalize else scores.nll
        for row in range(len(part)):
            gaps, line = self._lines.up_to(first + row)
            self._write_gaps(files, gaps)
            tokens = None
            if scores.nll_per_token is not None:
                tokens = scores.nll_per_token[:, starts[row] : starts[row + 1]]
            if self._format == "jsonl":
                pair, length = int(part.pair_ids[row]), int(lengths.tgt[row])
                files[0].write(_json(line, pair, length, scores.nll[:, row], tokens))
                continue
            for k, file in enumerate(files):
                if self._format == "marian":
                    file.write(f"{-nll[k, row]:.6f}\n")
                elif self._pieces is not None and tokens is not None:
                    src, tgt = part[row]
                    texts = self._pieces(src, True), self._pieces(tgt[: lengths.tgt[row]], False)
                    file.write(_fairseq(line, *texts, tokens[k]))

    def finish(self, files: Sequence[TextIO]) -> None:
        """Write the lines after the last pair, or the summary of all."""
        if self._summary is not None:
            for file, nll in zip(files, self._nll_sums, strict=True):
                file.write(f"{self._summarized(float(nll)):.6g}\n")
            return
        gaps, _ = self._lines.up_to(self._num_pairs)
        self._write_gaps(files, gaps)

    def _summarized(self, nll: float) -> float:
        if self._summary == "ce-sum":
            return nll
        if self._summary == "ce-mean-words":
            return nll / self._num_tokens
        if self._summary == "perplexity":
            return math.exp(nll / self._num_tokens)
        return nll / self._num_pairs

    def _write_gaps(self, files: Sequence[TextIO], gaps: Sequence[tuple[int, str]]) -> None:
        for file in files:
            if self._format == "jsonl":
                file.writelines(_skipped_json(number, reason) for number, reason in gaps)
            elif self._format == "marian":
                file.write("nan\n" * len(gaps))


class _Lines:
    """Line of the text of each pair, and the reasons why lines between them have none."""

    def __init__(self, corpus: Corpus) -> None:
        self._reasons: dict[int, str] = {}
        if corpus.has_text:
            self._lines, self._num_lines = corpus.lines, int(corpus.manifest["num_lines"])
            with (corpus.path / SKIPPED_FILE).open(encoding="utf-8") as file:
                next(file)
                for row in file:
                    number, reason = row.rstrip("\n").split("\t", 1)
                    self._reasons[int(number) - 1] = reason
        else:
            self._lines = corpus.pair_ids
            self._num_lines = int(corpus.manifest.get("num_pairs", self._lines[-1] + 1))
        self._next = 0

    def up_to(self, row: int) -> tuple[list[tuple[int, str]], int]:
        """Lines without a pair since the last call, with reasons; and the line of row `row`."""
        line = int(self._lines[row]) if row < len(self._lines) else self._num_lines
        gaps = [
            (number, self._reasons.get(number, "not in this view of the corpus"))
            for number in range(self._next, line)
        ]
        self._next = line + 1
        return gaps, line


def _piece_writer(corpus: Corpus) -> _Pieces:
    """Make a function from ids to pieces and text; to ids again if the corpus has no tokenizer."""
    try:
        tokenizer = corpus.tokenizer
    except (CorpusError, TokenizerError):
        tokenizer = None

    def write(tokens: NDArray[Any], source: bool) -> tuple[str, str]:
        ids = [token for token in tokens.tolist() if token != corpus.eos_id]
        if tokenizer is None:
            return (" ".join(map(str, ids)),) * 2
        [text] = tokenizer.decode([ids], source=source)
        pieces = map(_visible, tokenizer.pieces(ids, source=source))
        return " ".join(pieces), _BLANKS.sub(" ", text)

    return write


def _visible(piece: str) -> str:
    """A piece with blanks and control characters as SentencePiece shows bytes: a tab as <0x09>."""
    return _BLANKS_AND_SPACE.sub(
        lambda match: "".join(f"<0x{byte:02X}>" for byte in match[0].encode()), piece
    )


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
) -> str:
    record = {"line": line + 1, "pair": pair, "num_tokens": num_tokens, "nll": nll.tolist()}
    if tokens is not None:
        record["token_nll"] = tokens.tolist()
    return json.dumps(record) + "\n"


def _skipped_json(line: int, reason: str) -> str:
    return json.dumps({"line": line + 1, "pair": None, "skipped": reason}) + "\n"
