"""Which languages of the identifier a corpus's language is, however its name is spelt.

Names come from files, catalogues and model vocabularies: `de`, `pt-BR`, `zh_Hans`, `sr@latin`,
`deu`, `ger`, `eng_Latn`, `en_XX`. The first part says the language, by ISO 639-1, 639-2 (both its
forms) or 639-3, and a part of four letters the script, by ISO 15924.
"""

import re
from collections.abc import Collection


def identifier_codes(name: str, known: Collection[str]) -> tuple[str, ...]:
    """The identifier's codes that count as this language; none where it lacks the language.

    Args:
        name: of a language, in any of the spellings above.
        known: all codes of the identifier.
    """
    language, *tags = re.split(r"[-_@.]", name.strip().lower())
    code = _SPELLINGS.get(language, language)
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


def _pairs(text: str) -> dict[str, str]:
    """Each of the names after a colon, with what stands before it."""
    entries = (entry.split(":") for entry in text.split())
    return {name: code for code, names in entries for name in names.split(",")}


# ISO 639-2 in both forms, withdrawn codes, and country codes that are no language but common.
_SPELLINGS = _pairs(
    "af:afr am:amh an:arg ar:ara as:asm az:aze ba:bak be:bel bg:bul bn:ben br:bre bs:bos ca:cat "
    "cs:ces,cze,cz cy:cym,wel da:dan,dk de:deu,ger dz:dzo el:ell,gre,gr en:eng eo:epo es:spa "
    "et:est eu:eus,baq fa:fas,per fi:fin fo:fao fr:fra,fre fy:fry ga:gle gd:gla gl:glg gu:guj "
    "ha:hau he:heb,iw hi:hin hr:hrv,scr ht:hat hu:hun hy:hye,arm id:ind,in ig:ibo is:isl,ice "
    "it:ita ja:jpn,jp jv:jav,jw ka:kat,geo kk:kaz km:khm kn:kan ko:kor ku:kur ky:kir la:lat lb:ltz "
    "lg:lug ln:lin lo:lao lt:lit lv:lav mg:mlg mk:mkd,mac ml:mal mn:mon mr:mar ms:msa,may mt:mlt "
    "my:mya,bur ne:nep nl:nld,dut nn:nno no:nor nb:nob oc:oci om:orm or:ori pa:pan pl:pol ps:pus "
    "pt:por qu:que ro:ron,rum,mo,mol ru:rus rw:kin sa:san se:sme si:sin sk:slk,slo sl:slv "
    "sn:sna so:som sq:sqi,alb sr:srp,scc st:sot sv:swe sw:swa ta:tam te:tel tg:tgk th:tha tk:tuk "
    "tl:tgl,fil tr:tur tt:tat ug:uig uk:ukr,ua ur:urd uz:uzb vi:vie vo:vol wa:wln xh:xho yo:yor "
    "zh:zho,chi,cn zu:zul kik:ki gug:gn,grn fuv:ff,ful "
    # Members of macrolanguages in ISO 639-3, as their standard form is coded by NLLB and others.
    "ar:arb fa:pes,prs sw:swh,swc et:ekk lv:lvs az:azj uz:uzn mn:khk ne:npi or:ory mg:plt "
    "om:gaz,hae sq:als,aln qu:quy,quz,qxo ku:kmr ps:pbt,pbu,pst ms:zsm,zlm zh:cmn "
    "gom:kok sh:hbs"
)

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
        ("hira,kana,hrkt,jpan", "ja"),
        ("hani,hans,hant", "zh yue wuu"),
    )
    for code in codes.split()
}
_SCRIPTS = {"latn", *(script for scripts in _SCRIPTS_OF.values() for script in scripts)}
