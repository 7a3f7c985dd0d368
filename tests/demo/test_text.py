import gettext
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from pycat.demo import text as demo_text
from pycat.demo.text import DemoText, DemoTextError, Source, collect

FERN = Source("fern.tools", "1.2", "MIT", "invented")
MOSS = Source("moss", "3.0", "Apache-2.0", "invented")

PO = r"""# A translator's note
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"

#: fern/leaf.py:7
msgid "The fern grows slowly."
msgstr "Der Farn wächst langsam."

#, fuzzy
#| msgid "The fern grows"
msgid "The fern grows quickly."
msgstr "Der Farn wächst langsam."

#, python-format
msgid "%(count)d frond was cut today"
msgid_plural "%(count)d fronds were cut today"
msgstr[0] "%(count)d Wedel wurde heute geschnitten"
msgstr[1] "%(count)d Wedel wurden heute geschnitten"

msgid "one spore was found"
msgid_plural "many spores were found"
msgstr[0] "viele Sporen wurden gefunden"

msgctxt "garden"
msgid ""
"Water the <b>\"small\" pot</b>\n"
"   twice&nbsp;a day.<br/>Thank you."
msgstr ""
"Gieße den <b>\"kleinen\" Topf</b>\n"
"   zweimal&nbsp;am Tag.<br/>Danke."
msgid "follows without a blank line"
msgstr "folgt ohne eine Leerzeile"

#. Default: "Every pot needs a hole."
msgid "help_pot_hole"
msgstr "Jeder Topf braucht ein Loch."

msgid "not yet translated at all"
msgstr ""

#, fuzzy
#~ msgid "an old and gone sentence"
#~ msgstr "ein alter und vergangener Satz"

msgid "after the obsolete one"
msgstr "nach dem veralteten Eintrag"
"""
PO_PAIRS = {
    ("The fern grows slowly.", "Der Farn wächst langsam."),
    ("%(count)d frond was cut today", "%(count)d Wedel wurde heute geschnitten"),
    ("%(count)d fronds were cut today", "%(count)d Wedel wurden heute geschnitten"),
    ("many spores were found", "viele Sporen wurden gefunden"),
    (
        'Water the "small" pot twice a day. Thank you.',
        'Gieße den "kleinen" Topf zweimal am Tag. Danke.',
    ),
    ("follows without a blank line", "folgt ohne eine Leerzeile"),
    ("Every pot needs a hole.", "Jeder Topf braucht ein Loch."),
    ("after the obsolete one", "nach dem veralteten Eintrag"),
}


def mo(entries: Mapping[str, str], order: str = "<") -> bytes:
    rows = [[text.encode() for text in row] for row in sorted(entries.items())]
    tables, data = [b"", b""], b""
    first = 28 + 16 * len(rows)
    for column in (0, 1):
        for row in rows:
            tables[column] += struct.pack(f"{order}2I", len(row[column]), first + len(data))
            data += row[column] + b"\0"
    head = (0x950412DE, 0, len(rows), 28, 28 + 8 * len(rows), 0, 0)
    return struct.pack(f"{order}7I", *head) + tables[0] + tables[1] + data


def wheel(folder: Path, source: Source, catalogues: Mapping[str, bytes]) -> Path:
    """A wheel that pip itself accepts, holding `catalogues` by path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{source.package.replace('.', '_')}-{source.version}"
    info = {
        "METADATA": f"Metadata-Version: 2.1\nName: {source.package}\nVersion: {source.version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in catalogues.items():
            archive.writestr(name, data)
        for name, text in info.items():
            archive.writestr(f"{stem}.dist-info/{name}", text)
    return path


def numbered(count: int) -> bytes:
    words = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine"]
    trees = [f"{a} {b} {c}" for a in words for b in words for c in words][:count]
    return mo({f"Plant the {tree}": f"Pflanze {tree} ein" for tree in trees})


def pairs_of(text: DemoText) -> set[tuple[str, str]]:
    pairs = set()
    for en, de in ((text.train_en, text.train_de), (text.test_en, text.test_de)):
        pairs |= set(zip(lines(en), lines(de), strict=True))
    return pairs


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def collected(folder: Path, catalogues: Mapping[str, bytes], num_test: int = 0) -> DemoText:
    wheel(folder / "downloads", FERN, catalogues)
    return collect(folder, sources=[FERN], num_test=num_test, min_pairs=1)


def test_po_entries(tmp_path: Path) -> None:
    text = collected(tmp_path, {"fern/locale/de/LC_MESSAGES/fern.po": PO.encode()})
    assert pairs_of(text) == PO_PAIRS
    assert (text.num_train, text.num_test, text.num_pairs) == (8, 0, {"fern.tools": 8})


@pytest.mark.parametrize("order", "<>")
def test_mo_entries(tmp_path: Path, order: str) -> None:
    entries = {
        "": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n",
        "garden\x04the gate is open": "das Tor steht auf",
        "%d tall green fern\0%d tall green ferns": "%d hoher grüner Farn\0%d hohe grüne Farne",
    }
    data = mo(entries, order)
    assert (
        gettext.GNUTranslations(io.BytesIO(data)).pgettext("garden", "the gate is open")[:3]
        == "das"
    )
    text = collected(tmp_path, {"share/locale/de_DE/LC_MESSAGES/fern.mo": data})
    assert pairs_of(text) == {
        ("the gate is open", "das Tor steht auf"),
        ("%d tall green fern", "%d hoher grüner Farn"),
        ("%d tall green ferns", "%d hohe grüne Farne"),
    }


def test_po_is_read_instead_of_its_mo_and_other_languages_are_not(tmp_path: Path) -> None:
    stale = mo({"a stale old entry": "ein alter Eintrag"})
    text = collected(
        tmp_path,
        {
            "fern/locale/de/LC_MESSAGES/fern.po": PO.encode(),
            "fern/locale/de/LC_MESSAGES/fern.mo": stale,
            "fern/locale/de_Informal/LC_MESSAGES/fern.mo": stale,
            "fern/locale/nl/LC_MESSAGES/fern.mo": stale,
        },
    )
    assert pairs_of(text) == PO_PAIRS


def test_french_stands_beside_the_english_that_has_german(tmp_path: Path) -> None:
    german = {
        "the gate is open": "das Tor steht auf",
        "the gate is shut": "das Tor bleibt zu",
        "one fern grows here\0many ferns grow here": "hier wächst Farn\0hier wachsen Farne",
    }
    french = {
        "the gate is open": "la porte est ouverte",
        "nobody said this in German": "personne ne l'a dit",
        "one fern grows here\0many ferns grow here": "une fougère\0des fougères",
    }
    text = collected(
        tmp_path,
        {"f/de/LC_MESSAGES/f.mo": mo(german), "f/locale/fr_FR/LC_MESSAGES/f.mo": mo(french)},
    )
    assert dict(zip(lines(text.train_en), lines(text.train_fr), strict=True)) == {
        "the gate is open": "la porte est ouverte",
        "the gate is shut": "",
        "one fern grows here": "une fougère",
        "many ferns grow here": "des fougères",
    }


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (("_Open the gate", "Das Tor öff_nen"), ("Open the gate", "Das Tor öffnen")),
        (("Close the _Gate", "Tor schließen"), ("Close the Gate", "Tor schließen")),
        (("set user_id to %s", "user_id auf %s setzen"),) * 2,
        (("hi {my_name} of {town}", "{my_name} aus {town}"), None),
        (("see the {my_name} fern", "siehe den Farn {my_name}"),) * 2,
        (("Ferns & <name> mosses", "Farne & <Name> Moose"),) * 2,
        (("AT&amp;T is here &lt;", "AT&amp;T wohnt hier"), ("AT&T is here <", "AT&T wohnt hier")),
        (("Two words", "Zwei Wörter"), None),
        (("%(a)s and %(b)s", "%(a)s und %(b)s"), None),
        (("fern_help_long_text", "Ein langer Hilfetext"), None),
        (("never TRANSLATED at all", "Never translated at all!"), None),
        (("three dots here", "..."), None),
        (("really do it (yn)?$$ &Yes $$ &No", "wirklich tun (jn)?$$ &Ja $$ &Nein"), None),
        (("a fern " * 200, "ein Farn"), None),
    ],
)  # fmt: skip
def test_cleaning(tmp_path: Path, raw: tuple[str, str], clean: tuple[str, str] | None) -> None:
    kept = ("always kept in here", "hier immer behalten")
    text = collected(tmp_path, {"f/de/LC_MESSAGES/f.mo": mo(dict([raw, kept]))})
    assert pairs_of(text) == {kept} | ({clean} if clean else set())


def test_duplicates_belong_to_the_first_source(tmp_path: Path) -> None:
    both = {"the same old words": "dieselben alten Wörter"}
    wheel(tmp_path / "cache", FERN, {"f/de/LC_MESSAGES/f.mo": mo(both)})
    other = mo({**both, "some other new words": "einige andere Wörter"})
    wheel(tmp_path / "cache", MOSS, {"m/de/LC_MESSAGES/m.mo": other})
    text = collect(
        tmp_path / "out", cache=tmp_path / "cache", sources=[FERN, MOSS], num_test=0, min_pairs=2
    )
    assert text.num_pairs == {"fern.tools": 1, "moss": 1}
    assert (tmp_path / "out/SOURCES.tsv").read_text() == (
        "package\tversion\tlicence\tpairs\nfern.tools\t1.2\tMIT\t1\nmoss\t3.0\tApache-2.0\t1\n"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "SOURCES.tsv", "test.de", "test.en", "train.de", "train.en", "train.fr",
    ]  # fmt: skip


def test_split_is_disjoint_and_repeatable(tmp_path: Path) -> None:
    # The second catalogue repeats every English text in other case and punctuation.
    shouted = numbered(300).replace(b"Plant the", b"PLANT-THE").replace(b"Pflanze", b"Pflegt,")
    catalogues = {"f/de/LC_MESSAGES/a.mo": numbered(300), "f/de/LC_MESSAGES/b.mo": shouted}
    first = collected(tmp_path / "1", catalogues, num_test=50)
    second = collected(tmp_path / "2", catalogues, num_test=50)
    assert (first.num_train, first.num_test) == (500, 50)
    for name in ("train.en", "train.de", "train.fr", "test.en", "test.de", "SOURCES.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    train, test = (
        ["".join(filter(str.isalpha, line.casefold())) for line in lines(path)]
        for path in (first.train_en, first.test_en)
    )
    assert len(set(test)) == 50
    assert not set(train) & set(test)
    assert lines(first.train_en) != sorted(lines(first.train_en))
    other = collect(tmp_path / "1", sources=[FERN], num_test=50, min_pairs=1, seed=1)
    assert lines(other.test_en) != lines(second.test_en)


def test_pip_downloads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = wheel(tmp_path / "index", FERN, {"f/de/LC_MESSAGES/f.mo": numbered(10)})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    text = collect(tmp_path / "out", sources=[FERN], num_test=2, min_pairs=1)
    assert (text.num_train, text.num_test) == (8, 2)
    assert [path.name for path in (tmp_path / "out/downloads").iterdir()] == [offered.name]
    offered.unlink()
    assert collect(tmp_path / "out", sources=[FERN], num_test=2, min_pairs=1) == text


def test_a_missing_package_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path / "downloads", FERN, {"f/de/LC_MESSAGES/f.mo": numbered(10)})
    with pytest.warns(UserWarning, match=r"moss==3\.0: expected a wheel, but pip said: .*moss"):
        text = collect(tmp_path, sources=[FERN, MOSS], num_test=2, min_pairs=10)
    assert text.num_pairs == {"fern.tools": 10, "moss": 0}


def test_too_few_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path / "downloads", FERN, {"f/de/LC_MESSAGES/f.mo": numbered(10)})
    with pytest.raises(
        DemoTextError,
        match=r"found 10 English-German pairs in 1 of 2 packages, expected at least 5,000\.\n"
        r"  moss==3\.0: expected a wheel, .*\nCheck .* make demo SRC=train\.en TGT=train\.de",
    ):
        collect(tmp_path, sources=[FERN, MOSS])
    assert not (tmp_path / "train.en").exists()


@pytest.mark.parametrize("damage", ["archive", "magic", "cut", "encoding"])
def test_damaged_wheel(tmp_path: Path, damage: str) -> None:
    good = numbered(10)
    data = {
        "magic": b"nonsense" * 5,
        "cut": good[:40],
        "encoding": good.replace(b"ash", b"\xff\xfe "),
    }
    path = wheel(tmp_path / "downloads", FERN, {"f/de/LC_MESSAGES/f.mo": data.get(damage, good)})
    if damage == "archive":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DemoTextError, match=r"fern_tools-1\.2-.*reading failed .*; delete it and run"
    ):
        collect(tmp_path, sources=[FERN], num_test=0, min_pairs=1)


def test_sources_are_shown_with_licence_and_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_text, "SOURCES", (FERN,))
    wheel(tmp_path / "cache", FERN, {"f/de/LC_MESSAGES/f.mo": numbered(10)})
    text = demo_text.collect(
        tmp_path / "out", cache=tmp_path / "cache", sources=(FERN,), num_test=3, min_pairs=10
    )
    demo_text.show_sources(text)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "fern" in line)
    assert row.split() == ["fern.tools", "1.2", "MIT", "10"]
    assert "7 pairs in" in shown


def test_sources_are_distinct_and_complete() -> None:
    assert len({source.package for source in demo_text.SOURCES}) == len(demo_text.SOURCES)
    for source in demo_text.SOURCES:
        assert all((source.package, source.version, source.licence, source.about))
