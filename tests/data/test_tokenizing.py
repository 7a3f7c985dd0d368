"""Tokenizing: alignment is never lost, work is never lost."""

import errno
import gzip
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import FileSizeLimit, SmallDisk, ToyText, toy_pairs

import pycat.data.parallel_text
import pycat.data.tokenizing
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.data.tokenizer import Tokenizer
from pycat.data.tokenizing import tokenize
from pycat.errors import CorpusError, OutputError, PycatError, TextError, TokenizerError
from pycat.runtime.workers import on_workers

INDEX_FILES = {"src.idx", "src.bin", "tgt.idx", "tgt.bin"}
CHECKSUM_FILES = {"src.sums", "tgt.sums"}
ALL_FILES = INDEX_FILES | CHECKSUM_FILES | {"corpus.json", "tokenizer.model", "skipped.tsv"}


def write_text(folder: Path, src: list[str], tgt: list[str]) -> tuple[Path, Path]:
    paths = folder / "text.en", folder / "text.de"
    for path, lines in zip(paths, (src, tgt), strict=True):
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return paths


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two corpus folders hold the same, apart from time stamps in the manifest."""
    names = ALL_FILES - {"corpus.json"}
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_corpus_holds_the_tokenizers_ids_in_order(toy_corpus: Corpus) -> None:
    pairs = toy_pairs(300)
    assert len(toy_corpus) == 300
    src, tgt = (toy_corpus.tokenizer.encode([pair[side] for pair in pairs]) for side in (0, 1))
    assert toy_corpus.num_src_tokens.tolist() == [len(row) for row in src]
    assert toy_corpus.num_tokens.tolist() == [len(row) for row in tgt]
    ids = np.array([299, 0, 7, 7])
    batch = toy_corpus.read(ids)
    assert batch.pair_ids.tolist() == ids.tolist()
    for tokens, cu_seqlens, rows in (
        (batch.src_tokens, batch.src_cu_seqlens, src),
        (batch.tgt_tokens, batch.tgt_cu_seqlens, tgt),
    ):
        assert (tokens.dtype, cu_seqlens.dtype) == (torch.int64, torch.int32)
        assert tokens.tolist() == [token for i in ids for token in rows[i]]
        assert cu_seqlens.tolist() == np.cumsum([0, *(len(rows[i]) for i in ids)]).tolist()
        assert tokens[cu_seqlens[1:].long() - 1].tolist() == [toy_corpus.eos_id] * 4
    for tensor, same in zip(batch, batch.to(torch.device("cpu")), strict=True):
        assert torch.equal(tensor, same)


def test_the_manifest_and_names(toy_corpus: Corpus) -> None:
    assert {file.name for file in toy_corpus.path.iterdir()} == ALL_FILES
    assert toy_corpus.languages == ("en", "de")
    assert (toy_corpus.vocab_size, toy_corpus.eos_id) == (340, 2)
    assert repr(toy_corpus) == f"Corpus({str(toy_corpus.path)!r}, 300 pairs, en-de)"
    assert toy_corpus.manifest["skipped"] == {}
    assert toy_corpus.manifest["num_lines"] == toy_corpus.manifest["num_pairs"] == 300
    assert toy_corpus.manifest["tokenizer_sha256"] == toy_corpus.tokenizer.sha256


def test_skipped_lines_are_counted_and_never_shift_the_alignment(
    tmp_path: Path, toy_tokenizer: Path
) -> None:
    longest, tokens = "x" * 65_536, "seven " * 600
    rows = [
        ("one", "eins"),
        ("", "zwei"),
        ("three", ""),
        ("four", "vier"),
        (" \t\u3000", "fünf"),
        ("six", "\u2028\r"),
        ("", ""),
        (longest + "x", "sieben"),
        ("eight", "y" * 1_000_000),
        (tokens, "neun"),
        ("ten", tokens),
        (longest, "elf"),
        ("twelve", "zwölf"),
    ]
    src, tgt = write_text(tmp_path, [row[0] for row in rows], [row[1] for row in rows])
    corpus = tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    assert corpus.lines.tolist() == [0, 3, 12]
    assert corpus.sentences([2, 0, 1, 0]) == [rows[12], rows[0], rows[3], rows[0]]
    assert corpus.manifest["num_lines"] == 13
    assert corpus.manifest["skipped"] == {
        "a side of more than 512 tokens": 3,
        "a side of more than 65536 bytes": 2,
        "empty source": 3,
        "empty target": 2,
    }
    assert (corpus.path / "skipped.tsv").read_text() == (
        "line\treason\n"
        "2\tempty source\n"
        "3\tempty target\n"
        "5\tempty source\n"
        "6\tempty target\n"
        "7\tempty source\n"
        "8\ta side of more than 65536 bytes\n"
        "9\ta side of more than 65536 bytes\n"
        "10\ta side of more than 512 tokens\n"
        "11\ta side of more than 512 tokens\n"
        "12\ta side of more than 512 tokens\n"
    )


def test_a_side_of_just_max_tokens_is_kept(tmp_path: Path, toy_tokenizer: Path) -> None:
    lines = ["one", "one two", "one two three"]
    lengths = [len(row) for row in Tokenizer(toy_tokenizer).encode(lines)]
    assert lengths[0] < lengths[1] < lengths[2]
    src, tgt = write_text(tmp_path, [*lines, "one", "one"], ["one", "one", "one", *lines[1:]])
    corpus = tokenize(
        src, tgt, out=tmp_path / "corpus", tokenizer=toy_tokenizer, max_tokens=lengths[1]
    )
    assert corpus.lines.tolist() == [0, 1, 3]
    assert corpus.manifest["skipped"] == {f"a side of more than {lengths[1]} tokens": 2}


def test_a_line_of_65536_bytes_is_read(tmp_path: Path, toy_tokenizer: Path) -> None:
    src, tgt = write_text(tmp_path, ["x" * 65_536, "x" * 65_537], ["eins", "zwei"])
    corpus = tokenize(
        src, tgt, out=tmp_path / "corpus", tokenizer=toy_tokenizer, max_tokens=1_000_000
    )
    assert corpus.lines.tolist() == [0]
    assert corpus.num_src_tokens[0] > 1000


def test_lines_are_counted_over_many_chunks(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pycat.data.parallel_text, "_CHUNK_LINES", 7)
    monkeypatch.setattr(pycat.data.parallel_text, "_BLOCK_BYTES", 200)
    pairs = toy_pairs(100)
    src = ["" if i % 9 == 0 else pair[0] for i, pair in enumerate(pairs)]
    paths = write_text(tmp_path, src, [pair[1] for pair in pairs])
    corpus = tokenize(*paths, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    kept = [i for i in range(100) if i % 9]
    assert corpus.lines.tolist() == kept
    assert corpus.sentences(range(len(kept))) == [pairs[i] for i in kept]
    expected = corpus.tokenizer.encode([pairs[i][1] for i in kept])
    tokens = corpus.read(corpus.pair_ids).tgt_tokens.tolist()
    assert tokens == [token for row in expected for token in row]


@pytest.mark.parametrize("num_threads", [1, 2, 5, None])
@pytest.mark.parametrize(("lines", "num_bytes"), [(1, 1 << 19), (100, 1 << 19), (1024, 1000)])
def test_threads_and_chunks_change_nothing(
    tmp_path: Path,
    toy_text: ToyText,
    toy_corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    num_threads: int | None,
    lines: int,
    num_bytes: int,
) -> None:
    monkeypatch.setattr(pycat.data.parallel_text, "_CHUNK_LINES", lines)
    monkeypatch.setattr(pycat.data.parallel_text, "_CHUNK_BYTES", num_bytes)
    monkeypatch.setattr(pycat.data.parallel_text, "_BLOCK_BYTES", min(num_bytes, lines * 20))
    corpus = tokenize(
        *toy_text(300), out=tmp_path / "corpus", vocab_size=340, num_threads=num_threads
    )
    assert corpus.id == toy_corpus.id
    assert same_bytes(corpus.path, toy_corpus.path)


def test_no_thread_is_refused(tmp_path: Path, toy_text: ToyText) -> None:
    with pytest.raises(PycatError) as caught:
        tokenize(*toy_text(10), out=tmp_path / "corpus", num_threads=0)
    assert str(caught.value) == "num_threads is 0; expected at least 1, or None for all"
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("first", ["UTF-8", "no tab", "damage"])
def test_of_several_errors_the_first_in_the_text_is_named(
    tmp_path: Path, toy_tokenizer: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Line numbers hold in every chunk, though later chunks are read before it is tokenized."""
    bad = {"UTF-8": b"gr\xfc\xdfe\tx\n", "no tab": b"none\n"}
    message = {"UTF-8": "line 31, byte 3 is 0xfc", "no tab": "line 31 has no tab"}
    lines = [b"one\teins\n"] * 60
    if first == "damage":
        message[first] = "reading failed after line"
    else:
        lines[30] = bad.pop(first)
        lines[31] = bad.popitem()[1]
    noise = np.random.default_rng(0).bytes(1_500_000).hex().encode()
    lines += [noise[i : i + 99] + b"\tx\n" for i in range(0, len(noise), 99)]
    path = tmp_path / "text.tsv.gz"
    whole = gzip.compress(b"".join(lines))
    path.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(pycat.data.parallel_text, "_BLOCK_BYTES", 200)
    for num_lines in (10, 40, 1024):
        monkeypatch.setattr(pycat.data.parallel_text, "_CHUNK_LINES", num_lines)
        with pytest.raises(TextError) as caught:
            tokenize(tsv=path, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
        assert str(caught.value).startswith(f"{path}: {message[first]}")


@pytest.mark.parametrize("trained", [False, True])
def test_ctrl_c_ends_it_at_once_and_leaves_no_process(
    tmp_path: Path, toy_tokenizer: Path, trained: bool
) -> None:
    """The process alone gets the signal, as from `kill -INT`; a terminal signals its child too."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(map(chr, rng.integers(97, 123, 7))) for _ in range(20_000)])
    with (tmp_path / "text.tsv").open("w") as file:
        for row in words[rng.integers(0, len(words), (60_000, 24))].tolist():
            file.write(f"{' '.join(row[:12])}\t{' '.join(row[12:])}\n")
    script = (
        "import pycat, sys; print('ready', flush=True); "
        "pycat.tokenize(tsv=sys.argv[1], out=sys.argv[2], tokenizer=sys.argv[3] or None)"
    )
    arguments = [str(tmp_path / "text.tsv"), str(tmp_path / "corpus")]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", script, *arguments, "" if trained else str(toy_tokenizer)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        child = ""
        while time.monotonic() < deadline and process.poll() is None:
            child = children.read_text() if trained else ""
            if child or (not trained and list(tmp_path.glob("corpus/corpus.json"))):
                break
            time.sleep(0.005)
        time.sleep(0.1)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert time.monotonic() - sent < 5
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
    assert not child or not Path(f"/proc/{child.strip()}").exists()
    assert {file.name for file in (tmp_path / "corpus").iterdir()} <= {
        "corpus.json",
        "tokenizer.model",
    }


def test_line_separators_inside_lines_do_not_shift_the_alignment(
    tmp_path: Path, toy_tokenizer: Path
) -> None:
    src = [
        "one\r",
        "two \r two",
        "three \0 three",
        "four \u2028 four",
        "five \u0085 five",
        "  six ",
    ]
    tgt = ["eins", "zwei", "drei\r", "vier", "fünf", "sechs \x0b\x0c\x1c\u2029 sechs"]
    corpus = tokenize(
        *write_text(tmp_path, src, tgt), out=tmp_path / "corpus", tokenizer=toy_tokenizer
    )
    assert corpus.lines.tolist() == [0, 1, 2, 3, 4, 5]
    assert corpus.sentences(range(6)) == [
        (src[i].removesuffix("\r"), tgt[i].removesuffix("\r")) for i in range(6)
    ]


def test_all_forms_of_a_text_give_the_same_corpus(tmp_path: Path, toy_text: ToyText) -> None:
    src, tgt = toy_text(60)
    en, de = src.read_bytes(), tgt.read_bytes()
    (tmp_path / "t.en.gz").write_bytes(gzip.compress(en[:500]) + gzip.compress(en[500:]))
    (tmp_path / "t.de.zst").write_bytes(pa.compress(de, codec="zstd", asbytes=True))
    rows = zip(en.splitlines(), de.splitlines(), strict=True)
    (tmp_path / "t.tsv").write_bytes(b"".join(b"%s\t%s\t0.5\r\n" % row for row in rows))
    made = [
        tokenize(src, tgt, out=tmp_path / "plain", vocab_size=320),
        tokenize(
            tmp_path / "t.en.gz", tmp_path / "t.de.zst", out=tmp_path / "packed", vocab_size=320
        ),
        tokenize(tsv=tmp_path / "t.tsv", out=tmp_path / "tsv", vocab_size=320),
    ]
    assert same_bytes(made[0].path, made[1].path)
    assert same_bytes(made[0].path, made[2].path)
    assert len({corpus.id for corpus in made}) == 1
    assert made[0].sentences([59, 0]) == made[1].sentences([59, 0]) == made[2].sentences([59, 0])
    assert [corpus.languages for corpus in made] == [("en", "de"), ("en", "de"), ("src", "tgt")]


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (("a.en", "a.sw.gz"), None, ("en", "sw")),
        (("train", "train.de"), None, ("src", "tgt")),
        (("src.txt", "tgt.txt"), None, ("src", "tgt")),
        (("a.en", "a.de"), ("fr", "sw"), ("fr", "sw")),
    ],
)
def test_languages(
    tmp_path: Path,
    toy_tokenizer: Path,
    names: tuple[str, str],
    given: tuple[str, str] | None,
    expected: tuple[str, str],
) -> None:
    for name in names:
        data = b"one\n"
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    corpus = tokenize(
        *(tmp_path / name for name in names),
        out=tmp_path / "corpus",
        tokenizer=toy_tokenizer,
        languages=given,
    )
    assert corpus.languages == expected


def test_a_given_model_is_used_and_copied(
    tmp_path: Path, toy_text: ToyText, toy_tokenizer: Path
) -> None:
    corpus = tokenize(*toy_text(40, seed=5), out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    assert (corpus.path / "tokenizer.model").read_bytes() == toy_tokenizer.read_bytes()
    (tokens,) = Tokenizer(toy_tokenizer).encode([toy_pairs(40, seed=5)[3][1]])
    assert corpus.read(np.array([3])).tgt_tokens.tolist() == tokens


def test_overwriting_may_take_the_tokenizer_from_the_folder_itself(
    tmp_path: Path, toy_text: ToyText
) -> None:
    text = toy_text(60)
    first = tokenize(*text, out=tmp_path / "corpus", vocab_size=320)
    model = first.path / "tokenizer.model"
    sha256 = first.tokenizer.sha256
    second = tokenize(*text, out=first.path, tokenizer=model, overwrite=True)
    assert second.tokenizer.sha256 == sha256
    assert second.id == first.id


@pytest.mark.parametrize("side", [0, 1])
def test_invalid_utf8_is_named_and_can_be_mended(
    tmp_path: Path, toy_tokenizer: Path, side: int
) -> None:
    paths = write_text(tmp_path, ["one", "two", "three"], ["eins", "zwei", "drei"])
    good = paths[side].read_bytes()
    lines = good.splitlines(keepends=True)
    paths[side].write_bytes(lines[0] + b"gr\xfc\xdfe\n" + lines[2])
    out = tmp_path / "corpus"
    for tokenizer in (None, toy_tokenizer):
        with pytest.raises(TextError) as caught:
            tokenize(*paths, out=out, tokenizer=tokenizer, vocab_size=270)
        assert str(caught.value) == (
            f"{paths[side]}: line 2, byte 3 is 0xfc, which is not valid UTF-8; convert the file "
            "with iconv, or drop the line on both sides"
        )
    paths[side].write_bytes(good)
    assert len(tokenize(*paths, out=out, tokenizer=toy_tokenizer)) == 3


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_unequal_line_counts_are_refused_with_both_counts(
    tmp_path: Path, toy_tokenizer: Path, with_tokenizer: bool
) -> None:
    src, tgt = write_text(tmp_path, ["one", "two"], ["eins", "zwei", "drei", "vier"])
    with pytest.raises(TextError) as caught:
        tokenize(src, tgt, out=tmp_path / "c", tokenizer=toy_tokenizer if with_tokenizer else None)
    assert str(caught.value).startswith(f"{src} has 2 lines but {tgt} has 4; expected equally many")
    with pytest.raises(CorpusError, match="incomplete"):
        open_corpus(tmp_path / "c")


def test_a_text_that_gives_no_pair_is_refused_and_the_remedy_works(
    tmp_path: Path, toy_tokenizer: Path
) -> None:
    src, tgt = write_text(tmp_path, ["one two", "three"], ["eins zwei", " "])
    out = tmp_path / "corpus"
    with pytest.raises(TextError) as caught:
        tokenize(src, tgt, out=out, tokenizer=toy_tokenizer, max_tokens=2)
    assert str(caught.value) == (
        f"{src}: none of 2 lines gives a pair with text on both sides and at most 2 tokens; check "
        "the files, or raise max_tokens"
    )
    assert [file.name for file in out.iterdir()] == ["corpus.json"]
    assert len(tokenize(src, tgt, out=out, tokenizer=toy_tokenizer, max_tokens=50)) == 1


def test_a_vocabulary_too_small_is_refused_and_the_remedy_works(
    tmp_path: Path, toy_text: ToyText
) -> None:
    text, out = toy_text(40), tmp_path / "corpus"
    with pytest.raises(TokenizerError, match=r"required_chars.* Pass another vocab_size"):
        tokenize(*text, out=out, vocab_size=50)
    assert tokenize(*text, out=out, vocab_size=300).vocab_size == 300


def test_a_finished_corpus_is_not_made_again(tmp_path: Path, toy_text: ToyText) -> None:
    text, out = toy_text(60), tmp_path / "corpus"
    first = tokenize(*text, out=out, vocab_size=320)
    before = contents(out)
    for overwrite in (False, True):
        assert tokenize(*text, out=out, vocab_size=320, overwrite=overwrite).id == first.id
        assert contents(out) == before
    other = tokenize(*text, out=tmp_path / "again", vocab_size=320)
    assert other.id == first.id
    assert same_bytes(other.path, out)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"max_tokens": 99}, "max_tokens was 512, now 99"),
        ({"languages": ("en", "fr")}, 'languages was ["en", "de"], now ["en", "fr"]'),
        (
            {"model_type": "bpe"},
            'tokenizer was {"vocab_size": 320, "model_type": "unigram"}, now {"vocab_size": 320, '
            '"model_type": "bpe"}',
        ),
    ],
)
def test_a_changed_option_is_refused_and_overwriting_spares_strangers(
    tmp_path: Path, toy_text: ToyText, options: dict[str, Any], change: str
) -> None:
    text, out = toy_text(60), tmp_path / "corpus"
    tokenize(*text, out=out, vocab_size=320)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(OutputError) as caught:
        tokenize(*text, out=out, **{"vocab_size": 320, **options})
    assert str(caught.value) == (
        f"{out}: this corpus folder was made with other options ({change}); pass --overwrite "
        "(overwrite=True) to replace it, or choose another folder"
    )
    assert contents(out) == before
    corpus = tokenize(*text, out=out, overwrite=True, **{"vocab_size": 320, **options})
    assert {file.name for file in out.iterdir()} == {*ALL_FILES, "notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"
    assert corpus.id == tokenize(*text, out=tmp_path / "fresh", **{"vocab_size": 320, **options}).id


def test_a_changed_text_is_refused_with_its_hashes(tmp_path: Path, toy_text: ToyText) -> None:
    src, tgt = toy_text(60)
    tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=320)
    src.write_bytes(src.read_bytes().replace(b"one", b"two"))
    with pytest.raises(OutputError, match=r"made with other options \(text was \[.*, now \["):
        tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=320)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, toy_text: ToyText, toy_tokenizer: Path, overwrite: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.json").write_text('{"format": "pycat.scores"}')
    (out / "src.bin").write_text("mine")
    before = contents(out)
    with pytest.raises(OutputError) as caught:
        tokenize(*toy_text(10), out=out, tokenizer=toy_tokenizer, overwrite=overwrite)
    assert str(caught.value) == (
        f"{out}: expected an empty folder or one made by pycat (corpus.json), found scores.json, "
        "src.bin; choose another folder"
    )
    assert contents(out) == before


@pytest.mark.parametrize("after_chunks", [0, 2])
def test_an_interrupted_run_is_made_whole_by_the_next(
    tmp_path: Path,
    toy_text: ToyText,
    toy_tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_chunks: int,
) -> None:
    text, out = toy_text(60), tmp_path / "corpus"

    def broken_off(*args: Any) -> Iterator[Any]:
        for number, chunk in enumerate(on_workers(*args)):
            if number == after_chunks:
                raise KeyboardInterrupt
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(pycat.data.parallel_text, "_CHUNK_LINES", 10)
        patch.setattr(pycat.data.parallel_text, "_BLOCK_BYTES", 200)
        patch.setattr("pycat.data.token_writing.on_workers", broken_off)
        with pytest.raises(KeyboardInterrupt):
            tokenize(*text, out=out, tokenizer=toy_tokenizer)
    assert {file.name for file in out.iterdir()} == {"corpus.json", "tokenizer.model"}
    with pytest.raises(CorpusError) as caught:
        open_corpus(out)
    assert str(caught.value) == (
        f"{out}: this corpus folder is incomplete (its making was interrupted); run the command "
        "that makes it again"
    )
    corpus = tokenize(*text, out=out, tokenizer=toy_tokenizer)
    fresh = tokenize(*text, out=tmp_path / "fresh", tokenizer=toy_tokenizer)
    assert corpus.id == fresh.id
    assert same_bytes(out, fresh.path)


@pytest.mark.parametrize("moment", ["tokenizer", "index", "manifest"])
def test_a_full_disk_is_named_and_the_next_run_succeeds(
    tmp_path: Path, toy_text: ToyText, toy_tokenizer: Path, small_disk: SmallDisk, moment: str
) -> None:
    text = toy_text(600)
    fresh = tokenize(*text, out=tmp_path / "fresh", tokenizer=toy_tokenizer)
    kibibytes = {file.name: -(-file.stat().st_size // 4096) * 4 for file in fresh.path.iterdir()}
    # What fits beside the lock: the manifest of begun work alone; and the tokenizer; or all but the
    # last manifest.
    free, named = {
        "tokenizer": (8, {"tokenizer.model"}),
        "index": (4 + kibibytes["tokenizer.model"], INDEX_FILES | {"skipped.tsv"}),
        "manifest": (sum(kibibytes.values()), {"corpus.json"}),
    }[moment]
    free += 4
    disk = small_disk(1024)
    filler, out = disk / "filler", disk / "corpus"
    filler.write_bytes(bytes((1024 - free) << 10))
    with pytest.raises(OSError) as caught:
        tokenize(*text, out=out, tokenizer=toy_tokenizer)
    assert caught.value.errno == errno.ENOSPC
    place = Path(caught.value.filename)
    assert place.parent == out
    assert place.name in named
    left = {file.name for file in out.iterdir()}
    assert left <= ALL_FILES - (named if moment == "tokenizer" else set())
    for name in left - {"corpus.json"}:
        assert (out / name).read_bytes() == (fresh.path / name).read_bytes()
    filler.unlink()
    corpus = tokenize(*text, out=out, tokenizer=toy_tokenizer)
    assert corpus.id == fresh.id
    assert {file.name for file in out.iterdir()} == ALL_FILES
    assert same_bytes(out, fresh.path)


@pytest.mark.parametrize(("num_bytes", "file"), [(2048, "tokenizer.model"), (250_000, "tgt.bin")])
def test_a_file_too_large_is_named_and_the_next_run_succeeds(
    tmp_path: Path, toy_tokenizer: Path, file_size_limit: FileSizeLimit, num_bytes: int, file: str
) -> None:
    assert toy_tokenizer.stat().st_size < 250_000
    text = write_text(tmp_path, ["one"] * 2000, ["eins " * 90] * 2000)
    out = tmp_path / "corpus"
    with file_size_limit(num_bytes), pytest.raises(OSError) as caught:
        tokenize(*text, out=out, tokenizer=toy_tokenizer)
    assert caught.value.errno == errno.EFBIG
    assert Path(caught.value.filename).name.startswith(file)
    assert {entry.name for entry in out.iterdir()} <= {"corpus.json", "tokenizer.model"}
    assert len(tokenize(*text, out=out, tokenizer=toy_tokenizer)) == 2000


def test_text_may_be_touched_but_not_changed(tmp_path: Path, toy_text: ToyText) -> None:
    src, tgt = toy_text(60)
    corpus = tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=320)
    old = tgt.read_bytes()
    tgt.touch()
    assert corpus.text().paths == (src, tgt)
    before = contents(corpus.path)
    assert tokenize(src, tgt, out=corpus.path, vocab_size=320).id == corpus.id
    assert contents(corpus.path) == before
    tgt.write_bytes(old[:-2] + b"x\n")
    assert tgt.stat().st_size == len(old)
    for action in (corpus.text, lambda: corpus.sentences([0])):
        with pytest.raises(TextError) as caught:
            action()
        assert str(caught.value) == (
            f"{tgt}: changed since {corpus.path} was made from it; put the old file back, or run "
            "'pycat tokenize' again"
        )
    tgt.unlink()
    with pytest.raises(TextError) as caught:
        corpus.text()
    assert str(caught.value) == f"{tgt}: the text of {corpus.path} is gone; put it back"
    tgt.write_bytes(old)
    assert corpus.sentences([0]) == toy_pairs(60)[:1]


@pytest.mark.parametrize("pair", ["en-de", "en-fr", "en-sw"])
def test_real_text_keeps_every_line_in_place(
    shared_data: Path, tmp_path: Path, toy_tokenizer: Path, pair: str
) -> None:
    tsv = shared_data / pair / "dev.tsv.gz"
    corpus = tokenize(tsv=tsv, out=tmp_path / "corpus", tokenizer=toy_tokenizer, max_tokens=100)
    rows = [line.split("\t") for line in gzip.decompress(tsv.read_bytes()).decode().split("\n")]
    assert corpus.manifest["num_lines"] == len(rows) - 1
    assert 100 < len(corpus) < len(rows) - 1
    expected = [(rows[line][0], rows[line][1]) for line in corpus.lines]
    assert corpus.sentences(corpus.pair_ids.tolist()) == expected
    lengths = [len(row) for row in corpus.tokenizer.encode([tgt for _, tgt in expected])]
    assert corpus.num_tokens.tolist() == lengths
