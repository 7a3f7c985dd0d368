"""BLEU with the tokenizer that the target language needs."""

import re
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from sacrebleu.metrics import BLEU
from sacrebleu.utils import SACREBLEU_DIR

from pycat.data.language_codes import language_of

# In order of preference; the default, 13a, splits at blanks, which these languages do not write.
# "char" needs nothing installed and no download.
_TOKENIZERS = {
    "zh": ("zh",),
    "ja": ("ja-mecab", "char"),
    "ko": ("ko-mecab", "char"),
    **dict.fromkeys(("th", "km", "lo", "my", "bo", "dz"), ("flores200", "char")),
}
_FLORES_MODEL = "models/flores200sacrebleuspm"
_SCRIPTS = {
    "ja": r"[\u3040-\u30ff]",
    "zh": r"[\u3400-\u9fff]",
    "ko": r"[\uac00-\ud7a3]",
    "th": r"[\u0e00-\u0e7f]",
    "lo": r"[\u0e80-\u0eff]",
    "bo": r"[\u0f00-\u0fff]",
    "my": r"[\u1000-\u109f]",
    "km": r"[\u1780-\u17ff]",
}
_SAMPLE_LINES = 1000


def bleu_of(language: str, references: Iterable[str]) -> BLEU:
    """The metric for a target language; its signature names the tokenizer.

    Args:
        language: of the target, in any spelling of `language_of`.
        references: sentences in it. Where the language is none that is written without blanks, as
            "tgt" of a file without a language in its name, their script decides.
    """
    code = language_of(language)
    if len(code) != 2:  # a name such as "tgt", or a language that is too rare for such a code
        code = _language_of_script(references) or code
    for name in _TOKENIZERS.get(code, ()):
        if name == "flores200" and not (Path(SACREBLEU_DIR) / _FLORES_MODEL).is_file():
            continue  # sacreBLEU would download it
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return BLEU(tokenize=name)
        except (RuntimeError, ImportError, OSError):
            continue  # its package is not installed, or its model is damaged
    return BLEU()


def _language_of_script(lines: Iterable[str]) -> str | None:
    """The language of a script without blanks that a third of the letters are in, if any."""
    text = "".join(islice(lines, _SAMPLE_LINES))
    num_letters = sum(map(str.isalpha, text))
    for code, letters in _SCRIPTS.items():
        # A Japanese text is Han letters for the most part, but no Chinese one has kana.
        share = 0.1 if code == "ja" else 1 / 3
        if num_letters and len(re.findall(letters, text)) > share * num_letters:
            return code
    return None
