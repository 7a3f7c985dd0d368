"""Fixtures of several test modules: a language pair small enough to learn, and scores of it."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import FileSizeLimit, MakeScores, SmallDisk, ToyText, toy_pairs, write_lines
from numpy.typing import NDArray

import pycat
from pycat.runtime.output import OutputFolder
from pycat.scores.parts import part_path, write_part


@pytest.fixture
def toy_text(tmp_path: Path) -> ToyText:
    def write(num_pairs: int = 300, *, seed: int = 0, name: str = "toy") -> tuple[Path, Path]:
        return write_lines(tmp_path, toy_pairs(num_pairs, seed), name)

    return write


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> pycat.Corpus:
    """300 pairs; read only, shared by all tests."""
    folder = tmp_path_factory.mktemp("toy")
    src, tgt = write_lines(folder, toy_pairs(300), "toy")
    return pycat.tokenize(src, tgt, out=folder / "corpus", vocab_size=340)


@pytest.fixture(scope="session")
def toy_tokenizer(toy_corpus: pycat.Corpus) -> Path:
    """A model file to pass as `tokenizer`, which spares training one."""
    return toy_corpus.path / "tokenizer.model"


@pytest.fixture
def make_scores() -> MakeScores:
    def make(
        corpus: pycat.Corpus, nll: NDArray[np.float64], out: Path | None = None
    ) -> pycat.ScoreTable:
        columns = {
            "pair": corpus.pair_ids,
            "num_src_tokens": corpus.num_src_tokens,
            "num_tokens": corpus.num_tokens,
            **{f"nll_{k}": nll[:, k] for k in range(nll.shape[1])},
        }
        facts = {
            "corpus": corpus.manifest["id"],
            "num_pairs": len(corpus),
            "num_tokens": int(corpus.num_tokens.sum()),
            "steps": [10 * (k + 1) for k in range(nll.shape[1])],
        }
        recipe = {"corpus": corpus.id}
        if out is None:
            manifest = {"recipe": recipe, **facts, "corpus_path": str(corpus.path.resolve())}
            return pycat.ScoreTable.from_arrow(pa.table(columns), manifest)
        with OutputFolder(out, "scores", recipe, ("part-*.parquet",), overwrite=True) as folder:
            write_part(pa.table(columns), part_path(out, 0))
            corpus_path = os.path.relpath(corpus.path.resolve(), out.resolve())
            folder.finish(**facts, num_parts=1, corpus_path=corpus_path)
        return pycat.ScoreTable.open(out)

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real parallel text that lies beside the repository on some machines; none of it is in it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real parallel text is not on this machine")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mounts a file system of the given KiB, which can run full."""
    mounted: list[Path] = []

    def mount(kibibytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        # Lazily: a failed test may still hold a file of it open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def file_size_limit() -> FileSizeLimit:
    """Limits the size of files inside a block: beyond so many bytes write() fails with EFBIG."""

    @contextmanager
    def limit(num_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
