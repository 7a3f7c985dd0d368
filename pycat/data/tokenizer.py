"""SentencePiece tokenizers, one model for both languages, and their training."""

import json
import math
import random
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.errors import TokenizerError
from pycat.runtime.children import run_python
from pycat.runtime.numbers import check_number
from pycat.runtime.output import file_sha256, replacing
from pycat.runtime.progress import progress

MODEL_TYPES = ("unigram", "bpe")

# Share of the text whose characters are pieces; SentencePiece's own default.
CHARACTER_COVERAGE = 0.9995

# SentencePiece ignores longer lines in training (its max_sentence_length).
MAX_TRAINING_BYTES = 4192

# Unigram training takes 1.6 GB and 75 s (two cores) for a million lines of 67 MB in all. Its memory
# grows with the bytes, so there is a bound on them too.
_SAMPLE_LINES = 1_000_000
_SAMPLE_BYTES = 128 << 20

_TRAINING_FILE = Path(__file__).with_name("sentencepiece_trainer.py")

# The trained model depends on how the sums of EM are split over threads, so their number is fixed.
_TRAINER_THREADS = 4


class Tokenizer:
    """A SentencePiece model that has an end-of-sentence piece.

    Attributes:
        path: the `.model` file.
        vocab_size: ids run from 0 to `vocab_size - 1`.
        src_vocab_size: None: source and target share the vocabulary.
        eos_id: ends every sequence, and starts the decoder.
        unk_id: stands for pieces that are not known.
        sha256: of the model file; corpora and checkpoints record it.
        shortest: min tokens of a source and of a target that are not empty.
    """

    shortest = (2, 2)
    src_vocab_size: None = None

    def __init__(self, path: str | PathLike[str], *, needs_eos: bool = True) -> None:
        """Load a model file.

        Args:
            path: the file.
            needs_eos: refuse a model without EOS; one that only splits text needs none.

        Raises:
            TokenizerError: no such file, not a SentencePiece model, or it has no EOS.
        """
        import sentencepiece  # much that opens a corpus reads no text

        self.path = Path(path)
        try:
            model = self.path.read_bytes()
            if not model:  # SentencePiece would take it for an argument that was not given
                raise RuntimeError
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except OSError as error:
            raise TokenizerError(f"{self.path}: cannot be read ({error.strerror})") from None
        except RuntimeError:
            raise TokenizerError(
                f"{self.path}: not a SentencePiece model; pass the .model file, not the .vocab"
            ) from None
        self.sha256 = file_sha256(self.path)
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        if needs_eos and self.eos_id < 0:
            raise TokenizerError(
                f"{self.path}: the model has no end-of-sentence piece, which every sequence needs; "
                "train it with --eos_id"
            )

    def encode(
        self, lines: Sequence[str] | Sequence[bytes], *, num_threads: int = 1
    ) -> list[list[int]]:
        """Ids of each line, EOS last. An empty or blank line is EOS alone.

        Lines given as UTF-8 bytes are not copied. Several calls of one thread each are faster than
        one call of several threads, because making the lists of ids holds the GIL.
        """
        rows: list[list[int]] = self._processor.encode(
            list[Any](lines), num_threads=num_threads, add_eos=True
        )
        return rows

    def encode_pairs(
        self, src: Sequence[bytes], tgt: Sequence[bytes]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of sources and of targets, as `encode` gives them."""
        return self.encode(src), self.encode(tgt)

    def split(self, lines: Sequence[str]) -> list[list[str]]:
        """Pieces of each line as text, unknown characters as they are, without EOS."""
        rows: list[list[str]] = self._processor.encode(list(lines), out_type=str)
        return rows

    def joined(self, pieces: Sequence[str]) -> str:
        """The text of pieces."""
        text: str = self._processor.decode_pieces(list(pieces))
        return text

    def piece_id(self, piece: str) -> int:
        """Id of a piece; that of the unknown piece if the model has none such."""
        return int(self._processor.piece_to_id(piece))

    def pieces(self, row: Sequence[int], *, source: bool = False) -> list[str]:
        """Pieces of the vocabulary that a row of ids stands for, on either side."""
        return [self._processor.id_to_piece(token) for token in row]

    def decode(self, rows: Sequence[Sequence[int]], *, source: bool = False) -> list[str]:
        """Text of each row of ids, without EOS, on either side."""
        plain = [[token for token in row if token != self.eos_id] for row in rows]
        texts: list[str] = self._processor.decode(plain) if plain else []
        return texts


def train_tokenizer(
    lines: Iterable[bytes],
    out: Path,
    *,
    vocab_size: int,
    model_type: str,
    character_coverage: float = CHARACTER_COVERAGE,
    seed: int = 0,
) -> Tokenizer:
    """Train a joint model with byte fallback on at most a million of the lines and 128 MiB.

    Args:
        lines: text of both languages in UTF-8, without line ends, in any order; read once.
        out: the `.model` file to write.
        vocab_size: number of pieces; "unigram" may find fewer in little text.
        model_type: "unigram" or "bpe".
        character_coverage: share of the text whose characters are pieces of their own, the most
            frequent ones first; the bytes of the others are pieces.
        seed: of the sample that is drawn from more text.

    Raises:
        TokenizerError: the text is too little for a vocabulary of this size.

    Ids follow fairseq: 0 `<s>`, 1 `<pad>`, 2 `</s>`, 3 `<unk>`.
    """
    if model_type not in MODEL_TYPES:
        raise TokenizerError(f"model_type is {model_type!r}; expected one of {MODEL_TYPES}")
    check_number("vocab_size", vocab_size, low=1)
    if not 0.9 <= character_coverage <= 1:
        raise TokenizerError(
            f"character_coverage is {character_coverage}; expected a share from 0.9 to 1, such as "
            f"{CHARACTER_COVERAGE}"
        )
    sample = _limited(_sample(lines, _SAMPLE_LINES, seed), _SAMPLE_BYTES, seed)
    if not any(line.strip() for line in sample):
        raise TokenizerError(
            "tokenizer: no line of this text has more than blanks on both sides, so there is "
            "nothing to train on; check the files"
        )
    options = {
        "vocab_size": vocab_size,
        "model_type": model_type,
        "byte_fallback": True,
        "character_coverage": character_coverage,
        "hard_vocab_limit": False,
        "bos_id": 0,
        "pad_id": 1,
        "eos_id": 2,
        "unk_id": 3,
        "num_threads": _TRAINER_THREADS,
        "minloglevel": 2,
    }
    with progress("train tokenizer", None, "pieces"):
        trained = run_python([str(_TRAINING_FILE), json.dumps(options)], stdin=b"\n".join(sample))
    if trained.returncode != 0:
        text = trained.stdout.decode("utf-8", "replace")
        if trained.returncode < 0:
            raise TokenizerError(
                "tokenizer: the process that trains it was killed by signal "
                f"{-trained.returncode}, as where memory runs out; run the same command again, "
                "with more memory"
            )
        reason = text.rsplit("] ", 1)[-1].strip() or (
            f"its process ended with status {trained.returncode}."
        )
        if match := re.search(r"required_chars\. \d+ vs (\d+)", reason):
            # SentencePiece goes on with the names of its own options.
            reason = (
                f"{reason[: match.end()]}. It takes more than {int(match[1]):,} pieces "
                f"(--vocab-size), or a character coverage below {character_coverage} "
                "(--character-coverage 0.99), with which rarer characters are read as bytes."
            )
        raise TokenizerError(
            f"tokenizer: SentencePiece cannot train {vocab_size} {model_type} pieces on this text: "
            f"{reason} Pass another vocab_size or more text"
        )
    with replacing(out) as temporary:
        temporary.write_bytes(trained.stdout)
    return Tokenizer(out)


def _sample(lines: Iterable[bytes], size: int, seed: int) -> list[bytes]:
    """Reservoir sample: every line is equally likely to be in it; most of the order is kept.

    Algorithm L draws how many lines to skip before the next one that enters the sample, so a
    skipped line costs no random number and no Python code.

    Source: Li 1994 (ACM TOMS).
    """
    source = iter(lines)
    kept = list(islice(source, size))
    if len(kept) < size:
        return kept
    chooser = random.Random(seed)
    # Every line has a uniform key, and the lines of the `size` smallest keys are kept. This is the
    # largest key among them.
    largest = 1.0
    while True:
        largest *= math.exp(-chooser.expovariate(size))
        num_skipped = math.floor(chooser.expovariate(-math.log1p(-largest)))
        line = next(islice(source, num_skipped, None), None)
        if line is None:
            return kept
        kept[chooser.randrange(size)] = line


def _limited(lines: list[bytes], max_bytes: int, seed: int) -> list[bytes]:
    """The lines, in order; if they exceed `max_bytes`, a random sample of about that size."""
    num_bytes = sum(map(len, lines))
    if num_bytes <= max_bytes:
        return lines
    chosen = random.Random(seed).sample(range(len(lines)), len(lines) * max_bytes // num_bytes)
    return [lines[at] for at in sorted(chosen)]
