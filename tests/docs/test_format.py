"""The bytes shown in docs/format.md are those that pycat writes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from indexed_files import write_indexed
from pycat.kernels.stat_names import Stats

from pycat._core import IndexedWriter
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.filters.measures import measure
from pycat.proxy.checkpoint import save_checkpoint
from pycat.proxy.training import train
from pycat.proxy.transformer import ModelConfig, Transformer
from pycat.scoring import engine
from pycat.scoring.engine import score

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
# What every manifest has.
GENERAL = {"format", "version", "complete"} | set(
    re.findall(r"`(\w+)`", FORMAT.read_text("utf-8").split("## Corpus\n")[0])
)
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


@pytest.mark.parametrize("stats", ["nll", "all"])
def test_scores(
    toy_corpus: Corpus, tmp_path: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_MIN_UTILIZATION_S", 0.0)
    steps = [1, 2]
    run = train(toy_corpus, out=tmp_path / "proxy", checkpoint_steps=steps, device="cpu")
    out = tmp_path / "scores"
    options: dict[str, Any] = {"stats": stats, "device": "cpu", "dtype": "bfloat16"}
    score(toy_corpus, run.checkpoints, out=out, **options).add("mine", np.zeros(300))
    text = FORMAT.read_text("utf-8").split("## Scores\n")[1].split("### Lines")[0]
    shown = dict(re.findall(r"^\| (`.*`) +\| (int32|int64|float32|float64) \|", text, re.MULTILINE))
    types = {
        name.strip("`").replace("_k", "_0"): kind
        for names, kind in shown.items()
        for name in re.split(", | … ", names)
    }
    schema = pq.read_schema(out / "part-00000.parquet")
    for name, kind in zip(schema.names, schema.types, strict=True):
        if not name.endswith("_1"):
            assert types[name] == {"float": "float32", "double": "float64"}.get(str(kind), kind)
    assert {path.name for path in out.iterdir()} == {
        *("scores.json", "part-00000.parquet", "column-mine-00000.parquet"),
    }
    manifest = json.loads((out / "scores.json").read_text())
    described = set(re.findall(r"`(\w+)`", text)) | GENERAL
    assert {*manifest, *manifest["recipe"]} - {"checkpoints"} <= described
    assert {*manifest["rank_agreement"]} <= described


def test_measures(toy_corpus: Corpus, tmp_path: Path) -> None:
    measures = measure(toy_corpus, out=tmp_path / "measures")
    text = FORMAT.read_text("utf-8").split("## Measures\n")[1].split("## Proxy")[0]
    rows = re.findall(r"^\| (`.*`) +\| (int32|int64|float32) \|", text, re.MULTILINE)
    described = [(name.strip("`"), kind) for names, kind in rows for name in names.split(", ")]
    schema = pq.read_schema(measures.path / "part-00000.parquet")
    types = {"float": "float32"}
    assert described == [
        (name, types.get(str(kind), str(kind)))
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    keys = set(re.findall(r"`(\w+)`", text)) | GENERAL
    assert {*measures.manifest, *measures.manifest["recipe"]} <= keys


def test_every_example_is_tested() -> None:
    assert set(SHOWN) == {"src.bin", "src.idx", "src.mcore.idx", "step-0000001.safetensors"}
