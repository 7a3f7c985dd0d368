"""BLEU splits text that has no blanks as sacreBLEU does for its language."""

from pathlib import Path

import pytest
import sacrebleu
from sacrebleu.metrics import BLEU

from pycat.data import language_codes
from pycat.evaluation import bleu
from pycat.evaluation.bleu import bleu_of

REFERENCE = {
    "zh": ["我们明天去北京看朋友。", "这本书很有意思。"],
    "ja": ["明日は東京で友達に会います。", "この本はとても面白いです。"],
    "ko": ["우리는 내일 서울에 갑니다.", "이 책은 아주 재미있습니다."],
    "th": ["พรุ่งนี้เราจะไปกรุงเทพฯ", "หนังสือเล่มนี้น่าสนใจมาก"],
    "km": ["ថ្ងៃស្អែកយើងនឹងទៅភ្នំពេញ", "សៀវភៅនេះគួរឱ្យចាប់អារម្មណ៍"],
    "lo": ["ມື້ອື່ນພວກເຮົາຈະໄປວຽງຈັນ", "ປຶ້ມຫົວນີ້ໜ້າສົນໃຈຫຼາຍ"],
    "my": ["မနက်ဖြန် ရန်ကုန်ကို သွားမယ်။", "ဒီစာအုပ်က စိတ်ဝင်စားစရာကောင်းတယ်။"],
}
HYPOTHESIS = {"zh": ["我们明天去上海看朋友。", "这本书很有意思。"]}


@pytest.mark.parametrize("code", ["zh", "zh_Hans", "zho_Hant", "zh-CN", "cmn", "ZH_tw", "yue_Hant"])
def test_chinese_is_what_sacrebleu_says_of_it(code: str) -> None:
    metric = bleu_of(code, [])
    expected = sacrebleu.corpus_bleu(HYPOTHESIS["zh"], [REFERENCE["zh"]], tokenize="zh")
    assert metric.corpus_score(HYPOTHESIS["zh"], [REFERENCE["zh"]]).score == expected.score > 60
    assert "tok:zh" in str(metric.get_signature())


@pytest.mark.parametrize(
    "code",
    [
        "ja",
        "jpn",
        "ja_XX",
        "jpn_Jpan",
        "ko",
        "kor_Hang",
        "th",
        "tha_Thai",
        "km",
        "khm_Khmr",
        "lo",
        "lao_Laoo",
        "my",
        "mya_Mymr",
        "bur",
    ],
)
def test_other_languages_without_blanks(
    code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "flores200sacrebleuspm").touch()
    monkeypatch.setattr(bleu, "SACREBLEU_DIR", str(tmp_path))
    tried: list[str] = []

    def without_packages(tokenize: str = "13a") -> BLEU:
        tried.append(tokenize)
        if tokenize.startswith("flores"):
            raise OSError("a damaged model")
        if tokenize.endswith("mecab"):
            raise RuntimeError("needs extra dependencies")
        return BLEU(tokenize=tokenize)

    monkeypatch.setattr(bleu, "BLEU", without_packages)
    language = language_codes.language_of(code)
    metric = bleu_of(code, [])
    wanted = {"ja": "ja-mecab", "ko": "ko-mecab"}.get(language, "flores200")
    assert tried == [wanted, "char"]
    # Nothing is downloaded.
    (tmp_path / "models" / "flores200sacrebleuspm").unlink()
    bleu_of(code, [])
    assert tried[2:] == ([wanted] if wanted != "flores200" else []) + ["char"]
    lines = REFERENCE[language]
    assert metric.corpus_score(lines, [lines]).score == pytest.approx(100)
    assert "tok:char" in str(metric.get_signature())


@pytest.mark.parametrize("language", REFERENCE)
def test_the_script_tells_a_language_that_has_no_name(language: str) -> None:
    assert bleu._language_of_script(REFERENCE[language]) == language


@pytest.mark.parametrize("code", ["de", "deu_Latn", "vi", "hi", "tgt", "eng"])
def test_languages_with_blanks_keep_the_default(code: str) -> None:
    metric = bleu_of(code, ["Ein Satz, mit 東京 darin.", "Noch einer."])
    metric.corpus_score(["Ein Satz"], [["Ein Satz"]])
    assert "tok:13a" in str(metric.get_signature())


def test_no_name_and_chinese_references() -> None:
    metric = bleu_of("tgt", REFERENCE["zh"])
    metric.corpus_score(REFERENCE["zh"], [REFERENCE["zh"]])
    assert "tok:zh" in str(metric.get_signature())
