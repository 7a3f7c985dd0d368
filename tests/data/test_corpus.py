"""The corpus, opened: damage is refused by name, batches cover each pair once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pycat.data.tokenizing
from pycat._core import IndexedWriter
from pycat.data.corpus import INDEX_FILES, Corpus
from pycat.data.opening import open_corpus
from pycat.errors import CorpusError
from pycat.runtime.output import write_manifest


def write_text(folder: Path, src: list[str], tgt: list[str]) -> tuple[Path, Path]:
    paths = folder / "text.en", folder / "text.de"
    for path, lines in zip(paths, (src, tgt), strict=True):
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return paths


@pytest.fixture
def copied(toy_corpus: Corpus, tmp_path: Path) -> Corpus:
    """The toy corpus in a folder that may be damaged."""
    return open_corpus(shutil.copytree(toy_corpus.path, tmp_path / "copied"))


def test_a_corpus_opens_wherever_its_folder_stands(toy_corpus: Corpus, copied: Corpus) -> None:
    assert copied.id == toy_corpus.id
    assert copied.path != toy_corpus.path
    ids = np.array([3, 1])
    assert torch.equal(copied.read(ids).tgt_tokens, toy_corpus.read(ids).tgt_tokens)
    assert copied.sentences([3]) == toy_corpus.sentences([3])


@pytest.mark.parametrize("side", ["src", "tgt"])
def test_sides_of_unequal_count_are_refused(copied: Corpus, side: str) -> None:
    with IndexedWriter(str(copied.path / side), dtype="uint16") as writer:
        writer.append(np.array([5, 2, 2], dtype=np.int32), np.array([2, 1], dtype=np.int32))
    counts = {"src": 300, "tgt": 300, side: 2}
    with pytest.raises(CorpusError) as caught:
        open_corpus(copied.path)
    assert str(caught.value) == (
        f"{copied.path}: {copied.path / 'src'} holds {counts['src']} sequences and "
        f"{copied.path / 'tgt'} {counts['tgt']}, expected 300 of each; make the corpus again"
    )


@pytest.mark.parametrize("name", sorted(INDEX_FILES))
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_index_file_is_refused_by_name(copied: Corpus, name: str, damage: str) -> None:
    file = copied.path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorpusError) as caught:
        open_corpus(copied.path)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        open_corpus(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none' / 'corpus.json'}: expected the manifest of a pycat corpus folder, "
        "found no such folder"
    )


def test_a_subset_is_a_view_of_those_pairs(toy_corpus: Corpus) -> None:
    ids = np.array([200, 5, 17, 5])
    view = toy_corpus.subset(ids)
    assert view.pair_ids.tolist() == [5, 17, 200]
    assert len(view) == 3
    assert view.num_tokens.tolist() == toy_corpus.num_tokens[[5, 17, 200]].tolist()
    assert view.num_src_tokens.tolist() == toy_corpus.num_src_tokens[[5, 17, 200]].tolist()
    assert view.lines.tolist() == [5, 17, 200]
    assert view.sentences([200, 5]) == toy_corpus.sentences([200, 5])
    with view.batches(10) as stream:
        assert sorted(i for batch in stream for i in batch.pair_ids.tolist()) == [5, 17, 200]
    assert len(toy_corpus) == 300


def test_the_id_of_a_subset_tells_its_pairs(toy_corpus: Corpus) -> None:
    view = toy_corpus.subset(np.array([5, 17, 200]))
    assert view.id == toy_corpus.subset(np.array([200, 17, 5])).id
    others = [toy_corpus, *(toy_corpus.subset(np.array(ids)) for ids in ([5, 17], [5, 18, 200]))]
    assert len({view.id, *(other.id for other in others)}) == 4
    assert view.subset(np.array([5, 17])).id == toy_corpus.subset(np.array([5, 17])).id
    assert toy_corpus.subset(toy_corpus.pair_ids).id == toy_corpus.id


def test_pairs_that_are_not_in_the_corpus_are_refused(toy_corpus: Corpus) -> None:
    view = toy_corpus.subset(np.array([5, 17, 200]))
    for corpus, bad, size in ((toy_corpus, -1, "300"), (toy_corpus, 300, "300"), (view, 6, "3")):
        first, last = corpus.pair_ids[0], corpus.pair_ids[-1]
        for ask in (corpus.subset, lambda ids, corpus=corpus: corpus.sentences(ids.tolist())):
            with pytest.raises(CorpusError) as caught:
                ask(np.array([17, bad]))
            assert str(caught.value) == (
                f"{corpus.path}: pair {bad} is not in this corpus of {size} pairs with ids {first} "
                f"to {last}; pass ids of its pair_ids"
            )
    with pytest.raises(CorpusError) as caught:
        toy_corpus.subset(np.array([], dtype=np.int64))
    assert str(caught.value) == (
        f"{toy_corpus.path}: the subset is empty; expected at least one pair"
    )


def test_a_damaged_list_of_skipped_lines_is_refused(tmp_path: Path, toy_tokenizer: Path) -> None:
    paths = write_text(tmp_path, ["one", "", "three"], ["eins", "zwei", "drei"])
    corpus = pycat.tokenize(*paths, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    assert corpus.lines.tolist() == [0, 2]
    folder = tmp_path / "corpus"
    skipped = folder / "skipped.tsv"
    whole = skipped.read_text()
    skipped.write_text(whole.replace("2\t", "1\t"))
    with pytest.raises(CorpusError, match=r"skipped\.tsv: is not as it was written: its SHA-256"):
        _ = pycat.open_corpus(folder).lines
    # A corpus of an older pycat has no hash of the list.
    manifest = json.loads((folder / "corpus.json").read_text())
    del manifest["files"]
    write_manifest(folder / "corpus.json", manifest)
    for text, message in (
        ("line\treason\n", "leaves 3 lines, expected 2; it is damaged"),
        ("", "leaves 3 lines, expected 2; it is damaged"),
        (whole.replace("2\t", "4\t"), r"cannot be read \(line 4 of a text of 3\)"),
        (whole.replace("2\t", "-1\t"), r"cannot be read \(line -1 of a text of 3\)"),
        (whole.replace("2\t", "\0\t"), r"cannot be read \(invalid literal"),
    ):
        skipped.write_text(text)
        with pytest.raises(CorpusError, match=rf"skipped\.tsv: {message}"):
            _ = pycat.open_corpus(folder).lines


def test_a_view_that_would_descend_is_refused(toy_corpus: Corpus) -> None:
    assert toy_corpus[10:20:3].pair_ids.tolist() == [10, 13, 16, 19]
    with pytest.raises(ValueError, match=r"^the step is -1; expected at least 1: views ascend$"):
        toy_corpus[20:10:-1]
