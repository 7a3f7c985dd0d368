"""The commands and Python of docs/replace-your-scorer.md run and give the model's own numbers."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_pairs, write_lines
from tiny_models import own_nll
from tiny_tokenizers import model_for, words
from torch import Tensor, nn

import pycat
from pycat.cli import main as cli

DOC = Path(__file__).parents[2] / "docs" / "replace-your-scorer.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page names; the third line has no target."""
    pairs = toy_pairs(20)
    pairs[2] = (pairs[2][0], "")
    write_lines(tmp_path, pairs, "test")
    tokenizer = words("$A </s>")
    folders = ("model", "run/checkpoint-100", "run/checkpoint-1000", "run/checkpoint-200")
    for seed, folder in enumerate(folders, start=len("model")):
        model = model_for("bart", tokenizer, seed=seed)
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected() -> Any:
    """Nll of each line but the third, under the model of the folder `model`."""
    tokenizer, kept = words("$A </s>"), [pair for i, pair in enumerate(toy_pairs(20)) if i != 2]
    made = tokenizer([src for src, _ in kept], text_target=[tgt for _, tgt in kept])
    model = model_for("bart", tokenizer, seed=len("model"))
    rows = made["labels"]
    return own_nll(model, made["input_ids"], rows), np.array([len(row) for row in rows])


def test_commands_give_the_models_own_numbers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("pycat ")
    ]
    marian, fairseq, tokenize, score = commands
    nll, num_tokens = expected()

    def run(command: str) -> None:
        words, _, file = command.partition(" > ")
        assert cli.main(shlex.split(words)[1:]) == 0
        if file:
            (here / file).write_text(capsys.readouterr().out, "utf-8")

    run(marian)
    lines = (here / "scores.txt").read_text().splitlines()
    assert lines.pop(2) == "nan"
    np.testing.assert_allclose([float(line) for line in lines], -nll, rtol=1e-5)
    run(fairseq)
    means = re.findall(r"^H-(\d+)\t(\S+)\t", (here / "scores.txt").read_text("utf-8"), re.M)
    assert [int(i) for i, _ in means] == [i for i in range(20) if i != 2]
    scores = [float(mean) * math.log(2) for _, mean in means]
    np.testing.assert_allclose(scores, -nll / num_tokens, rtol=1e-5)
    run(tokenize)
    run(score)
    assert pycat.ScoreTable.open(here / "hf" / "scores").steps == [100, 200, 1000]


class Own(nn.Module):
    """What the page's `load` might give."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.output = nn.Embedding(500, 8), nn.Linear(8, 500)

    def forward(self, src: Tensor, src_mask: Tensor, tgt_in: Tensor) -> Tensor:
        weights = src_mask[..., None] / src_mask.sum(1)[:, None, None]
        source = (self.embedding(src) * weights).sum(1, keepdim=True)
        states: Tensor = torch.tanh(self.embedding(tgt_in) + source)
        return states


def test_python_gives_the_models_own_numbers(here: Path) -> None:
    pieces, own = blocks("python")
    exec(pieces, {})
    nll, _ = expected()
    records = [json.loads(line) for line in (here / "scores.jsonl").read_text().splitlines()]
    assert records.pop(2) == {"line": 3, "pair": None, "skipped": "empty target"}
    np.testing.assert_allclose([record["nll"][0] for record in records], nll, rtol=1e-5)
    np.testing.assert_allclose([sum(record["token_nll"][0]) for record in records], nll, rtol=1e-5)
    names: dict[str, Any] = {"load": Own}
    exec(own, names)
    table = names["scores"]
    assert table.steps == [100, 200]
    corpus = pycat.open_corpus("corpus")
    module = Own(200)
    for row in range(len(corpus)):
        src, tgt = (torch.tensor(side.astype(np.int64))[None] for side in corpus[row])
        tgt_in = torch.cat((torch.tensor([[2]]), tgt[:, :-1]), 1)
        logits = module.output(module(src, torch.ones_like(src), tgt_in))
        loss = nn.functional.cross_entropy(logits[0], tgt[0], reduction="sum")
        assert table.nll[row, 1] == pytest.approx(loss.item(), rel=1e-5)
