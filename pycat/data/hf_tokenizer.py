"""Tokenizers of Hugging Face models.

Encoder-decoder models: the source is stored as the encoder reads it, with all its special tokens.
Labels consist of `tgt_before`, the sentence, EOS and `tgt_after`, such as `deu_Latn X </s>` (NLLB),
`<s> X </s>` (BART) or `X </s> de_DE` (mBART). The target is stored as the sentence and EOS alone,
so that only these are scored; the manifest keeps the special tokens around them (`Template`).

Causal models: the source is the prompt; the target is the text after it, and EOS. Both are
tokenized as one text, as in training. The target begins with the first token that reaches beyond
the prompt.
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
        vocab_size: ids lie below it.
        eos_id: ends every target.
        sha256: of vocabulary and rules; the same for every folder that holds this tokenizer.
        options: `src_lang`, `tgt_lang` and `prompt`, as far as given.
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
    ) -> None:
        r"""Load the tokenizer.

        Args:
            path: the folder.
            src_lang, tgt_lang: language codes, for a tokenizer that needs them, such as "eng_Latn".
            prompt: for causal models, the text before the target, with `{src}` for the source, such
                as "Translate English to German: {src}\n".

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
        self.options = {name: value for name, value in given.items() if value is not None}
        self._prompt = prompt
        self.sha256 = _sha256(self._tokenizer, path)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        eos_id = self._tokenizer.eos_token_id
        self.eos_id: int = self._tokenizer.sep_token_id if eos_id is None else eos_id
        if self.eos_id is None:
            raise TokenizerError(
                f"{path}: the tokenizer has no end-of-sentence token, which every target needs; "
                "set its eos_token as it was in training"
            )
        self._set_languages(src_lang, tgt_lang)
        if prompt is None:
            self._check_kind()
            self._blank_src = self._ids([""])[0]
            self.template = self._find_template()
            self.shortest = (1, 2)
        else:
            self._check_prompt(prompt)
            self.template = Template(src_tail=0)
            self.shortest = (1, 2)

    def encode_pairs(
        self, src: Sequence[str | bytes], tgt: Sequence[str | bytes]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of sources and targets; a blank source is empty, a blank target is EOS alone."""
        with self._lock:
            if self._prompt is not None:
                return self._encode_prompts(_texts(src), _texts(tgt), self._prompt)
            sources = self._ids(_texts(src))
            targets = self._ids(_texts(tgt), target=True)
        sources = [[] if row == self._blank_src else row for row in sources]
        return sources, [self._without_template(row) for row in targets]

    def encode(self, lines: Sequence[str | bytes]) -> list[list[int]]:
        """Ids of each source; a blank source is EOS alone."""
        sources, _ = self.encode_pairs(lines, [""] * len(lines))
        return [row or [self.eos_id] for row in sources]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids, without special tokens."""
        with self._lock:
            return [
                str(self._tokenizer.decode(list(row), skip_special_tokens=True)) for row in rows
            ]

    def pieces(self, row: Sequence[int]) -> list[str]:
        """Pieces of the vocabulary that a row of ids stands for."""
        return [str(piece) for piece in self._tokenizer.convert_ids_to_tokens(list(row))]

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

    def _set_languages(self, src_lang: str | None, tgt_lang: str | None) -> None:
        has_codes = hasattr(self._tokenizer, "src_lang")
        if not has_codes and (src_lang or tgt_lang):
            raise TokenizerError(
                f"{self.path}: {type(self._tokenizer).__name__} has no language codes; leave "
                "src_lang and tgt_lang out"
            )
        if not has_codes:
            return
        if src_lang is None or tgt_lang is None:
            raise TokenizerError(
                f"{self.path}: {type(self._tokenizer).__name__} puts language codes into its "
                "sequences; name them with --src-lang and --tgt-lang, as in training"
            )
        try:
            self._tokenizer.src_lang, self._tokenizer.tgt_lang = src_lang, tgt_lang
            rows = self._ids([""]) + self._ids([""], target=True)
        except (KeyError, ValueError, TypeError) as error:
            raise TokenizerError(
                f"{self.path}: has no language code {src_lang!r} or {tgt_lang!r} ({error})"
            ) from None
        unknown = self._tokenizer.unk_token_id
        for name, row in zip((src_lang, tgt_lang), rows, strict=True):
            if unknown in row or None in row:
                raise TokenizerError(
                    f"{self.path}: has no language code {name!r}; codes look like "
                    f"{_example_codes(self._tokenizer)}"
                )

    def _check_kind(self) -> None:
        if not (self.path / "config.json").is_file():
            return
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.path, local_files_only=True)
        except (OSError, ValueError, KeyError):
            return
        if not config.is_encoder_decoder:
            raise TokenizerError(
                f"{self.path}: the model ({config.model_type}) is causal, so the source is "
                "its prompt; pass prompt (--prompt) as in training, with {src} for the source, "
                "such as 'Translate English to German: {src}\\n'"
            )

    def _check_prompt(self, prompt: str) -> None:
        if "{src}" not in prompt:
            raise TokenizerError(
                f"prompt is {prompt!r}; expected {{src}} in it, where the source belongs"
            )
        if not self._tokenizer.is_fast:
            raise TokenizerError(
                f"{self.path}: {type(self._tokenizer).__name__} does not say which characters a "
                "token stands for, which a prompt needs; save the model with its fast tokenizer"
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
    files = sorted({file for pattern in _VOCABULARY_FILES for file in path.glob(pattern)})
    hashes = [[file.name, file_sha256(file)] for file in files]
    return digest([hashes, sorted(tokenizer.get_vocab().items())])


def _texts(lines: Sequence[str | bytes]) -> list[str]:
    """Lines as str, blank ones empty: some tokenizers make a token of a lone space."""
    texts = (line.decode("utf-8") if isinstance(line, bytes) else line for line in lines)
    return [text if text.strip() else "" for text in texts]


def _example_codes(tokenizer: Any) -> str:
    special = [str(token) for token in tokenizer.get_added_vocab()]
    codes = [token for token in special if re.fullmatch(r"\w+", token)]
    return ", ".join(codes[:3]) or "those of its special tokens"
