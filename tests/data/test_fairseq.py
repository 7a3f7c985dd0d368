"""fairseq's folders: splits, languages, dictionaries; and that we write fairseq's format."""

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import plain_select
from indexed_files import CODES, DE, DICT, EN, rows_of, write_indexed, write_split

import pycat
from pycat.data.corpus import Corpus
from pycat.data.fairseq import is_data_bin
from pycat.data.opening import open_corpus
from pycat.errors import CorpusError, PycatError
from pycat.proxy.checkpoint import load_model, read_info


def read_indexed(prefix: Path) -> list[list[int]]:
    """What a reader of fairseq's makes of a pair of files."""
    index, tokens = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == bytes.fromhex("4d4d49444944580000")
    version, code, count = struct.unpack_from("<QBQ", index, 9)
    assert version == 1
    assert len(index) == 26 + 12 * count
    lengths = struct.unpack_from(f"<{count}i", index, 26)
    pointers = struct.unpack_from(f"<{count}q", index, 26 + 4 * count)
    return [
        list(struct.unpack_from(f"<{length}{CODES[code]}", tokens, pointer))
        for length, pointer in zip(lengths, pointers, strict=True)
    ]


@pytest.fixture
def data_bin(tmp_path: Path) -> Path:
    folder = tmp_path / "data-bin"
    write_split(folder, "train.de-en")
    write_split(folder, "valid.de-en", pairs=2)
    (folder / "preprocess.log").write_text("as fairseq leaves it\n")
    return folder


@pytest.mark.parametrize("code", CODES)
def test_a_folder_of_fairseqs_opens(tmp_path: Path, code: int) -> None:
    write_split(tmp_path / "d", "train.de-en", code=code)
    corpus = open_corpus(tmp_path / "d")
    assert rows_of(corpus) == list(zip(DE, EN, strict=True))
    assert corpus.languages == ("de", "en")
    assert (corpus.vocab_size, corpus.src_vocab_size) == (12, None)
    assert (corpus.eos_id, corpus.pad_id) == (2, 1)
    assert corpus.manifest["num_pairs"] == 4
    assert not corpus.has_text
    with corpus.batches(100, padded=True) as stream:
        [batch] = stream
    longest = batch.src_tokens[batch.pair_ids == 2].tolist()
    assert longest == [DE[2]]
    assert batch.src_tokens[batch.pair_ids == 1].tolist() == [[6, 2, 1, 1]]


def test_splits_and_languages_are_chosen(data_bin: Path) -> None:
    assert len(open_corpus(data_bin, split="valid")) == 2
    turned = open_corpus(data_bin, languages=("en", "de"))
    assert rows_of(turned) == list(zip(EN, DE, strict=True))
    assert turned.languages == ("en", "de")

    write_split(data_bin, "train.en-de")
    shutil.copy(data_bin / "dict.de.txt", data_bin / "dict.pt-BR.txt")
    for side, rows in (("de", DE), ("pt-BR", EN)):
        write_indexed(data_bin / f"train.de-pt-BR.{side}", rows)
    with pytest.raises(CorpusError) as caught:
        open_corpus(data_bin)
    assert str(caught.value) == (
        f"{data_bin}: split 'train' holds de-en, de-pt-BR, en-de, expected one direction, or "
        "languages that say which; pass languages of these"
    )
    assert rows_of(open_corpus(data_bin, languages=("en", "de"))) == list(zip(DE, EN, strict=True))
    assert len(open_corpus(data_bin, languages=("de", "pt-BR"))) == 4
    with pytest.raises(CorpusError, match=r"holds de-en, de-pt-BR, en-de, expected de-fr; pass"):
        open_corpus(data_bin, languages=("de", "fr"))


def test_a_missing_split_names_those_present(data_bin: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        open_corpus(data_bin, split="test")
    assert str(caught.value) == (
        f"{data_bin}: holds no split 'test' (test.SRC-TGT.SRC.idx); it holds train, valid: name "
        "one with split"
    )
    for file in data_bin.glob("*.idx"):
        file.unlink()
    with pytest.raises(CorpusError, match=r"no split 'train' .*; it holds none: name one"):
        open_corpus(data_bin)


def test_a_missing_dictionary_is_named(data_bin: Path) -> None:
    (data_bin / "dict.en.txt").unlink()
    with pytest.raises(CorpusError) as caught:
        open_corpus(data_bin)
    assert str(caught.value) == (
        f"{data_bin / 'dict.en.txt'}: no such dictionary, expected the one that en was binarised "
        "with; copy it there"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a 9\nb\n", r"line 2 is 'b', expected a token, a space and a count, then at most"),
        (b"a 9\n\nb 1\n", r"line 2 is '', expected a token, a space and a count"),
        (b"a 9\nb x\n", r"line 2 is 'b x', expected a token, a space and a count"),
        (b"a 9\nb 3 #other:flag\n", r"line 2 is 'b 3 #other:flag', expected a token"),
        (b"a 9\nb 3\na 1\n", r"line 3 is 'a 1', but 'a' stands on line 1 already; expected each"),
        (b"<unk> 9\n", r"line 1 is '<unk> 9', but '<unk>' stands among the ids 0 to 3 already"),
        (b"a 9\nb\xff 3\n", r"line 2 is not UTF-8 \(byte 0xff\); copy the dictionary there again"),
    ],
)
def test_a_malformed_dictionary_is_refused(data_bin: Path, text: bytes, message: str) -> None:
    (data_bin / "dict.de.txt").write_bytes(text)
    with pytest.raises(CorpusError, match=rf"^{data_bin / 'dict.de.txt'}: {message}"):
        open_corpus(data_bin)


def test_every_line_of_a_dictionary_is_an_id(data_bin: Path) -> None:
    lines = (
        "a 9\n\N{LINE SEPARATOR} 4\nwith space 3\r\n"
        "<unk> 1 #fairseq:overwrite\na 2 #fairseq:overwrite\n 7"
    )
    for language in ("de", "en"):
        (data_bin / f"dict.{language}.txt").write_bytes(lines.encode())
    assert open_corpus(data_bin).vocab_size == 4 + 6


def test_each_side_is_bound_by_its_own_dictionary(data_bin: Path, tmp_path: Path) -> None:
    shared = open_corpus(data_bin)
    (data_bin / "dict.en.txt").write_text(DICT.replace(" 9", " 12"))
    assert open_corpus(data_bin).id == shared.id  # counts say nothing about ids
    (data_bin / "dict.de.txt").write_text("x 1\n" + DICT)
    corpus = open_corpus(data_bin)
    assert (corpus.src_vocab_size, corpus.vocab_size) == (13, 12)
    assert corpus.id != shared.id
    write_indexed(data_bin / "train.de-en.de", [[12, 2], *DE[1:]])
    assert open_corpus(data_bin)[0][0].tolist() == [12, 2]
    open_corpus(data_bin).verify()
    write_indexed(data_bin / "train.de-en.en", [[12, 2], *EN[1:]])
    with pytest.raises(CorpusError, match=r"en\.bin: token 0 of sequence 0 is 12, .* below 12"):
        open_corpus(data_bin).verify()


def test_unequal_counts_are_refused(data_bin: Path) -> None:
    write_indexed(data_bin / "train.de-en.en", EN[:3])
    with pytest.raises(CorpusError, match=r"de holds 4 sequences and .*en 3, expected 4 of each"):
        open_corpus(data_bin)


def test_a_missing_side_is_named(data_bin: Path) -> None:
    (data_bin / "train.de-en.en.idx").unlink()
    with pytest.raises(CorpusError, match=r"train\.de-en\.en\.idx: does not exist"):
        open_corpus(data_bin)


def test_older_formats_of_fairseq_are_refused_with_a_hint(data_bin: Path) -> None:
    (data_bin / "train.de-en.de.idx").write_bytes(b"TNTIDX\0\0" + bytes(40))
    with pytest.raises(CorpusError, match=r"is a TNTIDX file.* --dataset-impl mmap"):
        open_corpus(data_bin)


def test_options_that_do_not_belong_are_refused(data_bin: Path, toy_corpus: Corpus) -> None:
    with pytest.raises(PycatError) as caught:
        open_corpus(data_bin, vocab_size=12, layout="fairseq")
    assert str(caught.value) == (
        f"{data_bin}: vocab_size, layout given to open a folder of fairseq's, expected split, "
        "languages; leave the others out"
    )
    with pytest.raises(PycatError, match=r"split given to open a folder of pycat's, expected no"):
        open_corpus(toy_corpus.path, split="train")
    with pytest.raises(PycatError, match=r"languages are \('de', 'de'\); expected two different"):
        open_corpus(data_bin, languages=("de", "de"))


def test_the_id_tells_tokens_and_dictionaries(data_bin: Path, tmp_path: Path) -> None:
    first = open_corpus(data_bin)
    moved = open_corpus(shutil.copytree(data_bin, tmp_path / "moved"))
    assert first.id == moved.id
    assert first.id != open_corpus(data_bin, split="valid").id
    view = first.subset(np.array([1, 2]))
    assert view.id != first.id
    assert view.manifest["id"] == first.id
    (tmp_path / "moved" / "dict.de.txt").write_text(DICT.replace("b ", "c "))
    other = open_corpus(tmp_path / "moved")
    assert other.manifest["tokenizer_sha256"] != first.manifest["tokenizer_sha256"]
    assert other.id != first.id


def test_a_sequence_without_eos_is_refused_when_all_is_read(data_bin: Path) -> None:
    write_indexed(data_bin / "train.de-en.en", [*EN[:2], [8, 5], EN[3]])
    corpus = open_corpus(data_bin)
    for use in (corpus.verify, lambda: corpus.id):
        with pytest.raises(CorpusError) as caught:
            use()
        assert str(caught.value) == (
            f"{data_bin / 'train.de-en.en.bin'}: sequence 2 ends with token 5, expected 2, the "
            "eos_id; open it with its own eos_id, or make it with an EOS at the end of each "
            "sequence"
        )


@pytest.mark.parametrize("shared", [True, False])
def test_train_score_and_select(tmp_path: Path, shared: bool) -> None:
    folder, rng = tmp_path / "data-bin", np.random.default_rng(0)
    rows = [[*rng.integers(4, 12, rng.integers(1, 9)).tolist(), 2] for _ in range(60)]
    write_split(folder, "train.de-en")
    write_indexed(folder / "train.de-en.de", rows)
    write_indexed(folder / "train.de-en.en", rows[::-1])
    if not shared:
        (folder / "dict.de.txt").write_text(DICT + "c 1\n")
    corpus = open_corpus(folder, languages=("en", "de") if shared else None)
    fast: dict[str, Any] = {"batch_tokens": 64, "device": "cpu"}
    run = pycat.train(corpus, out=tmp_path / "p", updates=4, checkpoints=2, dtype="float32", **fast)
    table = pycat.score(corpus, run.checkpoints, out=tmp_path / "s", **fast)
    assert table.nll.shape == (60, 2)
    assert np.isfinite(table.nll).all()
    kept = plain_select(table, keep=0.5, out=tmp_path / "k")
    assert len(kept) == 30
    assert pq.read_table(tmp_path / "k" / "kept.parquet").column_names == ["pair"]

    # Folders, moved together, still find their corpus and open it as it was opened.
    (tmp_path / "elsewhere").mkdir()
    for name in ("data-bin", "s", "k"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    again = pycat.Selection.open(tmp_path / "elsewhere" / "k")
    assert again.corpus().languages == corpus.languages
    assert again.corpus().id == corpus.id
    assert plain_select(tmp_path / "elsewhere" / "s", keep=0.5).pair_ids.tolist() == (
        again.pair_ids.tolist()
    )
    for write in (
        lambda: again.write_text(tmp_path / "a", tmp_path / "b"),
        lambda: again.write_tsv(tmp_path / "a"),
        lambda: again.corpus().sentences([0]),
        lambda: again.corpus().lines,
    ):
        with pytest.raises(CorpusError) as caught:
            write()
        assert str(caught.value) == (
            f"{tmp_path / 'elsewhere' / 'data-bin'}: holds tokens only, so the text of its pairs "
            "is not known; use their pair_ids, which count the sequences from 0, or make a corpus "
            "of the text with 'pycat tokenize'"
        )
    assert not (tmp_path / "a").exists()
    (tmp_path / "t.tsv").write_text("a\tb\n")
    with pytest.raises(CorpusError, match=r"no tokenizer is known for these tokens, which text"):
        pycat.evaluate(again, tests={"t": tmp_path / "t.tsv"}, out=tmp_path / "e", passes=1.0)
    assert not (tmp_path / "e").exists()


def test_a_proxy_of_two_dictionaries_has_two_embeddings(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "train.de-en")
    (tmp_path / "d" / "dict.de.txt").write_text(DICT + "c 1\n")
    corpus = open_corpus(tmp_path / "d")
    run = pycat.train(
        corpus, out=tmp_path / "p", preset="tiny", updates=2, checkpoints=1, batch_tokens=8
    )
    info = read_info(run.checkpoints[0])
    assert (info.config.src_vocab_size, info.config.vocab_size) == (13, 12)
    model = load_model(info, torch.device("cpu"))
    assert model.src_embedding is not None
    assert model.src_embedding.weight.shape == (13, 256)
    assert model.output_weight.shape == (12, 256)


def test_what_we_write_is_fairseqs_format(toy_corpus: Corpus) -> None:
    for side, name in enumerate(("src", "tgt")):
        rows = read_indexed(toy_corpus.path / name)
        assert rows == [toy_corpus[i][side].tolist() for i in range(len(toy_corpus))]
        assert {row[-1] for row in rows} == {toy_corpus.eos_id}


def test_other_folders_are_not_taken_for_fairseqs(tmp_path: Path, toy_corpus: Corpus) -> None:
    assert not is_data_bin(toy_corpus.path)
    assert not is_data_bin(tmp_path / "none")
    (tmp_path / "a.b-c.d.idx").touch()
    (tmp_path / "train.b-c.b.old.idx").touch()
    assert not is_data_bin(tmp_path)
