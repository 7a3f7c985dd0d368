"""Megatron's prefixes, the index we write for it, and the real megatron-core on both."""

import os
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FileSizeLimit, plain_select
from indexed_files import DE, EN, rows_of, write_indexed, write_split

import pycat
from pycat.cli import main as cli
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.errors import CorpusError, OutputError, PycatError

VOCABULARY: dict[str, Any] = {"vocab_size": 12, "eos_id": 2}


def write_megatron(prefix: Path, rows: list[list[int]], modes: bytes = b"") -> None:
    """As uint16, each sequence a document."""
    lengths = [len(row) for row in rows]
    pointers = [2 * sum(lengths[:i]) for i in range(len(rows))]
    tokens = [token for row in rows for token in row]
    Path(f"{prefix}.bin").write_bytes(struct.pack(f"<{len(tokens)}H", *tokens))
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, len(rows), len(rows) + 1)
        + struct.pack(f"<{len(rows)}i", *lengths)
        + struct.pack(f"<{len(rows)}q", *pointers)
        + struct.pack(f"<{len(rows) + 1}q", *range(len(rows) + 1))
        + modes
    )


@pytest.fixture
def prefixes(tmp_path: Path) -> tuple[Path, Path]:
    write_megatron(tmp_path / "de", DE)
    write_megatron(tmp_path / "en", EN)
    return tmp_path / "de", tmp_path / "en"


@pytest.fixture
def copied(toy_corpus: Corpus, tmp_path: Path) -> Corpus:
    return open_corpus(shutil.copytree(toy_corpus.path, tmp_path / "copied"))


@pytest.fixture(scope="session")
def indexed_dataset() -> Any:
    """The module of the real package, which warns a lot about what else it could use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "megatron.core.datasets.indexed_dataset",
            reason="needs megatron-core, see requirements-dev.txt",
            exc_type=ImportError,
        )


# Opening


@pytest.mark.parametrize("modes", [b"", bytes(4)])
def test_prefixes_open(prefixes: tuple[Path, Path], modes: bytes) -> None:
    write_megatron(prefixes[0], DE, modes)
    corpus = open_corpus(prefixes, **VOCABULARY)
    assert rows_of(corpus) == list(zip(DE, EN, strict=True))
    assert corpus.path == prefixes[0].parent
    assert corpus.languages == ("src", "tgt")
    assert (corpus.vocab_size, corpus.eos_id, corpus.pad_id) == (12, 2, 2)
    other = open_corpus(prefixes, languages=("de", "en"), pad_id=0, **VOCABULARY)
    assert (other.languages, other.pad_id) == (("de", "en"), 0)
    assert other.id == corpus.id
    assert open_corpus(prefixes, vocab_size=13, eos_id=2).id != corpus.id


def write_documents(prefix: Path, documents: list[list[list[int]]]) -> None:
    """As uint16: documents of sequences, as Megatron's preprocessing makes them of lines."""
    rows = [row for document in documents for row in document]
    write_megatron(prefix, rows)
    ends = [sum(map(len, documents[:i])) for i in range(len(documents) + 1)]
    index = Path(f"{prefix}.idx").read_bytes()
    entries = index[34 : 34 + 12 * len(rows)]
    Path(f"{prefix}.idx").write_bytes(
        index[:26] + struct.pack("<Q", len(ends)) + entries + struct.pack(f"<{len(ends)}q", *ends)
    )


ROW = [4, 2]
DOCUMENTS: dict[str, tuple[list[int], list[int], str]] = {
    # Sequences in each document of source and of target.
    "empty on either side": (
        [1, 1, 0, 1, 1, 1],
        [1, 1, 1, 1, 0, 1],
        r"src\.idx: document 2 has 0 sequences, but 1 in .*tgt\.idx",
    ),
    "empty first": ([0, 1, 1], [1, 0, 1], r"document 0 has 0 sequences, but 1"),
    "split otherwise": ([2, 1, 1], [1, 2, 1], r"document 0 has 2 sequences, but 1"),
    "last": ([1, 1, 2, 0], [1, 1, 1, 1], r"document 2 has 2 sequences, but 1"),
    "fewer": ([1, 1, 1], [1, 1, 1, 1], r"src holds 3 sequences and .*tgt 4"),
    "none at the end": ([1, 1, 1], [1, 1, 1, 0], r"has 3 documents, but .*tgt\.idx has 4"),
    "one missing": ([1, 0, 1], [1, 1, 1], r"document 1 has 0 sequences, but 1"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_that_do_not_match_are_refused(name: str, tmp_path: Path) -> None:
    src, tgt, message = DOCUMENTS[name]
    for side, counts in (("src", src), ("tgt", tgt)):
        write_documents(tmp_path / side, [[ROW] * count for count in counts])
    with pytest.raises(CorpusError, match=message):
        open_corpus((tmp_path / "src", tmp_path / "tgt"), **VOCABULARY)


@pytest.mark.parametrize(
    ("src", "tgt"),
    [([1, 2, 0, 1], [1, 2, 0, 1]), ([4], [1, 1, 2]), ([1, 1, 1, 1], [4]), ([4], [4])],
)
def test_documents_that_match_or_say_nothing_open(
    src: list[int], tgt: list[int], tmp_path: Path
) -> None:
    for side, counts in (("src", src), ("tgt", tgt)):
        write_documents(tmp_path / side, [[ROW] * count for count in counts])
    assert len(open_corpus((tmp_path / "src", tmp_path / "tgt"), **VOCABULARY)) == 4


def test_an_empty_sequence_is_no_damage(tmp_path: Path) -> None:
    write_megatron(tmp_path / "src", [ROW, [], ROW])
    write_megatron(tmp_path / "tgt", [ROW, ROW, ROW])
    message = r"src\.idx: length of sequence 1 is 0, expected at least 1; it is empty: .*append-eod"
    with pytest.raises(CorpusError, match=message) as caught:
        open_corpus((tmp_path / "src", tmp_path / "tgt"), **VOCABULARY).verify()
    assert "damaged" not in str(caught.value)


def test_layouts_are_recognised_or_asked_for(prefixes: tuple[Path, Path]) -> None:
    write_indexed(prefixes[0], DE)  # as Megatron wrote before it had documents
    corpus = open_corpus(prefixes, **VOCABULARY)
    assert rows_of(corpus) == list(zip(DE, EN, strict=True))
    with pytest.raises(CorpusError, match=r"de\.idx: has .* in the layout asked for; it has the"):
        open_corpus(prefixes, layout="megatron", **VOCABULARY)
    write_megatron(prefixes[0], DE)
    assert len(open_corpus(prefixes, layout="megatron", **VOCABULARY)) == 4
    with pytest.raises(CorpusError, match=r"de\.idx: has .* in the layout asked for; it has the"):
        open_corpus(prefixes, layout="fairseq", **VOCABULARY)
    with pytest.raises(ValueError, match=r"^layout is 'lua', expected 'fairseq' or 'megatron'$"):
        open_corpus(prefixes, layout="lua", **VOCABULARY)


@pytest.mark.parametrize("given", [{}, {"vocab_size": 12}, {"eos_id": 2}, "all"])
def test_the_vocabulary_must_be_told_once(
    prefixes: tuple[Path, Path], toy_tokenizer: Path, given: Any
) -> None:
    options = {**VOCABULARY, "tokenizer": toy_tokenizer} if given == "all" else given
    with pytest.raises(PycatError) as caught:
        open_corpus(prefixes, **options)
    assert str(caught.value) == (
        f"{prefixes[0]}, {prefixes[1]}: vocab_size is {options.get('vocab_size')}, eos_id "
        f"{options.get('eos_id')} and tokenizer {options.get('tokenizer')}; expected vocab_size "
        "and eos_id, or else a tokenizer, which says both"
    )


@pytest.mark.parametrize("option", [{"eos_id": 12}, {"eos_id": -1}, {"pad_id": 12}])
def test_ids_outside_the_vocabulary_are_refused(
    prefixes: tuple[Path, Path], option: dict[str, int]
) -> None:
    [(name, value)] = option.items()
    message = rf"{name} is {value}; expected 0 or more and below 12, the vocab_size"
    with pytest.raises(PycatError, match=message):
        open_corpus(prefixes, **{**VOCABULARY, **option})


def test_a_split_of_prefixes_is_refused(prefixes: tuple[Path, Path]) -> None:
    with pytest.raises(PycatError, match=r"split given to open two prefixes, expected languages,"):
        open_corpus(prefixes, split="train", **VOCABULARY)


def test_damage_is_refused(prefixes: tuple[Path, Path]) -> None:
    with pytest.raises(CorpusError, match=r"none\.idx: does not exist; give the path without"):
        open_corpus((prefixes[0].with_name("none"), prefixes[1]), **VOCABULARY)
    with pytest.raises(CorpusError, match=r"de\.bin: token 2 of sequence 2 is 8, .* below 8, the"):
        _ = open_corpus(prefixes, vocab_size=8, eos_id=2).subset(np.array([2])).id
    with pytest.raises(CorpusError, match=r"sequence 0 ends with token 2, expected 3, the eos_id"):
        _ = open_corpus(prefixes, vocab_size=12, eos_id=3).id
    write_megatron(prefixes[1], EN[:3])
    with pytest.raises(CorpusError, match=r"de holds 4 sequences and .*en 3, expected 4 of each"):
        open_corpus(prefixes, **VOCABULARY)


def test_a_corpus_of_prefixes_is_found_again(
    toy_corpus: Corpus, toy_tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "a" / "src").mkdir(parents=True)
    (tmp_path / "a" / "tgt").mkdir()
    for side in ("src", "tgt"):
        rows = [toy_corpus[i][side == "tgt"].tolist() for i in range(len(toy_corpus))]
        write_megatron(tmp_path / "a" / side / "train", rows)
    shutil.copy(toy_tokenizer, tmp_path / "a" / "spm.model")
    corpus = open_corpus(
        (tmp_path / "a" / "src" / "train", tmp_path / "a" / "tgt" / "train"),
        tokenizer=tmp_path / "a" / "spm.model",
        languages=("en", "de"),
    )
    assert corpus.path == tmp_path / "a"
    assert corpus.tokenizer.decode([corpus[0][1].tolist()]) == [toy_corpus.sentences([0])[0][1]]
    fast: dict[str, Any] = {"batch_tokens": 512, "device": "cpu"}
    run = pycat.train(corpus, out=tmp_path / "p", updates=2, checkpoints=2, dtype="float32", **fast)
    table = pycat.score(corpus, run.checkpoints, out=tmp_path / "a" / "s", **fast)
    # The same tokenizer and the same tokens: what was trained on theirs scores ours.
    ours = pycat.score(toy_corpus, run.checkpoints, **fast)
    np.testing.assert_array_equal(table.nll, ours.nll)
    plain_select(table, out=tmp_path / "a" / "k")
    (tmp_path / "a").rename(tmp_path / "b")
    again = pycat.Selection.open(tmp_path / "b" / "k").corpus()
    assert (again.id, again.languages) == (corpus.id, ("en", "de"))
    assert again.tokenizer.path == tmp_path / "b" / "spm.model"


# Writing

GOLDEN_MCORE = bytes.fromhex(
    "4d4d4944494458 0000"  # MMIDIDX and two zeros
    "0100000000000000"  # version 1
    "08"  # uint16
    "0400000000000000"  # four sequences
    "0200000000000000"  # two document entries
    "03000000 02000000 04000000 02000000"  # lengths in tokens
    "0000000000000000 0600000000000000 0a00000000000000 1200000000000000"  # pointers in bytes
    "0000000000000000 0400000000000000"  # one document: all sequences
)


def test_writes_golden_bytes(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "train.de-en")
    written = open_corpus(tmp_path / "d").write_megatron_index()
    prefix = tmp_path / "d" / "train.de-en"
    assert written == (Path(f"{prefix}.de.mcore"), Path(f"{prefix}.en.mcore"))
    assert Path(f"{prefix}.de.mcore.idx").read_bytes() == GOLDEN_MCORE
    assert Path(f"{prefix}.de.mcore.bin").readlink() == Path("train.de-en.de.bin")
    assert len(open_corpus(tmp_path / "d")) == 4  # not another direction


def test_the_index_we_write_opens_as_the_same_corpus(copied: Corpus, tmp_path: Path) -> None:
    for _ in range(2):  # the second time over the first
        src, tgt = copied.write_megatron_index()
    names = {path.name for path in copied.path.iterdir()}
    assert names == {
        *("corpus.json", "tokenizer.model", "skipped.tsv"),
        *(f"{side}{ending}" for side in ("src", "tgt") for ending in (".idx", ".bin", ".sums")),
        *(f"{side}.mcore{ending}" for side in ("src", "tgt") for ending in (".idx", ".bin")),
    }
    copied.path.rename(tmp_path / "moved")
    moved = (tmp_path / "moved" / src.name, tmp_path / "moved" / tgt.name)
    corpus = open_corpus(moved, tokenizer=tmp_path / "moved" / "tokenizer.model")
    assert rows_of(corpus) == rows_of(open_corpus(tmp_path / "moved"))
    with pytest.raises(CorpusError) as caught:
        corpus.write_megatron_index()
    assert str(caught.value).startswith(
        f"{moved[0]}.idx: has Megatron's layout already, expected fairseq's layout and one of"
    )


def test_a_corpus_made_anew_leaves_no_old_index(copied: Corpus, toy_text: Any) -> None:
    copied.write_megatron_index()
    src, tgt = toy_text(50)
    pycat.tokenize(src, tgt, out=copied.path, vocab_size=320, overwrite=True)
    assert not list(copied.path.glob("*.mcore.*"))


def test_what_megatron_cannot_read_is_not_written(copied: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        copied.subset(np.array([1, 2])).write_megatron_index()
    assert str(caught.value) == (
        f"{copied.path}: this is a subset of 2 of 300 pairs, expected all of them: an index of "
        "Megatron's covers the whole token file"
    )
    write_split(tmp_path / "d", "train.de-en", code=9)
    with pytest.raises(CorpusError, match=r"de\.idx: has uint32 tokens, expected fairseq's "):
        open_corpus(tmp_path / "d").write_megatron_index()
    (copied.path / "src.mcore.bin").write_bytes(b"mine")
    with pytest.raises(OutputError) as refused:
        copied.write_megatron_index()
    assert str(refused.value) == (
        f"{copied.path / 'src.mcore.bin'}: expected no file, or a link that pycat made; move it "
        "away"
    )
    assert (copied.path / "src.mcore.bin").read_bytes() == b"mine"


def test_a_failed_write_leaves_no_index(copied: Corpus, file_size_limit: FileSizeLimit) -> None:
    copied.write_megatron_index()
    with file_size_limit(1000), pytest.raises(OSError, match=r"File too large.*src\.mcore\.idx"):
        copied.write_megatron_index()
    assert sorted(path.name for path in copied.path.glob("*src.mcore*")) == ["src.mcore.bin"]


def test_an_index_that_changed_is_not_copied(copied: Corpus) -> None:
    index = copied.path / "src.idx"
    os.utime(index, ns=(0, 0))
    with pytest.raises(CorpusError, match=r"src\.idx"):
        copied.write_megatron_index()
    assert not (copied.path / "src.mcore.idx").exists()


# The command line


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_megatron_index_on_the_command_line(
    copied: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("megatron-index", "--corpus", copied.path) == 0
    assert capsys.readouterr().out == "".join(
        f"{copied.path / side}.mcore.idx, {copied.path / side}.mcore.bin\n"
        for side in ("src", "tgt")
    )
    assert (copied.path / "tgt.mcore.idx").is_file()


def test_verbs_take_the_corpora_of_others(
    prefixes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path / "d", "train.de-en")
    quick = ("--batch-tokens", 8, "--device", "cpu")
    train = ("train", "--checkpoint-steps", "1,2", "--dtype", "float32", *quick)
    for name, corpus in (
        ("f", ("--corpus", tmp_path / "d", "--split", "train", "--languages", "en,de")),
        ("m", ("--corpus", *prefixes, "--vocab-size", 12, "--eos-id", 2)),
    ):
        proxy, scores = tmp_path / f"{name}p", tmp_path / f"{name}s"
        assert run(*train, "--out", proxy, *corpus) == 0
        assert run("score", "--checkpoints", proxy, "--out", scores, *quick, *corpus) == 0
        measures = tmp_path / f"{name}m"
        assert run("measure", "--out", measures, *corpus) == 0
        more = ("--measures", measures, "--out", tmp_path / f"{name}k")
        assert run("select", "--scores", scores, *more) == 0
        assert "kept 2 of 4 pairs" in capsys.readouterr().out
    text = ("--text", tmp_path / "a", tmp_path / "b")
    select = ("select", "--scores", tmp_path / "ms", "--measures", tmp_path / "mm")
    assert run(*select, "--out", tmp_path / "k", *text) == 1
    assert "holds tokens only" in capsys.readouterr().err
    assert run(*train, "--out", tmp_path / "x", "--corpus", *prefixes, "c") == 1
    assert "--corpus names 3 paths; expected a folder, or the" in capsys.readouterr().err


# The real package


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("mmap", [True, False])
def test_megatron_core_reads_what_we_write(
    copied: Corpus, indexed_dataset: Any, mmap: bool
) -> None:
    for side, prefix in enumerate(copied.write_megatron_index()):
        theirs = indexed_dataset.IndexedDataset(str(prefix), mmap=mmap)
        assert len(theirs) == len(copied)
        assert theirs.document_indices.tolist() == [0, len(copied)]
        np.testing.assert_array_equal(theirs.sequence_lengths, copied.lengths[side])
        for i in range(len(copied)):
            np.testing.assert_array_equal(theirs[i], copied[i][side])
            assert theirs[i].dtype == copied[i][side].dtype


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("multimodal", [True, False])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_we_read_what_megatron_core_writes(
    indexed_dataset: Any, tmp_path: Path, dtype: str, multimodal: bool
) -> None:
    for name, rows in (("de", DE), ("en", EN)):
        builder = indexed_dataset.IndexedDatasetBuilder(
            str(tmp_path / f"{name}.bin"), dtype=getattr(np, dtype), multimodal=multimodal
        )
        for row in rows:
            builder.add_item(torch.tensor(row))
            if row != rows[0]:
                builder.end_document()
        builder.finalize(str(tmp_path / f"{name}.idx"))
    corpus = open_corpus((tmp_path / "de", tmp_path / "en"), **VOCABULARY)
    assert rows_of(corpus) == list(zip(DE, EN, strict=True))
    corpus.verify()
    assert corpus[0][0].dtype == dtype
