"""The bytes shown in docs/format.md are those that pycat writes."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_fairseq import write_indexed

from pycat._core import IndexedWriter
from pycat.checkpoint import save_checkpoint
from pycat.corpus import open_corpus
from pycat.model import ModelConfig, Transformer

FORMAT = Path(__file__).parents[1] / "docs" / "format.md"
SHOWN = dict(re.findall(r"```(\S+\.\S+)\n(.*?)```", FORMAT.read_text("utf-8"), re.DOTALL))


def shown(name: str) -> re.Pattern[bytes]:
    """The bytes shown of a file; `??` may be any."""
    return re.compile(
        b"".join(
            b"." if byte == "??" else re.escape(bytes.fromhex(byte)) for byte in SHOWN[name].split()
        ),
        re.DOTALL,
    )


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    with IndexedWriter(tmp_path / "src", dtype="uint16") as writer:
        writer.append(np.array([4, 5, 2, 6, 2], np.int32), np.array([3, 2], np.int32))
    write_indexed(tmp_path / "tgt", [[4, 2], [5, 2]])
    prefixes = tmp_path / "src", tmp_path / "tgt"
    open_corpus(prefixes, vocab_size=8, eos_id=2).write_megatron_index()
    return tmp_path


@pytest.mark.parametrize("name", ["src.bin", "src.idx", "src.mcore.idx"])
def test_index_files(corpus_folder: Path, name: str) -> None:
    assert shown(name).fullmatch((corpus_folder / name).read_bytes())


def test_checkpoints(tmp_path: Path) -> None:
    name = "step-0000001.safetensors"
    shape = ModelConfig(vocab_size=8, d_model=8, num_heads=2, d_ff=8, num_layers=1)
    save_checkpoint(tmp_path / name, Transformer(shape), step=1, tokenizer_sha256="0" * 64)
    written = (tmp_path / name).read_bytes()
    assert shown(name).match(written)
    header_bytes = int.from_bytes(written[:8], "little")
    assert header_bytes % 8 == 0
    num_floats = sum(weight.numel() for weight in Transformer(shape).parameters())
    assert len(written) == 8 + header_bytes + 4 * num_floats


def test_every_example_is_tested() -> None:
    assert set(SHOWN) == {"src.bin", "src.idx", "src.mcore.idx", "step-0000001.safetensors"}
