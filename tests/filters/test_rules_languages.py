"""Right text passes the rules: numbers, scripts, forms of Unicode, close languages."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import corpus_of

import pycat
from pycat import _core
from pycat.filters.code_points import code_points, plain_form
from pycat.filters.language import language_model
from pycat.filters.language_names import identifier_codes, main_script
from pycat.filters.measures import Measures, measure
from pycat.filters.rule_measures import measure_text

CODES = language_model().codes


def columns(*pairs: tuple[str, str]) -> dict[str, Any]:
    src, tgt = ([pair[side].encode() for pair in pairs] for side in (0, 1))
    found = _core.measure_pairs(src, tgt, **code_points()._asdict())
    return {name: values.tolist() for name, values in found.items()}


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        *((name, ["en"]) for name in ("en", "eng", "eng_Latn", "en_XX", "en-GB", " EN ")),
        *((name, ["de"]) for name in ("deu", "ger", "de_AT", "deu_Latn", "de@latin")),
        *((name, ["cs"]) for name in ("ces", "cze", "cz")),
        *((name, ["no", "nn", "da"]) for name in ("no", "nb", "nob", "nb_NO", "nob_Latn", "nor")),
        ("nn", ["nn", "no", "da"]),
        *((name, ["zh", "yue", "wuu"]) for name in ("zh_Hans", "zh-TW", "zho", "chi", "cmn_Hant")),
        *((name, ["pt", "gl"]) for name in ("pt-BR", "pt_PT", "por_Latn")),
        *((name, ["sr", "hr", "bs"]) for name in ("sr@latin", "sr_Latn", "srp", "scc")),
        *((name, ["sr"]) for name in ("sr_Cyrl", "sr@cyrillic", "srp_Cyrl")),
        ("uz@cyrillic", ["uzs"]),
        *((name, ["fa"]) for name in ("fas", "per", "pes_Arab", "prs")),
        *((name, ["he", "hbo"]) for name in ("he", "iw", "heb_Hebr")),
        *((name, ["lv"]) for name in ("lav", "lvs_Latn")),
        ("ckb", ["ku", "sdh"]),
        ("kok_Deva", ["gom"]),
        # The identifier lacks these languages, or their script.
        *((name, []) for name in ("hsb", "src", "xx", "azb_Arab", "arb_Latn", "mi", "")),
    ],
)
def test_the_identifier_knows_a_language_by_many_names(name: str, codes: list[str]) -> None:
    assert list(identifier_codes(name, CODES)) == codes


def test_every_name_leads_to_a_language_of_the_identifier() -> None:
    assert all(identifier_codes(code, CODES)[0] == code for code in CODES)


Measured = Callable[..., Measures]


@pytest.fixture
def measured(tmp_path: Path, toy_corpus: pycat.Corpus) -> Measured:
    def run(pairs: list[tuple[str, str]], languages: tuple[str, str]) -> Measures:
        text = tmp_path / "text.tsv"
        text.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs), "utf-8")
        corpus = pycat.tokenize(
            tsv=text,
            out=tmp_path / "corpus",
            languages=languages,
            tokenizer=toy_corpus.path / "tokenizer.model",
        )
        return measure(corpus, out=tmp_path / "measures")

    return run


def test_the_known_side_is_checked_beside_an_unknown_one(measured: Measured) -> None:
    measures = measured(
        [
            ("The old cat sleeps on the kitchen table.", "Stara kočka spi na blidku."),
            ("Le vieux chat dort sur la table de la cuisine.", "Stara kočka spi na blidku dźensa."),
        ],
        ("eng_Latn", "hsb"),
    )
    assert measures.manifest["without"].keys() == {"tgt_language"}
    assert measures.hits()["src_language"].tolist() == [False, True]


def test_close_languages_that_the_identifier_confuses_count_as_one(measured: Measured) -> None:
    danish = "Katten sover på bordet i køkkenet, og hunden ligger under stolen."
    measures = measured(
        [("The cat sleeps.", danish), ("No dogs.", "Der Hund schläft.")], ("en", "nb")
    )
    assert measures.column("tgt_language")[0] > 0.9
    assert measures.hits()["tgt_language"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("src", "tgt", "mismatch"),
    [
        # Decimal digits of all scripts.
        ("12 rooms in 1987", "١٢ غرفة في ١٩٨٧", 0),
        ("12 rooms in 1987", "۱۲ اتاق در ۱۹۸۷", 0),
        ("12 rooms in 1987", "१९८७ में १२ कमरे", 0),
        ("12 rooms in 1987", "১৯৮৭ সালে ১২টি কক্ষ", 0),
        ("12 rooms in 1987", "๑๒ ห้องในปี ๑๙๘๗", 0),
        ("12 rooms in 1987", "１９８７年に１２部屋", 0),
        ("١٢ غرفة", "१३ कमरे", 0.5),
        # Myriads, lakhs, millions.
        ("10,000 trees", "1万本の木", 0),
        ("25,000 trees", "2.5万棵树", 0),
        ("12,345,678 trees", "1234万5678本の木", 0),
        ("3 million trees", "3.000.000 Bäume", 0),
        ("1,500,000 trees", "1,5 Millionen Bäume", 0),
        ("1,00,000 trees of 7", "100.000 Bäume von 7", 0),
        # Months, numbers and ordinals in words.
        ("October 5, 1987", "1987年10月5日", 0),
        ("Open on 3 December", "Ouvert le 3/12", 0),
        ("2 of the three cats", "2 von 3 Katzen", 0),
        ("Page 4 of twenty-one", "Seite 4 von 21", 0),
        ("the 1st and the 2nd of 30", "der 1. und der zweite von 30", 0),
        # Separators.
        *(("1,000 of 7,654.5", tgt, 0) for tgt in ("1.000 von 7.654,5", "1 000 sur 7 654,5")),
        ("1,000 of 7,654.5", "1'000 von 7'654,5", 0),
        ("1,000 of 7,654.5", "1\u202f000 sur 7\u00a0654,5", 0),
        # Numbers that differ.
        ("It was 1945.", "Es war 2783.", 1),
        ("12 ab", "34 cd", 1),
        ("of 5 cats", "in 5 Tagen des Jahres 1998", 4 / 6),
        ("10 ab", "17 cd", 0.5),
    ],
)
def test_numbers_are_compared_in_all_their_spellings(src: str, tgt: str, mismatch: float) -> None:
    found = columns((src, tgt), (tgt, src))["number_mismatch"]
    assert found == [pytest.approx(mismatch)] * 2


@pytest.mark.parametrize(
    ("line", "damaged"),
    [
        ("คุณชื่ออะไร?ผมชื่อสมชาย", 0),  # Thai
        ("ເຈົ້າຊື່ຫຍັງ?ຂ້ອຍຊື່ບຸນ", 0),  # Lao
        ("ตื่นหรือยัง?ยัง", 0),
        ("អ្នកឈ្មោះអ្វី?ខ្ញុំឈ្មោះដារ៉ា", 0),  # Khmer
        ("နာမည်ဘယ်လိုခေါ်လဲ?ကျွန်တော်အောင်ပါ", 0),  # Burmese
        ("མིང་ལ་ག་རེ་ཟེར?ངའི་མིང", 0),  # Tibetan
        ("元気?はい", 0),
        ("잘?네", 0),
        ("“IRMÃ”, «IRMÃ», AMANHÃ…", 0),
        ("KÃ–LN, schÃ¶n, Ãœber", 3),
        ("Der H?nd", 1),
        ("с?бака", 1),
        ("σκ?λος", 1),
    ],
)
def test_question_marks_between_clauses_are_no_damage(line: str, damaged: int) -> None:
    assert columns(("", line))["num_damaged"] == [damaged]


def test_repetition_counts_letters_with_their_marks() -> None:
    # Ten letters in Tamil, each a consonant and its vowel: three n-grams of eight, none twice.
    letters = ["கி", "சு", "டெ", "தீ", "பூ", "மா", "யோ", "ரே", "லை", "வொ"]
    # Sixteen letters in a loop of eight: nine n-grams, of which the last stood before.
    once, loop = "".join(letters), "".join(letters[:8] * 2)
    assert columns(("x", once))["repetition"] == [0]
    assert columns(("x", loop))["repetition"] == [pytest.approx(1 / 9)]
    # A loop of four ideographs: five n-grams of four, of which the last stood before.
    assert columns(("x", "猫狗鳥魚" * 2))["repetition"] == [pytest.approx(1 / 5)]


def test_markup_of_both_sides_is_neither_copied_nor_long() -> None:
    markup = "%(first_name)s {count} <b> &amp; $total %1$s https://ab.example/c_d/e ab@cd.example"
    found = columns((f"{markup} cat", f"{markup} Hund"), ("a/b cat", "100 % cat"))
    assert found["overlap"] == [0, pytest.approx(3 / 10)]
    assert found["src_letters"] == [len("cat"), len("a/b cat")]
    assert found["tgt_letters"][1] == len("100 % cat")


def test_lengths_count_letters_as_alphabets_would_need_them() -> None:
    found = columns(("ab", "猫"), ("ab", "ねこ"), ("ab", "고양이x"), ("ねこ", "猫"))
    assert found["tgt_letters"] == [3, 4, 7, 1]
    assert found["src_letters"] == [2, 2, 2, 2]
    assert found["tgt_chars"] == [1, 2, 4, 1]


FORMS = [
    ("Café für Ärzte", unicodedata.normalize("NFD", "Café für Ärzte")),
    ("한국어 책", unicodedata.normalize("NFD", "한국어 책")),
    ("Quoi ? Oui", "Quoi\u00a0? Oui"),
    ("12 000 km", "12\u202f000\u2009km"),
    ("日本 語", "日本\u3000語"),
    ("שלום abc", "\u200fשלום\u200e abc"),
    ("hello", "\u2067hello\u2069\ufeff"),
    ("می‌شود", "میشود"),  # Persian with a joiner, and without
    ("क्‍ष", "क्ष"),  # Devanagari likewise
    ("Zeitung", "Zei\u00adtung"),
    ("heart \u2764", "heart \u2764\ufe0f"),
]


@pytest.mark.parametrize(("one", "other"), FORMS)
def test_lines_that_look_alike_are_duplicates(measured: Measured, one: str, other: str) -> None:
    assert one != other
    measures = measured([(one, "abc"), ("x", one), (other, "abc"), ("x", other)], ("xx", "yy"))
    assert measures.column("pair_group").tolist() == [0, 1, 0, 1]
    assert measures.column("near_group").tolist() == [0, 1, 0, 1]
    assert measures.column("src_group").tolist() == [0, 1, 0, 1]


def test_plain_form_keeps_what_is_seen() -> None:
    for line in ("naïve ½ № ﬁ", "\u0600 12", "ไม่", "a\tb", "नमस्ते"):
        assert plain_form(line.encode()).decode() == line
    assert plain_form(b"caf\xff") == b"caf\xff"


def test_near_duplicates_differ_in_marks_of_any_script(measured: Measured) -> None:
    pairs = [
        ("「猫」です。", "a"),
        ("猫です", "a"),
        ("¿Dónde?", "b"),
        ("dónde", "b"),
        ("٣ x", "3 x"),
    ]
    measures = measured([*pairs, ("3 X", "٣ x")], ("xx", "yy"))
    assert measures.column("near_group").tolist() == [0, 0, 2, 2, 4, 4]


LONG = (
    "The old lighthouse keeper climbs the narrow stairs every evening, lights the lamp, and "
    "watches the ships that pass in the distance until the morning comes."
)
LANG = (
    "Der alte Leuchtturmwärter steigt jeden Abend die schmale Treppe hinauf, zündet die Lampe an "
    "und sieht den Schiffen nach, die in der Ferne vorüberziehen, bis der Morgen kommt."
)


@pytest.mark.parametrize(
    ("one", "other", "are_near"),
    [
        (("Delete the file?", "Datei löschen?"), ("Delete the file", "Datei  löschen."), True),
        (("Delete the file?", "Datei löschen?"), ("Delete the page?", "Seite löschen?"), False),
        (("%s of 10 files", "%s von 10"), ("%s of 12 files", "%s von 12"), False),
        (("She married in {place}", "Sie heiratete in {place}"),
         ("She married on {date}", "Sie heiratete am {date}"), False),
        # A slip of the pen in a long pair.
        ((LONG, LANG), (LONG.replace("narrow", "narow"), LANG), True),
        # A number, however long the rest.
        ((f"In 1912: {LONG}", f"1912: {LANG}"), (f"In 1913: {LONG}", f"1913: {LANG}"), False),
        # Another translation.
        ((LONG, LANG), (LONG, " ".join(reversed(LANG.split()))), False),
    ],
)  # fmt: skip
def test_messages_that_differ_in_what_they_say_are_no_near_duplicates(
    one: tuple[str, str], other: tuple[str, str], are_near: bool
) -> None:
    found = columns(one, other)
    shared = [found[band][0] == found[band][1] for band in ("band_0", "band_1")]
    assert any(shared) == are_near


TITLES = [
    "Trinidad and Tobago",
    "Saint Pierre and Miquelon",
    "Papua New Guinea",
    "Repository Filter Editor",
    "Macedonia, The Former Yugoslav Republic of",
]
GERMAN = [
    "Die Katze schläft auf dem alten Tisch.",
    "Wir haben gestern lange auf den Zug gewartet.",
    "In diesem Jahr wird die Ernte wohl besser.",
]


def test_titles_and_names_pass_for_the_language_and_sentences_of_another_do_not(
    measured: Measured,
) -> None:
    measures = measured([(src, "abc") for src in TITLES + GERMAN], ("en", "xx"))
    hits = measures.hits()["src_language"]
    assert hits.tolist() == [False] * len(TITLES) + [True] * len(GERMAN)


# Of each language, in a script that the identifier does not know it in.
OTHER_SCRIPTS = {
    "kk": "Mysyq eski ústeldiń ústinde uıyqtap jatyr jáne tús kórip otyr.",
    "hi": "billi purani mez par so rahi hai aur sapna dekh rahi hai.",
    "az": "Пишик көһнә масанын үстүндә јатыр вә јуху ҝөрүр.",
    "pa": "بلی پرانی میز تے سُتی ہوئی اے تے سُفنے ویکھدی پئی اے۔",
    "mn": "ᠮᠤᠤᠷ ᠬᠠᠭᠤᠴᠢᠨ ᠰᠢᠷᠡᠭᠡ ᠳᠡᠭᠡᠷᠡ ᠤᠨᠲᠠᠵᠤ ᠪᠠᠶᠢᠨ᠎ᠠ",
}


@pytest.mark.parametrize("language", OTHER_SCRIPTS)
def test_a_script_that_the_identifier_lacks_is_not_judged_where_it_is_usual(
    measured: Measured, language: str
) -> None:
    line = OTHER_SCRIPTS[language]
    english = "The old cat sleeps on the table, and it does not want to get up."
    pairs = [(f"a{i}", line) for i in range(6)] + [(f"b{i}", english) for i in range(4)]
    hits = measured(pairs, ("en", language)).hits()["tgt_language"]
    # What was left in the source language is dropped all the same.
    assert hits.tolist() == [False] * 6 + [True] * 4


def test_a_few_lines_in_another_script_are_another_language(measured: Measured) -> None:
    hindi = "बिल्ली पुरानी मेज़ पर सो रही है और सपना देख रही है।"
    pairs = [(f"a{i}", hindi) for i in range(8)] + [("b", GERMAN[0])]
    hits = measured(pairs, ("en", "hi")).hits()["tgt_language"]
    assert hits.tolist() == [False] * 8 + [True]


@pytest.mark.parametrize(
    ("line", "script"),
    [
        ("Die Katze", "latn"),
        ("GitHub で猫を検索する方法について", "hira"),
        ("猫", "hani"),
        ("ーカ", "kana"),
        ("한국어", "hang"),
        ("ድመት", "ethi"),
        ("ᏪᏌ ᎦᎵᎲ", "zyyy"),
        ("123 — !", None),
        ("", None),
    ],
)
def test_the_script_of_most_letters(line: str, script: str | None) -> None:
    assert main_script(line.encode()) == script


def sentence(number: int, endings: str) -> str:
    """A sentence of invented words; those of two languages differ in how they end."""
    rng = np.random.default_rng(number)
    stems = ["".join(rng.choice(list("bdgklmnprst"), 5)) for _ in range(8)]
    return " ".join(stem + endings for stem in stems)


def test_copies_are_dropped_where_they_are_no_surprise(measured: Measured) -> None:
    # Close: half of the pairs are the same, and the others share most letters.
    close = [(sentence(i, "o"), sentence(i, "o" if i % 2 else "u")) for i in range(40)]
    assert measured(close, ("xx", "yy")).apply()[1]["copied"] == 0


def test_copies_are_dropped_where_they_are_rare(measured: Measured) -> None:
    distant = [(sentence(i, "o"), sentence(i + 100, "u")) for i in range(40)]
    copy = sentence(99, "o")
    # An untranslated sentence, and a name of one word.
    measures = measured([*distant, (copy, copy), ("Lissabon", "Lissabon")], ("xx", "yy"))
    assert np.flatnonzero(measures.hits()["copied"]).tolist() == [40]


def test_names_in_latin_letters_are_no_foreign_text() -> None:
    found = columns(
        ("", "GitHubとDockerを使う"),
        ("", "Das ist GitHub"),
        ("", "これは the old cat です"),
        ("", "GitHub"),
    )
    assert found["tgt_names"] == [pytest.approx(12 / 16), 0, 0, 0]


def test_rules_that_hit_much_are_told_with_examples(
    tmp_path: Path, toy_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycat.cli.main import main

    pairs = [(f"we see {i} cats", f"wir sehen {i} Katzen") for i in range(100, 109)]
    pairs += [("it was 1945 then", "es war 2783 damals"), ("in 1812 so", "also 4567 da")]
    corpus = corpus_of(tmp_path, pairs, toy_tokenizer)
    main(["measure", "--corpus", str(corpus.path), "--out", str(tmp_path / "measures")])
    said = capsys.readouterr().out
    loud = Measures.open(tmp_path / "measures").manifest["loud_rules"]
    assert loud["numbers"] == {
        "hits": 2,
        "examples": [
            {"line": 10, "src": "it was 1945 then", "tgt": "es war 2783 damals"},
            {"line": 11, "src": "in 1812 so", "tgt": "also 4567 da"},
        ],
    }
    assert "CAUTION: rule numbers hits 2 of 11 pairs (18%)" in said
    assert "line 10: 'it was 1945 then' -> 'es war 2783 damals'" in said


def test_measures_of_a_corpus_are_the_same_again(measured: Measured, tmp_path: Path) -> None:
    measures = measured(FORMS, ("xx", "yy"))
    corpus = pycat.open_corpus(tmp_path / "corpus")
    for threads in (1, 3):
        measure_text(corpus, tmp_path / f"{threads}.parquet", num_threads=threads)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    assert len(measures) == len(FORMS)
