"""Text to ids and back: a SentencePiece model shared by both languages."""

import io
import random
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

import sentencepiece

from pycat.errors import TokenizerError
from pycat.output import file_sha256, replacing

MODEL_TYPES = ("unigram", "bpe")

# The trained model depends on how EM sums are split over threads, so their number is fixed.
_TRAINER_THREADS = 4


class Tokenizer:
    """A SentencePiece model that has an end-of-sentence piece.

    Attributes:
        path: the `.model` file.
        vocab_size: ids run from 0 to `vocab_size - 1`.
        eos_id: ends every sequence, and starts the decoder.
        sha256: of the model file; corpora and checkpoints carry it.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Load a model file.

        Raises:
            TokenizerError: no such file, not a SentencePiece model, or it has no EOS.
        """
        self.path = Path(path)
        try:
            model = self.path.read_bytes()
            if not model:  # which SentencePiece takes for no model given
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
        if self.eos_id < 0:
            raise TokenizerError(
                f"{self.path}: the model has no end-of-sentence piece, which every sequence needs; "
                "train it with --eos_id"
            )

    def encode(self, lines: Sequence[str], *, num_threads: int = 1) -> list[list[int]]:
        """Ids of each line, EOS last. An empty or blank line is EOS alone."""
        eos_id = self.eos_id
        rows: list[list[int]] = self._processor.encode(list(lines), num_threads=num_threads)
        for row in rows:
            row.append(eos_id)
        return rows

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids; EOS, if there, is dropped."""
        plain = [[token for token in row if token != self.eos_id] for row in rows]
        texts: list[str] = self._processor.decode(plain) if plain else []
        return texts


def train_tokenizer(
    lines: Iterable[str], out: Path, *, vocab_size: int, model_type: str, seed: int = 0
) -> Tokenizer:
    """Train a joint model with byte fallback on at most a million of the lines.

    Args:
        lines: text of both languages, in any order; read once.
        out: the `.model` file to write.
        vocab_size: pieces wanted; "unigram" may settle for fewer on little text.
        model_type: "unigram" or "bpe".
        seed: picks the sample where there are more lines.

    Raises:
        TokenizerError: the text is too little for a vocabulary of this size.

    Ids follow fairseq: 0 `<s>`, 1 `<pad>`, 2 `</s>`, 3 `<unk>`.
    """
    if model_type not in MODEL_TYPES:
        raise TokenizerError(f"model_type is {model_type!r}; expected one of {MODEL_TYPES}")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_sample(lines, 1_000_000, seed)),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            byte_fallback=True,
            hard_vocab_limit=False,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            num_threads=_TRAINER_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rsplit("] ", 1)[-1].strip() or str(error)
        raise TokenizerError(
            f"tokenizer: SentencePiece cannot train {vocab_size} {model_type} pieces on this text: "
            f"{reason} Pass another vocab_size or more text"
        ) from None
    with replacing(out) as temporary:
        temporary.write_bytes(model.getvalue())
    return Tokenizer(out)


def _sample(lines: Iterable[str], size: int, seed: int) -> list[str]:
    """Reservoir sample (Vitter 1985, algorithm R): each line is as likely, order kept loosely."""
    chooser = random.Random(seed)
    kept: list[str] = []
    for seen, line in enumerate(lines):
        if seen < size:
            kept.append(line)
        elif (slot := chooser.randrange(seen + 1)) < size:
            kept[slot] = line
    return kept
