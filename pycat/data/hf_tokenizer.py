"""Tokenizers of Hugging Face models.

Encoder-decoder models: the source is stored as the encoder reads it, with all its special tokens.
Labels consist of `tgt_before`, the sentence, EOS and `tgt_after`, such as `deu_Latn X </s>` (NLLB),
`<s> X </s>` (BART) or `X </s> de_DE` (mBART). The target is stored as the sentence and EOS alone,
so that only these are scored; the manifest keeps the special tokens around them (`Template`).

Text that a model expects around its source, such as `translate English to German: ` before T5's, is
named by a prompt. For an encoder-decoder model the prompt with the source in it is what the encoder
reads, as if it stood in the file; the target is not touched.

Causal models: the source is the prompt; the target is the text after it, and EOS. Both are
tokenized as one text, as in training. The target begins with the first token that reaches beyond
the prompt.

Monolingual text for causal models: the target is the text and EOS, and the source is the token that
a text begins with, BOS, or EOS where the tokenizer has none.

Names of special tokens that stand in a sentence (`<pad>`, `</s>`) become those tokens, as
transformers reads them, and are scored like any other.
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pycat.data.language_codes import near_codes
from pycat.errors import TokenizerError
from pycat.runtime.output import digest, file_sha256

# A folder with any of the first files holds a tokenizer. The others are the vocabularies of
# tokenizers that are written in Python.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_VOCABULARY_FILES = ("*.spm", "*.model", "*.bpe", "vocab*.txt", "merges.txt", "bpe.codes")


@dataclass(frozen=True)
class Template:
    """Special tokens around the sentences.

    Attributes:
        tgt_before, tgt_after: ids before the target, and after its EOS.
        src_tail: number of special tokens at the end of the source.
    """

    tgt_before: tuple[int, ...] = ()
    tgt_after: tuple[int, ...] = ()
    src_tail: int = 1

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Template":
        """The template in a corpus's manifest; without one, EOS alone ends both sides."""
        known = manifest.get("template")
        if known is None:
            return cls()
        return cls(tuple(known["tgt_before"]), tuple(known["tgt_after"]), known["src_tail"])

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


class HuggingFaceTokenizer:
    """The tokenizer of a folder saved by transformers.

    Attributes:
        path: the folder.
        vocab_size: ids of targets lie below it.
        src_vocab_size: bound on ids of sources, where they have a vocabulary of their own (some
            of Marian's); else None.
        eos_id: ends every target.
        sha256: of vocabulary and rules; the same for every folder that holds this tokenizer.
        options: `src_lang`, `tgt_lang`, `prompt` and `monolingual`, as far as given; with a prompt
            also `encoder_decoder` where the model is one.
        template: special tokens around the sentences.
        shortest: min tokens of a source and of a target that are not empty.
    """

    def __init__(
        self,
        path: Path,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prompt: str | None = None,
        encoder_decoder: bool | None = None,
        monolingual: bool = False,
    ) -> None:
        r"""Load the tokenizer.

        Args:
            path: the folder.
            src_lang, tgt_lang: language codes, for a tokenizer that needs them, such as "eng_Latn".
            prompt: text around the source, with `{src}` for the source: all that precedes the
                target for a causal model, such as "Translate English to German: {src}\n"; what the
                encoder reads of an encoder-decoder model, such as "translate English to German:
                {src}".
            encoder_decoder: whether a prompt is for a model with an encoder; None to read it from
                `config.json` in the folder, without which a prompt is for a causal model.
            monolingual: whether sources are empty, and targets whole texts for a causal model.

        Raises:
            TokenizerError: transformers is missing, the tokenizer is missing or damaged, or the
                options do not belong to it.
        """
        self.path = path
        self._tokenizer = _load(path)
        # One caller at a time, because a switch between source and target changes the object. No
        # speed is lost: tokenizers written in Rust use all cores within a call.
        self._lock = threading.Lock()
        given = {"src_lang": src_lang, "tgt_lang": tgt_lang, "prompt": prompt}
        self.options: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        self._prompt = prompt
        self.sha256 = _sha256(self._tokenizer, path)
        self.src_vocab_size, self.vocab_size = _vocab_sizes(self._tokenizer)
        eos_id = self._tokenizer.eos_token_id
        self.eos_id: int = self._tokenizer.sep_token_id if eos_id is None else eos_id
        if self.eos_id is None:
            raise TokenizerError(
                f"{path}: the tokenizer has no end-of-sentence token, which every target needs; "
                "set its eos_token as it was in training"
            )
        self._begin: int | None = None
        if monolingual:
            self._read_one_side()
            return
        self._set_languages(src_lang, tgt_lang)
        config = self._model_config() if encoder_decoder is None else None
        if config is not None:
            encoder_decoder = bool(config.is_encoder_decoder)
            if prompt is None and not encoder_decoder:
                raise TokenizerError(
                    f"{path}: the model ({config.model_type}) is causal, so the source is its "
                    "prompt; pass prompt (--prompt) as in training, with {src} for the source, "
                    "such as 'Translate English to German: {src}\\n'; text of one side is "
                    "monolingual (--monolingual)"
                )
        # Whether source and target are one text.
        self._joined = prompt is not None and not encoder_decoder
        self.shortest = (1, 2)
        if prompt is not None:
            self._check_prompt(prompt)
        if self._joined:
            self.template = Template(src_tail=0)
            return
        if prompt is not None:
            self.options["encoder_decoder"] = True
        self._blank_src = self._ids([""])[0]
        self.template = self._find_template()

    def encode_pairs(
        self, src: Sequence[str | bytes], tgt: Sequence[str | bytes]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of sources and targets; a blank source is empty, a blank target is EOS alone."""
        with self._lock:
            if self._begin is not None:
                encoded = self._tokenizer(_texts(tgt), add_special_tokens=False, verbose=False)
                rows = [[*row, self.eos_id] for row in encoded["input_ids"]]
                return [[self._begin] for _ in rows], rows
            if self._prompt is not None and self._joined:
                return self._encode_prompts(_texts(src), _texts(tgt), self._prompt)
            texts = _texts(src)
            if self._prompt is not None:
                texts = [self._prompt.replace("{src}", text) if text else "" for text in texts]
            sources = self._ids(texts)
            targets = self._ids(_texts(tgt), target=True)
        sources = [[] if row == self._blank_src else row for row in sources]
        return sources, [self._without_template(row) for row in targets]

    def encode(self, lines: Sequence[str | bytes]) -> list[list[int]]:
        """Ids of each source; a blank source is EOS alone."""
        sources, _ = self.encode_pairs(lines, [""] * len(lines))
        return [row or [self.eos_id] for row in sources]

    def decode(self, rows: Sequence[Sequence[int]], *, source: bool = False) -> list[str]:
        """Text of each row of ids, without special tokens; of sources, or else of targets."""
        with self._lock:
            if self.src_vocab_size is not None:
                return [self._joined_pieces(row, source) for row in rows]
            return [
                str(self._tokenizer.decode(list(row), skip_special_tokens=True)) for row in rows
            ]

    def pieces(self, row: Sequence[int], *, source: bool = False) -> list[str]:
        """Pieces of the vocabulary that a row of ids stands for; of a source, or else a target."""
        if self.src_vocab_size is None:
            return [str(piece) for piece in self._tokenizer.convert_ids_to_tokens(list(row))]
        names = self._side_pieces[not source]
        return [names.get(token, str(self._tokenizer.unk_token)) for token in row]

    @cached_property
    def _side_pieces(self) -> tuple[dict[int, str], dict[int, str]]:
        """Pieces of sources and of targets by their ids, where they have two vocabularies."""
        src, tgt = (
            {token: piece for piece, token in vocabulary.items()}
            for vocabulary in _side_vocabularies(self._tokenizer)
        )
        return src, tgt

    def _joined_pieces(self, row: Sequence[int], source: bool) -> str:
        """Text of SentencePiece's pieces; transformers reads ids of sources as those of targets."""
        special = set(self._tokenizer.all_special_tokens)
        pieces = [piece for piece in self.pieces(row, source=source) if piece not in special]
        return "".join(pieces).replace("▁", " ").strip()

    def save(self, folder: Path) -> None:
        """Write a copy that `HuggingFaceTokenizer` opens."""
        self._tokenizer.save_pretrained(folder)

    def _ids(self, lines: list[str], *, target: bool = False) -> list[list[int]]:
        # Not verbose: a tokenizer warns of lines beyond its model's length, which `tokenize` skips.
        encoded = (
            self._tokenizer(text_target=lines, verbose=False)
            if target
            else self._tokenizer(lines, verbose=False)
        )
        rows: list[list[int]] = encoded["input_ids"]
        return rows

    def _without_template(self, row: list[int]) -> list[int]:
        """A row of labels without the special tokens that the template puts around it."""
        before, after = self.template.tgt_before, self.template.tgt_after
        end = len(row) - len(after)
        if tuple(row[: len(before)]) != before or tuple(row[end:]) != after:
            raise TokenizerError(
                f"{self.path}: special tokens stand around one target ({row[:3]} … {row[-3:]}) as "
                f"not around another ({list(before)} … {list(after)}); pycat does not know this "
                "tokenizer's way to write labels"
            )
        ids = row[len(before) : end]
        return ids if ids and ids[-1] == self.eos_id else [*ids, self.eos_id]

    def _find_template(self) -> Template:
        """Find the special tokens of labels and source, from the ids of a blank line."""
        labels = self._ids([""], target=True)[0]
        src = self._blank_src
        tail = len(src) - src.index(self.eos_id) if self.eos_id in src else 0
        if self.eos_id not in labels:
            return Template(tuple(labels), (), tail)
        # The last EOS ends the labels: in some models `</s>` also opens them.
        at = len(labels) - 1 - labels[::-1].index(self.eos_id)
        return Template(tuple(labels[:at]), tuple(labels[at + 1 :]), tail)

    def _read_one_side(self) -> None:
        """Prepare for monolingual text.

        Raises:
            TokenizerError: the model is no causal one, or options for pairs are given.
        """
        if self.options:
            raise TokenizerError(
                f"{self.path}: {', '.join(self.options)} belong to a source, and monolingual text "
                "has none; leave them out"
            )
        config = self._model_config()
        if config is not None and config.is_encoder_decoder:
            raise TokenizerError(
                f"{self.path}: the model ({config.model_type}) has an encoder, which reads a "
                "source, and monolingual text has none; pass the folder of a causal model"
            )
        begin = self._tokenizer.bos_token_id
        self._begin = self.eos_id if begin is None else int(begin)
        self.options["monolingual"] = True
        self.shortest = (1, 2)
        self.template = Template(src_tail=0)

    def _set_languages(self, src_lang: str | None, tgt_lang: str | None) -> None:
        codes = _language_codes(self._tokenizer)
        if not codes and (src_lang or tgt_lang):
            raise TokenizerError(
                f"{self.path}: {type(self._tokenizer).__name__} has no language codes; leave "
                "src_lang and tgt_lang out"
            )
        if not codes:
            return
        if src_lang is None or tgt_lang is None:
            raise TokenizerError(
                f"{self.path}: {type(self._tokenizer).__name__} puts language codes into its "
                "sequences; name them with --src-lang and --tgt-lang, as in training"
            )
        for name in (src_lang, tgt_lang):
            if name not in codes:
                near = ", ".join(near_codes(name, codes))
                few = ", ".join(sorted(codes)[:3])
                raise TokenizerError(
                    f"{self.path}: has no language code {name!r}; "
                    + (f"did you mean {near}?" if near else f"codes look like {few}")
                )
        self._tokenizer.src_lang, self._tokenizer.tgt_lang = src_lang, tgt_lang

    def _model_config(self) -> Any | None:
        """The configuration of the model beside the tokenizer; None if there is none."""
        if not (self.path / "config.json").is_file():
            return None
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.path, local_files_only=True)
        except (OSError, ValueError, KeyError):
            return None

    def _check_prompt(self, prompt: str) -> None:
        if "{src}" not in prompt:
            raise TokenizerError(
                f"prompt is {prompt!r}; expected {{src}} in it, where the source belongs"
            )
        if fields := [name for name in re.findall(r"\{(\w+)\}", prompt) if name != "src"]:
            raise TokenizerError(
                f"prompt is {prompt!r}; expected no field but {{src}}, found {{{fields[0]}}}: the "
                "target follows the prompt by itself, without text in it or after it"
            )
        if self._joined and not self._tokenizer.is_fast:
            raise TokenizerError(
                f"{self.path}: {type(self._tokenizer).__name__} does not say which characters a "
                "token stands for, which the prompt of a causal model needs; save the model with "
                "its fast tokenizer"
            )

    def _encode_prompts(
        self, src: list[str], tgt: list[str], prompt: str
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of prompts and targets, tokenized as one text each."""
        prompts = [prompt.replace("{src}", line) for line in src]
        texts = [before + after for before, after in zip(prompts, tgt, strict=True)]
        encoded = self._tokenizer(texts, return_offsets_mapping=True, verbose=False)
        sources, targets = [], []
        for before, line, ids, offsets in zip(
            prompts, src, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            # The target begins with the first token that reaches beyond the prompt.
            at = next((i for i, (_, stop) in enumerate(offsets) if stop > len(before)), len(ids))
            end = len(ids)
            while end and ids[end - 1] == self.eos_id:
                end -= 1
            sources.append(ids[: min(at, end)] if line.strip() else [])
            targets.append([*ids[at:end], self.eos_id])
        return sources, targets


def folder_sha256(path: Path) -> str | None:
    """SHA-256 of the tokenizer in a folder, None if the folder holds none."""
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return _sha256(_load(path), path)


def _load(path: Path) -> Any:
    try:
        import transformers
    except ImportError:
        raise TokenizerError(
            f"{path}: a tokenizer saved by transformers, which is not installed; install it with: "
            "pip install 'pycat-nmt[hf]'"
        ) from None
    try:
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # those of the tokenizers library have no other base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TokenizerError(
            f"{path}: transformers cannot load a tokenizer from it ({reason}); save it there with "
            "save_pretrained"
        ) from None


def _sha256(tokenizer: Any, path: Path) -> str:
    """SHA-256 of what decides the ids of a line, except options; the file format has no effect."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # These depend on the options of a call: languages and lengths.
        for name in ("post_processor", "truncation", "padding"):
            rules.pop(name, None)
        return digest(rules)
    sides = []
    if getattr(tokenizer, "separate_vocabs", False):
        sides = [sorted(tokenizer.target_encoder.items())]
    files = sorted({file for pattern in _VOCABULARY_FILES for file in path.glob(pattern)})
    hashes = [[file.name, file_sha256(file)] for file in files]
    return digest([hashes, sorted(tokenizer.get_vocab().items()), *sides])


def _texts(lines: Sequence[str | bytes]) -> list[str]:
    """Lines as str, blank ones empty: some tokenizers make a token of a lone space."""
    texts = (line.decode("utf-8") if isinstance(line, bytes) else line for line in lines)
    return [text if text.strip() else "" for text in texts]


def _language_codes(tokenizer: Any) -> set[str]:
    """The codes that `src_lang` and `tgt_lang` of this tokenizer take; none if it has no codes.

    A code is a token that was added to the vocabulary, in the form `xx` or `__xx__`, or one that
    the tokenizer's class lists. Pieces that text is made of are none, though transformers takes
    them.
    """
    if not hasattr(tokenizer, "src_lang"):
        return set()
    named = {
        str(token) for token in tokenizer.special_tokens_map.values() if isinstance(token, str)
    }
    tokens = {str(token) for token in tokenizer.added_tokens_encoder} - named
    for name in ("lang_code_to_token", "lang_code_to_id"):
        tokens |= {str(code) for code in getattr(tokenizer, name, ())}
    # M2M-100, SeamlessM4T and PLBART leave out the underscores.
    tokens = {re.sub(r"^__(.+)__$", r"\1", token) for token in tokens}
    return {token for token in tokens if re.fullmatch(r"\w[\w-]*\w", token)}


def _side_vocabularies(tokenizer: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Vocabularies of source and target, of a tokenizer that has two."""
    added = tokenizer.added_tokens_encoder
    return {**added, **tokenizer.encoder}, {**added, **tokenizer.target_encoder}


def _vocab_sizes(tokenizer: Any) -> tuple[int | None, int]:
    """Bounds on the ids of sources, None if the sides share a vocabulary, and of targets."""
    added = (*tokenizer.added_tokens_encoder.values(), *tokenizer.all_special_ids)
    if getattr(tokenizer, "separate_vocabs", False):
        src, tgt = (1 + max(side.values()) for side in _side_vocabularies(tokenizer))
        # The ids of special tokens are those of the source's vocabulary, on both sides.
        return src, max(tgt, 1 + max(added))
    # M2M-100's get_vocab lacks the language codes, which follow the pieces.
    codes = getattr(tokenizer, "lang_code_to_id", {}).values()
    return None, 1 + max((*tokenizer.get_vocab().values(), *added, *codes))
