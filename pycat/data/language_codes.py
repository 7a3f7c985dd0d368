"""Spellings of a language's code: `de`, `deu`, `ger`, `de_DE` and `deu_Latn` are one language."""

import difflib
import re
from collections.abc import Collection

# Codes of ISO 639-1, each with those of ISO 639-2 and 639-3 that stand for it or for its usual
# written form.
_THREE_LETTERS = """
aa aar, ab abk, af afr, ak aka twi, am amh, an arg, ar ara arb ary arz acm acq aeb ajp apc ars, as
asm, av ava, ay aym ayr, az aze azj azb, ba bak, be bel, bg bul, bh bho, bi bis, bm bam, bn ben,
bo bod tib, br bre, bs bos, ca cat, ce che, ch cha, co cos, cs ces cze, cv chv, cy cym wel, da
dan, de deu ger, dv div, dz dzo, ee ewe, el ell gre, en eng, eo epo, es spa, et est ekk, eu eus
baq, fa fas per pes prs, ff ful fuv, fi fin, fj fij, fo fao, fr fra fre, fy fry, ga gle, gd gla,
gl glg, gn grn gug, gu guj, ha hau, he heb iw, hi hin, hr hrv, ht hat, hu hun, hy hye arm, ia ina,
id ind in, ig ibo, is isl ice, it ita, ja jpn jp, jv jav, ka kat geo, ki kik, kk kaz, kl kal, km
khm, kn kan, ko kor kr, ks kas, ku kur kmr, kv kom, kw cor, ky kir, la lat, lb ltz, lg lug, li
lim, ln lin, lo lao, lt lit, lu lub, lv lav lvs, mg mlg plt, mh mah, mi mri mao, mk mkd mac, ml
mal, mn mon khk, mr mar, ms msa may zsm, mt mlt, my mya bur, nb nob, ne nep npi, nl nld dut, nn
nno, no nor, nr nbl, ny nya, oc oci, oj oji, om orm gaz, or ori ory, os oss, pa pan, pl pol, ps
pus pbt, pt por, qu que quy quz, rm roh, rn run, ro ron rum, ru rus, rw kin, sa san, sc srd, sd
snd, se sme, sg sag, si sin, sk slk slo, sl slv, sm smo, sn sna, so som, sq sqi alb als, sr srp,
ss ssw, st sot, su sun, sv swe, sw swa swh, ta tam, te tel, tg tgk, th tha, ti tir, tk tuk, tl tgl
fil, tn tsn, to ton, tr tur, ts tso, tt tat, ty tah, ug uig, uk ukr, ur urd, uz uzb uzn, ve ven,
vi vie, wo wol, xh xho, yi yid ydd, yo yor, za zha, zh zho chi cmn yue wuu lzh cn zhs zht, zu zul
"""
_TWO_LETTERS = {
    code: codes[0]
    for codes in (entry.split() for entry in _THREE_LETTERS.split(","))
    for code in codes
}


def language_of(code: str) -> str:
    """The language of a code, by ISO 639-1 where that has one: "zh" of "zho_Hans" or "zh-CN".

    What follows the first `_`, `-` or `.`, such as a script or a country, plays no role, nor do
    capitals and underscores around the code (`__de__`).
    """
    language = re.split(r"[-_.@]", code.strip("_").lower())[0]
    return _TWO_LETTERS.get(language, language)


def is_known_code(code: str) -> bool:
    """Whether a name is a code of a language, maybe with script or country: "de", "zho_Hans"."""
    return re.split(r"[-_.@]", code.strip("_").lower())[0] in _TWO_LETTERS


def near_codes(wanted: str, known: Collection[str], count: int = 5) -> list[str]:
    """Known codes of the wanted language, else those that are spelt about alike."""
    language = language_of(wanted)
    same = sorted(code for code in known if language_of(code) == language)
    if same:
        return same[:count]
    by_lower = {code.lower(): code for code in sorted(known, reverse=True)}
    alike = difflib.get_close_matches(wanted.lower(), by_lower, count, cutoff=0.5)
    return [by_lower[code] for code in alike]
