r"""Tokenizers made of a vocabulary a side: those of Marian, CTranslate2, fairseq and OpenNMT-py.

A vocabulary is a file that lists pieces:

    .spm, .model        a SentencePiece model, whose own ids count
    .yml, .yaml, .json  a mapping of pieces to ids (Marian), or a list of pieces (CTranslate2)
    dict.*.txt          fairseq's: a piece and its count a line, after its four special pieces
    other .txt          a piece a line

All but the first need text that is split into pieces at blanks, or a SentencePiece model that
splits it (`sentencepiece`), whose pieces are then looked up.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycat.data.hf_tokenizer import HuggingFaceTokenizer, Template
from pycat.data.tokenizer import Tokenizer
from pycat.errors import TokenizerError
from pycat.runtime.output import digest, file_sha256, write_json

VOCABULARIES_FILE = "vocabularies.json"

_SENTENCEPIECE = (".spm", ".model")
_SPECIALS_OF_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Side:
    """How the text of one side becomes ids.

    Attributes:
        pieces: by their ids; None for the ids of `splitter`.
        splitter: splits text into pieces; None for text that is split at blanks.
        eos_id, unk_id: of the end of a sentence, and of pieces that are not known.
        vocab_size: ids lie below it.
        bos_id: begins every sequence; None for nothing.
        ends: whether EOS ends every sequence.
    """

    pieces: list[str] | None
    splitter: Tokenizer | None
    eos_id: int
    unk_id: int
    vocab_size: int
    bos_id: int | None = None
    ends: bool = True

    def to_json(self) -> dict[str, Any]:
        """What decides ids, beside the splitter, as a JSON object."""
        return {
            "pieces": self.pieces,
            "sentencepiece": None if self.splitter is None else self.splitter.sha256,
            "eos_id": self.eos_id,
            "unk_id": self.unk_id,
            "bos_id": self.bos_id,
            "ends": self.ends,
        }


class VocabularyTokenizer:
    """A tokenizer with a vocabulary for each side.

    Attributes:
        path: where it came from.
        vocab_size: target ids lie below it.
        src_vocab_size: source ids lie below it; None if both sides have one vocabulary.
        eos_id: ends every target.
        sha256: of vocabularies, models and special tokens.
        options: none.
        template: special tokens around the sentences.
        shortest: min tokens of a source and of a target that are not empty.
    """

    def __init__(self, path: Path, src: Side, tgt: Side) -> None:
        """Make it of two sides.

        Raises:
            TokenizerError: the end of a sentence has another id on each side.
        """
        if src.ends and src.eos_id != tgt.eos_id:
            raise TokenizerError(
                f"{path}: the end of a sentence is id {src.eos_id} in the source vocabulary and "
                f"{tgt.eos_id} in the target's; pycat needs one id for both: number the pieces anew"
            )
        self.path, self._src, self._tgt = path, src, tgt
        self.vocab_size, self.eos_id = tgt.vocab_size, tgt.eos_id
        both = (src.to_json(), tgt.to_json())
        self.src_vocab_size = None if _same_pieces(*both) else src.vocab_size
        self.sha256 = digest(both)
        self.options: dict[str, str] = {}
        self.template = Template(src_tail=int(src.ends))
        self.shortest = (1 + int(src.ends) + int(src.bos_id is not None), 2)
        self._ids = [
            None if side.pieces is None else {piece: i for i, piece in enumerate(side.pieces)}
            for side in (src, tgt)
        ]

    @classmethod
    def open(cls, folder: Path) -> "VocabularyTokenizer":
        """Open what `save` wrote.

        Raises:
            TokenizerError: a file is missing or damaged.
        """
        path = folder / VOCABULARIES_FILE
        try:
            sides = json.loads(path.read_text("utf-8"))
            made = []
            for name in ("src", "tgt"):
                known = sides[name]
                model = folder / f"{name}.model"
                splitter = None if known.pop("sentencepiece") is None else Tokenizer(model)
                made.append(Side(**known, splitter=splitter, vocab_size=sides[f"{name}_size"]))
            return cls(folder, *made)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokenizerError(
                f"{path}: the vocabularies cannot be read ({error}); run 'pycat tokenize' again"
            ) from None

    def save(self, folder: Path) -> None:
        """Write a copy that `open` opens."""
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {}
        for name, side in (("src", self._src), ("tgt", self._tgt)):
            content |= {name: side.to_json(), f"{name}_size": side.vocab_size}
            if side.splitter is not None:
                (folder / f"{name}.model").write_bytes(side.splitter.path.read_bytes())
        write_json(folder / VOCABULARIES_FILE, content)

    def encode_pairs(
        self, src: Sequence[str | bytes], tgt: Sequence[str | bytes]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of sources and of targets."""
        return self._encode(0, src), self._encode(1, tgt)

    def encode(self, lines: Sequence[str | bytes]) -> list[list[int]]:
        """Ids of each source."""
        return self._encode(0, lines)

    def decode(self, rows: Sequence[Sequence[int]], *, source: bool = False) -> list[str]:
        """Text of each row of ids, of targets unless `source`, without EOS."""
        side = self._src if source else self._tgt
        texts = []
        for row in rows:
            plain = [i for i in row if i not in (side.eos_id, side.bos_id)]
            pieces = self.pieces(plain, source=source)
            texts.append(
                " ".join(pieces) if side.splitter is None else side.splitter.joined(pieces)
            )
        return texts

    def pieces(self, row: Sequence[int], *, source: bool = False) -> list[str]:
        """Pieces that a row of ids stands for, of a target unless `source`."""
        side = self._src if source else self._tgt
        if side.pieces is not None:
            return [side.pieces[i] if i < len(side.pieces) else f"<{i}>" for i in row]
        assert side.splitter is not None
        return side.splitter.pieces(row)

    def _encode(self, at: int, lines: Sequence[str | bytes]) -> list[list[int]]:
        side, known = (self._src, self._tgt)[at], self._ids[at]
        before = [] if side.bos_id is None else [side.bos_id]
        after = [side.eos_id] if side.ends else []
        if known is None and side.splitter is not None:
            rows = [row[:-1] for row in side.splitter.encode(lines)]  # type: ignore[arg-type]
            return [[*before, *row, *after] for row in rows]
        assert known is not None
        texts = [line.decode("utf-8") if isinstance(line, bytes) else line for line in lines]
        split = (
            [text.split(" ") for text in texts]
            if side.splitter is None
            else side.splitter.split(texts)
        )
        return [
            [*before, *(known.get(piece, side.unk_id) for piece in row if piece), *after]
            for row in split
        ]


AnyTokenizer = Tokenizer | HuggingFaceTokenizer | VocabularyTokenizer


def read_vocabularies(
    vocabs: Sequence[Path],
    sentencepiece: Sequence[Path] = (),
    *,
    eos: str = "</s>",
    unk: str = "<unk>",
    bos: str | None = None,
    src_ends: bool = True,
) -> Tokenizer | VocabularyTokenizer:
    """The tokenizer of one vocabulary for both sides, or of one a side.

    Args:
        vocabs: source and target, or one for both.
        sentencepiece: models that split the text into pieces of those vocabularies; source and
            target, or one for both. None for text that is split at blanks already.
        eos, unk: the pieces of vocabularies that are no SentencePiece models.
        bos: the piece that begins every source, if one does.
        src_ends: whether EOS ends the source.

    Returns:
        A `Tokenizer` for one SentencePiece model of both sides.

    Raises:
        TokenizerError: more than two files, one of an unknown kind, or without EOS or unknown
            piece.
    """
    for given, name in ((vocabs, "vocabs"), (sentencepiece, "sentencepiece")):
        if len(given) > 2:
            raise TokenizerError(
                f"{name} names {len(given)} files; expected one for both sides, or one a side"
            )
    files = [vocabs[0], vocabs[-1]]
    if all(path.suffix.lower() in _SENTENCEPIECE for path in files):
        if sentencepiece:
            raise TokenizerError(
                f"{files[0]}: a SentencePiece model splits text itself; leave out sentencepiece"
            )
        if bos is None and src_ends and file_sha256(files[0]) == file_sha256(files[1]):
            return Tokenizer(files[0])
    splitters: list[Tokenizer | None] = [None, None]
    if sentencepiece:
        first = Tokenizer(sentencepiece[0], needs_eos=False)
        last = first
        if len(sentencepiece) > 1:
            last = Tokenizer(sentencepiece[1], needs_eos=False)
        splitters = [first, last]
    src = _side(files[0], splitters[0], eos, unk, bos, src_ends)
    tgt = _side(files[1], splitters[1], eos, unk, None, True)
    return VocabularyTokenizer(files[1], src, tgt)


def _side(
    path: Path, splitter: Tokenizer | None, eos: str, unk: str, bos: str | None, ends: bool
) -> Side:
    if path.suffix.lower() in _SENTENCEPIECE:
        model = Tokenizer(path)
        bos_id = None if bos is None else model.piece_id(bos)
        return Side(None, model, model.eos_id, model.unk_id, model.vocab_size, bos_id, ends)
    pieces = read_pieces(path)
    ids = {piece: i for i, piece in enumerate(pieces)}
    for piece, what in ((eos, "end of a sentence"), (unk, "unknown piece"), (bos, "first piece")):
        if piece is not None and piece not in ids:
            raise TokenizerError(
                f"{path}: has no {piece} for the {what} among its {len(pieces):,} pieces; expected "
                "the vocabulary that the model was trained with"
            )
    bos_id = None if bos is None else ids[bos]
    return Side(pieces, splitter, ids[eos], ids[unk], len(pieces), bos_id, ends)


def read_pieces(path: Path) -> list[str]:
    """The pieces of a vocabulary that is no SentencePiece model, by their ids.

    Raises:
        TokenizerError: missing, of an unknown kind, damaged, or with ids that repeat.
    """
    kind = path.suffix.lower()
    if kind not in (".yml", ".yaml", ".json", ".txt"):
        raise TokenizerError(
            f"{path}: a vocabulary of unknown kind {kind!r}; expected .spm, .model, .yml, .yaml, "
            ".json or .txt (a factored .fsv is not supported)"
        )
    try:
        # Lines end at \n alone: other ends are characters of pieces.
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: byte {error.start:,} is not UTF-8; expected a vocabulary as text"
        ) from None
    if kind == ".txt":
        return _from_lines(path, text)
    numbered = _from_json(path, text) if text.lstrip()[:1] in "{[" else _from_yaml(path, text)
    if isinstance(numbered, list):
        return numbered
    pieces = [""] * (1 + max(numbered.values(), default=-1))
    for piece, number in numbered.items():
        if number < 0 or pieces[number]:
            raise TokenizerError(
                f"{path}: id {number} of {piece!r} is negative or taken; expected an id a piece"
            )
        pieces[number] = piece
    if not pieces:
        raise TokenizerError(f"{path}: holds no pieces; expected a line 'piece: id' for each")
    return pieces


def _from_lines(path: Path, text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    if all(line.endswith("\r") for line in lines):
        lines = [line[:-1] for line in lines]
    if not path.name.startswith("dict."):
        return lines
    pieces = list(_SPECIALS_OF_FAIRSEQ)
    for number, line in enumerate(lines, start=1):
        piece, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not piece or not count.isdecimal():
            raise TokenizerError(
                f"{path}: line {number:,} is {line[:40]!r}; expected a piece and its count"
            )
        if piece not in _SPECIALS_OF_FAIRSEQ or number > 4:
            pieces.append(piece)
    return pieces


def _from_json(path: Path, text: str) -> dict[str, int] | list[str]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise TokenizerError(f"{path}: not valid JSON ({error}); copy the file again") from None
    if isinstance(found, list) and all(isinstance(piece, str) for piece in found):
        return found
    if isinstance(found, dict) and all(isinstance(number, int) for number in found.values()):
        return found
    raise TokenizerError(f"{path}: expected a list of pieces, or an object of pieces and their ids")


def _from_yaml(path: Path, text: str) -> dict[str, int]:
    """Lines `piece: id`, or `? piece` and `: id`, as Marian writes them; not YAML as a whole.

    A parser of YAML would take `null`, `yes`, `1.0` or `~` for values of other types.
    """
    numbered: dict[str, int] = {}
    waiting: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or line == "---":
            continue
        if waiting is None and line.startswith("? "):
            waiting = line[2:]
            continue
        piece, colon, value = line.rpartition(":")
        piece = piece if waiting is None else waiting
        waiting = None
        if not colon or not value.strip().isdecimal():
            raise TokenizerError(f"{path}: line {number:,} is {line[:40]!r}; expected 'piece: id'")
        numbered[_unquoted(piece)] = int(value)
    return numbered


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "e": "\x1b", "a": "\a", "b": "\b"}
_ESCAPES |= {"v": "\v", "f": "\f", "_": "\xa0", "N": "\x85", "L": "\u2028", "P": "\u2029"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


def _unquoted(piece: str) -> str:
    """A scalar of YAML without its quotes."""
    if len(piece) > 1 and piece[0] == piece[-1] == '"':
        return _ESCAPE.sub(_unescaped, piece[1:-1])
    if len(piece) > 1 and piece[0] == piece[-1] == "'":
        return piece[1:-1].replace("''", "'")
    return piece


def _unescaped(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return _ESCAPES.get(escape, escape)


def _same_pieces(src: dict[str, Any], tgt: dict[str, Any]) -> bool:
    return all(src[key] == tgt[key] for key in ("pieces", "sentencepiece"))


def read_ct2_config(
    folder: Path, version: int = 6, variables: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Special tokens of a folder that CTranslate2 converted: `config.json`, with its defaults.

    Args:
        folder: the folder.
        version: of its `model.bin`; before 6 the special tokens were variables in it.
        variables: of its `model.bin`.

    Raises:
        TokenizerError: the file is damaged.
    """
    path = folder / "config.json"
    config: dict[str, Any] = {}
    if path.is_file():
        try:
            config = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise TokenizerError(f"{path}: not valid JSON ({error}); convert it again") from None
    usual: dict[str, Any] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    usual |= {"add_source_bos": False, "add_source_eos": False}
    if version < 6 and variables is not None:
        for name in ("unk_token", "bos_token", "eos_token"):
            if name in variables:
                usual[name] = variables[name].tobytes().decode("utf-8")
        flags = {name: bool(value) for name, value in variables.items() if "with_" in name}
        usual["add_source_bos"] = flags.get("with_source_bos", False)
        usual["add_source_eos"] = flags.get("with_source_eos", False)
        begins = flags.get("with_target_bos", True)
        usual["decoder_start_token"] = usual["bos_token" if begins else "eos_token"]
        if variables.get("user_decoder_start_tokens", False):
            usual["decoder_start_token"] = None
    config = {**usual, **config}
    config.setdefault("decoder_start_token", config["bos_token"])
    return config


def ct2_pieces(folder: Path) -> tuple[list[str], list[str]]:
    """Source and target pieces of a folder that CTranslate2 converted.

    Raises:
        TokenizerError: a vocabulary is missing or damaged, or the source has several.
    """
    if (folder / "source_1_vocabulary.json").is_file():
        raise TokenizerError(
            f"{folder}: has features beside the source tokens (source_1_vocabulary.json), which "
            "pycat does not score"
        )
    found = []
    for side in ("source", "target"):
        names = [
            f"{name}_vocabulary.{kind}" for name in ("shared", side) for kind in ("json", "txt")
        ]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise TokenizerError(
                f"{folder}: has no {side} vocabulary (shared_vocabulary.json, "
                f"{side}_vocabulary.json or .txt); convert the model again"
            )
        found.append(read_pieces(path))
    return found[0], found[1]


def open_ct2_vocabularies(folder: Path, sentencepiece: Sequence[Path] = ()) -> VocabularyTokenizer:
    """The vocabularies of a folder that CTranslate2 converted.

    Args:
        folder: the folder.
        sentencepiece: models that split the text; without any, those in the folder named
            source.spm and target.spm, or sentencepiece.model; else text is split at blanks.

    Raises:
        TokenizerError: a file is missing or damaged.
    """
    config = read_ct2_config(folder)
    if not sentencepiece:
        for names in (("source.spm", "target.spm"), ("sentencepiece.model",), ("vocab.spm",)):
            if all((folder / name).is_file() for name in names):
                sentencepiece = [folder / name for name in names]
                break
    models = [Tokenizer(path, needs_eos=False) for path in sentencepiece]
    if len(models) > 2:
        raise TokenizerError(
            f"sentencepiece names {len(models)} files; expected one for both sides, or one a side"
        )
    made = []
    for at, pieces in enumerate(ct2_pieces(folder)):
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [config[name] for name in ("eos_token", "unk_token") if config[name] not in ids]
        if missing:
            raise TokenizerError(
                f"{folder}: its vocabulary has no {missing[0]}, which config.json names; convert "
                "the model again"
            )
        made.append(
            Side(
                pieces,
                models[min(at, len(models) - 1)] if models else None,
                ids[config["eos_token"]],
                ids[config["unk_token"]],
                len(pieces),
                ids.get(config["bos_token"]) if at == 0 and config["add_source_bos"] else None,
                config["add_source_eos"] if at == 0 else True,
            )
        )
    return VocabularyTokenizer(folder, *made)
