"""The commands and Python of docs/monolingual.md run and keep what the model finds likeliest."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy_pairs
from tiny_models import own_nll
from tiny_tokenizers import model_for, words

from pycat.cli import main as cli
from pycat.scoring.cpu_forward import CpuForward

DOC = Path(__file__).parents[2] / "docs" / "monolingual.md"
LINES = [src for src, _ in toy_pairs(41)]


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert isinstance(found, str)
    return found


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The files that the page names, and the lines that should be kept; one line is blank."""
    tokenizer = words("$A")
    model = model_for("llama", tokenizer, seed=1)
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    text = [*LINES[:7], "  ", *LINES[7:]]
    (tmp_path / "news.en").write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rows = [[*row, tokenizer.eos_token_id] for row in tokenizer(LINES)["input_ids"]]
    nll = own_nll(model, [[tokenizer.bos_token_id]] * len(rows), rows)
    ppl = np.exp(nll / [len(row) for row in rows])
    kept = np.sort(np.argsort(ppl)[: round(0.5 * len(LINES))])
    assert len(np.unique(ppl[kept])) > 10
    return "".join(f"{LINES[row]}\n" for row in kept)


def test_commands_keep_the_likeliest_half(expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[CpuForward] = []
    run = CpuForward.run

    def counted(self: CpuForward, batches: Any) -> Any:
        used.append(self)
        return run(self, batches)

    monkeypatch.setattr(CpuForward, "run", counted)
    for line in block("sh").splitlines():
        name, *arguments = shlex.split(line)
        assert name == "pycat"
        assert cli.main(arguments) == 0
    assert Path("kept.en").read_text("utf-8") == expected
    assert Path("mono/corpus/skipped.tsv").read_text() == "line\treason\n8\tempty target\n"
    assert len(used) == 2  # the probe, and the corpus


def test_python_keeps_the_likeliest_half(expected: str) -> None:
    exec(compile(block("python"), str(DOC), "exec"), {})
    assert Path("kept.en").read_text("utf-8") == expected
