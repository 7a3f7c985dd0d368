"""Spellings of a language's code: `de`, `deu`, `ger`, `de_DE` and `deu_Latn` are one language."""

import difflib
import re
from collections.abc import Collection

# Codes of ISO 639-1, or 639-3 where that has none, each with those of ISO 639-2 (both forms) and
# 639-3 that stand for it or for its usual written form, with withdrawn ones, and with codes of
# countries that are no language but common.
_THREE_LETTERS = """
aa aar, ab abk, af afr, ak aka twi, am amh, an arg, ar ara arb ary arz acm acq aeb ajp apc ars, as
asm, av ava, ay aym ayr, az aze azj azb, ba bak, be bel, bg bul, bh bho, bi bis, bm bam, bn ben, bo
bod tib, br bre, bs bos, ca cat, ce che, ch cha, co cos, cs ces cze cz, cv chv, cy cym wel, da dan
dk, de deu ger, dv div, dz dzo, ee ewe, el ell gre gr, en eng, eo epo, es spa, et est ekk, eu eus
baq, fa fas per pes prs, ff ful fuv, fi fin, fj fij, fo fao, fr fra fre, fy fry, ga gle, gd gla, gl
glg, gn grn gug, gom kok, gu guj, ha hau, he heb iw, hi hin, hr hrv scr, ht hat, hu hun, hy hye
arm, ia ina, id ind in, ig ibo, is isl ice, it ita, ja jpn jp, jv jav jw, ka kat geo, ki kik, kk
kaz, kl kal, km khm, kn kan, ko kor kr, ks kas, ku kur kmr, kv kom, kw cor, ky kir, la lat, lb ltz,
lg lug, li lim, ln lin, lo lao, lt lit, lu lub, lv lav lvs, mg mlg plt, mh mah, mi mri mao, mk mkd
mac, ml mal, mn mon khk, mr mar, ms msa may zsm zlm, mt mlt, my mya bur, nb nob, ne nep npi, nl nld
dut, nn nno, no nor, nr nbl, ny nya, oc oci, oj oji, om orm gaz hae, or ori ory, os oss, pa pan, pl
pol, ps pus pbt pbu pst, pt por, qu que quy quz qxo, rm roh, rn run, ro ron rum mo mol, ru rus, rw
kin, sa san, sc srd, sd snd, se sme, sh hbs, sg sag, si sin, sk slk slo, sl slv, sm smo, sn sna, so
som, sq sqi alb als aln, sr srp scc, ss ssw, st sot, su sun, sv swe, sw swa swh swc, ta tam, te
tel, tg tgk, th tha, ti tir, tk tuk, tl tgl fil, tn tsn, to ton, tr tur, ts tso, tt tat, ty tah, ug
uig, uk ukr ua, ur urd, uz uzb uzn, ve ven, vi vie, vo vol, wa wln, wo wol, xh xho, yi yid ydd, yo
yor, za zha, zh zho chi cmn yue wuu lzh cn zhs zht, zu zul
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
    language = code_parts(code)[0]
    return _TWO_LETTERS.get(language, language)


def code_parts(code: str) -> list[str]:
    """Language, script and country of a code in small letters, as far as it has them."""
    return re.split(r"[-_.@]", code.strip().strip("_").lower())


def is_known_code(code: str) -> bool:
    """Whether a name is a code of a language, maybe with script or country: "de", "zho_Hans"."""
    return code_parts(code)[0] in _TWO_LETTERS


def near_codes(wanted: str, known: Collection[str], count: int = 5) -> list[str]:
    """Known codes of the wanted language, else those that are spelt about alike."""
    language = language_of(wanted)
    spoken = {code: language_of(code) for code in sorted(known)}
    for alike in ({language}, {"no", "nb", "nn"}):  # a code of Norwegian for that of a written form
        same = [code for code, other in spoken.items() if other in alike and language in alike]
        if same:
            return same[:count]
    by_lower = {code.lower(): code for code in sorted(known, reverse=True)}
    spelt = difflib.get_close_matches(wanted.lower(), by_lower, count, cutoff=0.5)
    return [by_lower[code] for code in spelt]
