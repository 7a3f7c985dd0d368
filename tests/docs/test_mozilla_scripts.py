"""The scripts of examples/mozilla run, and score as CTranslate2 and Marian's options say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from other_models import convert_marian, ct2_nll, sentencepiece_model, write_marian

import pycat

SCRIPTS = Path(__file__).parents[2] / "examples" / "mozilla"

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")


def run(
    script: str, *arguments: object, ok: bool = True, **settings: str
) -> "subprocess.CompletedProcess[str]":
    tools = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [str(SCRIPTS / script), *map(str, arguments)],
        env={**os.environ, "PATH": tools, "SRC": "en", "TRG": "de", **settings},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done


def write_zstd(path: Path, lines: list[str]) -> None:
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def read_zstd(path: Path) -> list[str]:
    with pa.input_stream(str(path), compression="zstd") as file:
        lines: list[str] = file.read().decode().split("\n")[:-1]
    return lines


def test_scores_are_those_of_marian_scorer_with_the_pipelines_options(tmp_path: Path) -> None:
    """Swapped sides, crop to 250 pieces, length-normalized, blank lines scored as EOS alone."""
    import sentencepiece

    src = [f"the {i} red skies" for i in range(30)]
    tgt = [f"die {i} roten himmel" for i in range(30)]
    vocab = sentencepiece_model(tmp_path / "vocab.spm", src + tgt, 40)
    src[4], tgt[4] = "", "die"
    src[5], tgt[5] = "the 5", ""
    src[6] = "the red skies " * 100
    tgt[7] = "die roten himmel " * 100
    for name, lines in (("en", src), ("de", tgt)):
        write_zstd(tmp_path / f"corpus.{name}.zst", lines)
    loaded = sentencepiece.SentencePieceProcessor(model_file=str(vocab))
    words = [loaded.id_to_piece(i) for i in range(loaded.vocab_size())]
    model = write_marian(tmp_path / "final.model.npz.best-chrf.npz", vocab=len(words))
    folder = convert_marian(model, tmp_path / "ct2", words, words)
    # The target is the model's source. EOS makes 250 of 249 pieces.
    cropped = [[row[:249] for row in loaded.encode(side, out_type=str)] for side in (tgt, src)]
    exact = ct2_nll(folder, *cropped)
    assert max(map(len, exact)) == 250
    assert len(exact[4]) == 1
    run("score.sh", model, vocab, tmp_path / "corpus", tmp_path / "out" / "scores.txt")
    found = (tmp_path / "out" / "scores.txt").read_text().splitlines()
    np.testing.assert_allclose([float(x) for x in found], [-n.mean() for n in exact], atol=1e-5)
    # Through standard input, and as one number.
    for summary, value in {
        "cross-entropy": sum(n.sum() for n in exact) / 30,
        "perplexity": np.exp(np.concatenate(exact).mean()),
    }.items():
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "pycat", "score", "--format", "marian"),
                *("--checkpoints", str(model), "--vocabs", str(vocab), "--tsv", "-"),
                *("--max-length", "250", "--max-length-crop", "--keep-empty"),
                *("--summary", summary),
            ],
            input="".join(f"{b}\t{a}\n" for a, b in zip(src, tgt, strict=True)),
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(done.stdout) == pytest.approx(value, rel=1e-5)


def test_the_lowest_scores_are_removed(tmp_path: Path) -> None:
    src = [f"source\t{i}" for i in range(40)]  # a tab belongs to the text
    tgt = [f"target {i}" for i in range(40)]
    for name, lines in (("en", src), ("de", tgt)):
        write_zstd(tmp_path / f"corpus.{name}.zst", lines)
    scores = [-1.0 - (7 * i % 40) for i in range(40)]
    texts = [f"{score:.6f}" for score in scores]
    texts[3] = "nan"
    texts[10] = "-1e3"
    (tmp_path / "scores.txt").write_text("".join(f"{text}\n" for text in texts))
    worst = {3, 10, 17, 34}  # without a score, then -1000, -40 and -39
    assert [scores[i] for i in (17, 34)] == [-40, -39]
    arguments = (tmp_path / "corpus", tmp_path / "out" / "corpus", tmp_path / "scores.txt")
    run("ce-filter.sh", *arguments, REMOVE="0.1", KEEP_ORDER="1")
    kept = [i for i in range(40) if i not in worst]
    assert read_zstd(tmp_path / "out" / "corpus.en.zst") == [src[i] for i in kept]
    assert read_zstd(tmp_path / "out" / "corpus.de.zst") == [tgt[i] for i in kept]
    done = run("ce-filter.sh", *arguments)  # 5 % of 40 are the first two
    assert "38 of 40 pairs kept" in done.stdout
    ranked = sorted((i for i in range(40) if i not in (3, 10)), key=lambda i: (scores[i], i))
    assert read_zstd(tmp_path / "out" / "corpus.en.zst") == [src[i] for i in ranked]
    assert read_zstd(tmp_path / "out" / "corpus.de.zst") == [tgt[i] for i in ranked]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "corpus.de.zst",
        "corpus.en.zst",
    ]


def test_what_cannot_be_filtered(tmp_path: Path) -> None:
    for name in ("en", "de"):
        write_zstd(tmp_path / f"corpus.{name}.zst", ["a", "b"])
    (tmp_path / "scores.txt").write_text("-1\n")
    arguments = (tmp_path / "corpus", tmp_path / "out" / "corpus", tmp_path / "scores.txt")
    done = run("ce-filter.sh", *arguments, ok=False)
    assert "corpus.en.zst has 2 lines, but" in done.stderr
    (tmp_path / "scores.txt").write_text("-1\n-2\n")
    assert "REMOVE is 1.5" in run("ce-filter.sh", *arguments, ok=False, REMOVE="1.5").stderr
    assert "usage: SRC=en" in run("ce-filter.sh", ok=False).stderr
    assert "usage: SRC=en" in run("score.sh", *arguments, "x", ok=False, SRC="").stderr
    assert not list((tmp_path / "out").iterdir())


def test_cropped_and_empty_text_is_an_option_of_tokenize(tmp_path: Path) -> None:
    words = tmp_path / "vocab.txt"
    words.write_text("</s>\n<unk>\na\nb\n")
    (tmp_path / "text.en").write_text("a b a b\n\na\n" + "é " * 40_000 + "\n")
    (tmp_path / "text.de").write_text("b\na\nb b b b\na\n")
    how: dict[str, Any] = {"vocabs": [words], "max_tokens": 3}
    text = (tmp_path / "text.en", tmp_path / "text.de")
    cut = pycat.tokenize(*text, out=tmp_path / "cut", crop=True, keep_empty=True, **how)
    rows = [[side.tolist() for side in cut[i]] for i in range(len(cut))]
    assert rows == [[[2, 3, 0], [3, 0]], [[0], [2, 0]], [[2, 0], [3, 3, 0]], [[1, 1, 0], [2, 0]]]
    plain = pycat.tokenize(*text, out=tmp_path / "cut2", vocabs=[words])
    assert plain.manifest["skipped"] == {"empty source": 1, "a side of more than 65536 bytes": 1}
