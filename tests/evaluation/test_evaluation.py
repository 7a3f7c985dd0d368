"""Retraining and scoring translations: arms, files, sacreBLEU's numbers, resuming."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from helpers import MakeScores, ToyText

from pycat.data.corpus import Corpus
from pycat.data.tokenizer import Tokenizer
from pycat.errors import OutputError, PycatError, TextError
from pycat.evaluation import evaluation
from pycat.evaluation.beam_search import translate
from pycat.evaluation.evaluation import Evaluation, evaluate
from pycat.selection.selection import Selection, select

FAST: dict[str, Any] = {"updates": 3, "batch_tokens": 512, "beam": 2, "device": "cpu"}


@pytest.fixture
def selection(toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path) -> Selection:
    nll = np.random.default_rng(0).uniform(5, 50, (len(toy_corpus), 3))
    table = make_scores(toy_corpus, nll, tmp_path / "scores")
    return select(table, keep=0.5, out=tmp_path / "selection")


def test_an_arm_is_named_as_a_folder_can_be(toy_corpus: Corpus, make_scores: MakeScores) -> None:
    table = make_scores(toy_corpus, np.ones((len(toy_corpus), 2)))
    for by, arm in (
        ("cat_diff", "cat_diff"),
        ("-ppl@0", "selected"),
        ("sql: nll_0 / num_tokens", "selected"),
        ("random", "selected"),
    ):
        arms = evaluation._arms(toy_corpus, select(table, by=by), ("random",), seed=0)
        assert list(arms) == ["random", arm]


def test_arms_are_trained_and_scored_as_sacrebleu_does(
    selection: Selection, toy_text: ToyText, tmp_path: Path
) -> None:
    src, ref = toy_text(12, seed=9, name="test")
    evaluated = evaluate(selection, tests={"toy": (src, ref)}, out=tmp_path / "out", **FAST)
    assert [row.arm for row in evaluated.rows] == ["full", "random", "cat_var"]
    assert [row.num_pairs for row in evaluated.rows] == [300, 150, 150]
    assert {row.updates for row in evaluated.rows} == {3}
    references = ref.read_text("utf-8").splitlines()
    for row in evaluated.rows:
        hypotheses = (evaluated.path / row.arm / "toy.hyp.txt").read_text("utf-8").split("\n")[:-1]
        assert len(hypotheses) == 12
        assert row.bleu == sacrebleu.corpus_bleu(hypotheses, [references]).score
        assert row.chrf == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert evaluated.bleu_signature.startswith("nrefs:1|case:mixed")
    assert evaluated.chrf_signature.startswith("nrefs:1|case:mixed")
    assert Evaluation.open(evaluated.path).rows == evaluated.rows


def test_perfect_and_useless_translations_score_100_and_near_0(
    selection: Selection, toy_text: ToyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BLEU counts 4-grams, so sentences need four words or more.
    src = tmp_path / "test.en"
    src.write_text("".join(f"a b c d e {i}\n" for i in range(9)), "utf-8")
    for copied, expected in ((True, 100.0), (False, 0.0)):
        monkeypatch.setattr(
            evaluation,
            "translate",
            lambda model, tokenizer, sources, copied=copied, **options: (
                sources if copied else ["x y z v w"] * len(sources)
            ),
        )
        evaluated = evaluate(
            selection,
            tests={"toy": (src, src)},
            out=tmp_path / f"out{copied}",
            baselines=(),
            **FAST,
        )
        assert [row.arm for row in evaluated.rows] == ["cat_var"]
        assert evaluated.rows[0].bleu == pytest.approx(expected, abs=1e-6)


def test_interrupted_evaluation_keeps_what_was_finished(
    selection: Selection, toy_text: ToyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = {"toy": toy_text(5, seed=9, name="test")}
    decode, calls = translate, []

    def stop_at_the_second(*args: Any, **options: Any) -> list[str]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*args, **options)

    monkeypatch.setattr(evaluation, "translate", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(selection, tests=tests, out=tmp_path / "out", **FAST)
    first = (tmp_path / "out/full/toy.hyp.txt").stat().st_mtime_ns
    weights = (tmp_path / "out/random/step-0000003.safetensors").stat().st_mtime_ns
    assert len(evaluate(selection, tests=tests, out=tmp_path / "out", **FAST).rows) == 3
    assert (tmp_path / "out/full/toy.hyp.txt").stat().st_mtime_ns == first
    assert (tmp_path / "out/random/step-0000003.safetensors").stat().st_mtime_ns == weights
    assert len(calls) == 4
    evaluate(selection, tests=tests, out=tmp_path / "out", **FAST)
    assert len(calls) == 4


def test_changed_decoding_translates_again_but_trains_nothing(
    selection: Selection, toy_text: ToyText, tmp_path: Path
) -> None:
    tests = {"toy": toy_text(5, seed=9, name="test")}
    evaluate(selection, tests=tests, out=tmp_path / "out", **FAST)
    weights = (tmp_path / "out/full/step-0000003.safetensors").stat().st_mtime_ns
    greedy = {**FAST, "beam": 1}
    with pytest.raises(OutputError, match="beam was 2, now 1"):
        evaluate(selection, tests=tests, out=tmp_path / "out", **greedy)
    evaluated = evaluate(selection, tests=tests, out=tmp_path / "out", overwrite=True, **greedy)
    assert evaluated.manifest["recipe"]["beam"] == 1
    assert (tmp_path / "out/full/step-0000003.safetensors").stat().st_mtime_ns == weights


def test_the_random_arm_follows_the_seed(selection: Selection) -> None:
    corpus = selection.corpus()
    draws = [evaluation._arms(corpus, selection, ("random",), s)["random"] for s in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [150] * 3
    assert draws[0].id == draws[1].id != draws[2].id


def test_a_line_end_spelled_in_bytes_stays_one_line(
    selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = selection.corpus().tokenizer
    assert isinstance(tokenizer, Tokenizer)
    [ids] = tokenizer.encode(["one\u240atwo"])
    byte = {name: tokenizer._processor.piece_to_id(f"<0x{name}>") for name in ("0A", "0D", "41")}
    spelled = [ids[0], byte["41"], byte["0A"], byte["0D"], byte["41"]]
    assert "\n" in tokenizer.decode([spelled])[0]
    monkeypatch.setattr("pycat.evaluation.beam_search.beam_search", lambda *_: [spelled])
    [text] = translate(None, tokenizer, ["one"])  # type: ignore[arg-type]
    assert text.endswith("A  A")


def test_test_sets_are_read_before_anything_is_trained(
    selection: Selection, toy_text: ToyText, tmp_path: Path
) -> None:
    src, ref = toy_text(5, seed=9, name="test")
    ref.write_bytes(ref.read_bytes() + b"\xff\n")
    src.write_text(src.read_text("utf-8") + "one\n", "utf-8")
    with pytest.raises(TextError, match=r"test.de: line 6, byte 1 is 0xff"):
        evaluate(selection, tests={"toy": (src, ref)}, out=tmp_path / "out", **FAST)
    with pytest.raises(PycatError, match=r"test set 'a/b': expected a name of letters"):
        evaluate(selection, tests={"a/b": (src, src)}, out=tmp_path / "out", **FAST)
    with pytest.raises(PycatError, match=r"beam is 0; expected at least 1"):
        evaluate(selection, tests={"a": (src, src)}, out=tmp_path / "out", **{**FAST, "beam": 0})
    assert not (tmp_path / "out").exists()


def test_bad_requests_are_named(selection: Selection, tmp_path: Path) -> None:
    with pytest.raises(PycatError, match="no test set given; pass held-out text"):
        evaluate(selection, tests={}, out=tmp_path / "out")
    with pytest.raises(PycatError, match=r"baselines name \['half'\]; expected some of full"):
        evaluate(selection, tests={"a": "b.tsv"}, out=tmp_path / "out", baselines=("half",))
    with pytest.raises(TextError, match=r"none.tsv: expected a text file, found nothing"):
        evaluate(selection, tests={"a": tmp_path / "none.tsv"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
