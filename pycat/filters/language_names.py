"""Which languages of the identifier a corpus's language is, however its name is spelt.

Names come from files, catalogues and model vocabularies: `de`, `pt-BR`, `zh_Hans`, `sr@latin`,
`deu`, `ger`, `eng_Latn`, `en_XX`. The first part says the language, which `data.language_codes` has
the spellings of, and a part of four letters the script, by ISO 15924.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection

from pycat.data.language_codes import code_parts, language_of


def identifier_codes(name: str, known: Collection[str]) -> tuple[str, ...]:
    """The identifier's codes that count as this language; none where it lacks the language.

    Args:
        name: of a language, in any of the spellings above.
        known: all codes of the identifier.
    """
    language, *tags = code_parts(name)
    code = language if language in known or language in _COUNT_AS else language_of(language)
    code = _IDENTIFIER_CODES.get(code, code)
    scripts = {_SCRIPT_NAMES.get(tag, tag) for tag in tags} & _SCRIPTS
    codes = _COUNT_AS.get(code, ())
    codes = (code, *codes) if code in known else codes
    return tuple(
        dict.fromkeys(
            c
            for c in codes
            if c in known and (not scripts or scripts & set(_SCRIPTS_OF.get(c, ("latn",))))
        )
    )


def identifier_scripts(codes: Collection[str]) -> set[str]:
    """The scripts (ISO 15924) in which the identifier was trained on these languages of its own."""
    return {script for code in codes for script in _SCRIPTS_OF.get(code, ("latn",))}


def main_script(line: bytes) -> str | None:
    """The script (ISO 15924) of most of the line's letters; None without letters.

    Letters of a script that the identifier has no language in are of the script "zyyy".
    """
    letters = Counter(
        unicodedata.name(letter, "?").split()[0].split("-")[0]
        for letter in line.decode("utf-8", "ignore")
        if letter.isalpha()
    )
    if not letters:
        return None
    return _LETTER_NAMES.get(letters.most_common(1)[0][0], "zyyy")


# Codes that the identifier has in place of those of ISO 639-1.
_IDENTIFIER_CODES = {"ki": "kik", "gn": "gug", "ff": "fuv"}

# Languages that the identifier confuses, or has only under others' codes. Written forms so close
# that a short line is often the same in both, so that its model can only guess: their speakers read
# each other without translation. A language that it lacks counts as one that it was trained on
# together with it.
_COUNT_AS: dict[str, tuple[str, ...]] = {
    # Danish and both written forms of Norwegian.
    **dict.fromkeys(("no", "nb", "nn", "da"), ("no", "nn", "da")),
    # Standards of one pluricentric language.
    **dict.fromkeys(("hr", "bs", "sr", "sh", "cnr", "me"), ("hr", "bs", "sr")),
    **dict.fromkeys(("id", "ms"), ("id", "ms")),
    # Galician beside Portuguese and Spanish; Spanish beside its smaller neighbours.
    "gl": ("gl", "pt", "es"),
    "es": ("es", "an", "ext", "gl"),
    "pt": ("pt", "gl"),
    "an": ("an", "es"),
    "ast": ("ext", "es", "an", "gl"),
    "ca": ("ca", "oc"),
    # Written alike, and told apart by spoken words.
    **dict.fromkeys(("zh", "yue", "wuu", "nan", "hak", "gan", "lzh"), ("zh", "yue", "wuu")),
    "ar": ("ar", "arz", "ary"),
    **dict.fromkeys(
        ("arz", "ary", "acm", "acq", "aeb", "ajp", "apc", "ars", "arq", "apd"), ("ar", "arz", "ary")
    ),
    # Both scripts of Uzbek and Kurdish have models of their own.
    "uz": ("uz", "uzs"),
    **dict.fromkeys(("ku", "ckb", "sdh"), ("ku", "sdh")),
    # Written in another script than the Azerbaijani that the identifier knows.
    "azb": (),
    # An older form beside the living one.
    "el": ("el", "grc"),
    "he": ("he", "hbo"),
}

_SCRIPT_NAMES = {"latin": "latn", "cyrillic": "cyrl", "arabic": "arab", "devanagari": "deva"}
# Scripts that the identifier was trained on, where they are others than Latin alone.
_SCRIPTS_OF = {
    code: tuple(scripts.split(","))
    for scripts, codes in (
        ("arab", "ar arz ary fa ur ps ug sdh"),
        ("cyrl", "be bg kk ky mk mn ru tg uk ba uzs"),
        ("cyrl,latn", "sr tt crh"),
        ("deva", "hi mr ne sa gom"),
        ("beng", "bn as"),
        ("guru", "pa"),
        ("gujr", "gu"),
        ("orya", "or"),
        ("taml", "ta"),
        ("telu", "te"),
        ("knda", "kn"),
        ("mlym", "ml"),
        ("sinh", "si"),
        ("thai", "th"),
        ("laoo", "lo"),
        ("mymr", "my"),
        ("khmr", "km"),
        ("tibt", "dz"),
        ("geor", "ka"),
        ("armn", "hy"),
        ("grek", "el grc"),
        ("hebr", "he hbo"),
        ("ethi", "am"),
        ("hang,kore", "ko"),
        ("hira,kana,hrkt,jpan,hani", "ja"),
        ("hani,hans,hant", "zh yue wuu"),
    )
    for code in codes.split()
}
# The first words of Unicode's names of letters.
_LETTER_NAMES = {
    "LATIN": "latn",
    "FULLWIDTH": "latn",
    "CYRILLIC": "cyrl",
    "ARABIC": "arab",
    "DEVANAGARI": "deva",
    "BENGALI": "beng",
    "GURMUKHI": "guru",
    "GUJARATI": "gujr",
    "ORIYA": "orya",
    "TAMIL": "taml",
    "TELUGU": "telu",
    "KANNADA": "knda",
    "MALAYALAM": "mlym",
    "SINHALA": "sinh",
    "THAI": "thai",
    "LAO": "laoo",
    "MYANMAR": "mymr",
    "KHMER": "khmr",
    "TIBETAN": "tibt",
    "GEORGIAN": "geor",
    "ARMENIAN": "armn",
    "GREEK": "grek",
    "HEBREW": "hebr",
    "ETHIOPIC": "ethi",
    "HANGUL": "hang",
    "HIRAGANA": "hira",
    "KATAKANA": "kana",
    "HALFWIDTH": "kana",
    "CJK": "hani",
}
_SCRIPTS = {"latn", *(script for scripts in _SCRIPTS_OF.values() for script in scripts)}
