"""Retraining of arms: their data, held-out loss, effective data, translations, resuming."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from helpers import MakeScores, ToyText, plain_select

import pycat
from pycat.data.corpus import Corpus
from pycat.data.same_tokenizer import text_beside, tokenize_alike
from pycat.errors import OutputError, PycatError, TextError
from pycat.evaluation import evaluation, held_out, translating
from pycat.evaluation.arms import arm_views, read_labels, up_to_budget
from pycat.evaluation.evaluation import _compare, evaluate
from pycat.evaluation.ledger import ledger
from pycat.evaluation.results import Evaluation
from pycat.proxy.run import Run
from pycat.runtime.output import write_manifest
from pycat.selection.selection import Selection

FAST: dict[str, Any] = {
    "passes": 1.0,
    "seeds": 1,
    "curve": False,
    "batch_tokens": 512,
    "device": "cpu",
    "num_workers": 1,
}


@pytest.fixture
def selection(toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path) -> Selection:
    nll = np.random.default_rng(0).uniform(5, 50, (len(toy_corpus), 3))
    table = make_scores(toy_corpus, nll, tmp_path / "work" / "scores")
    return plain_select(table, keep=0.5, out=tmp_path / "work" / "selection")


def tokens_of(view: Corpus) -> int:
    return int(view.num_tokens.sum())


def test_arms_hold_as_many_target_tokens_as_the_selection(
    toy_corpus: Corpus, selection: Selection
) -> None:
    names = ["full", "selected", "random", "random-lengths", "oracle", "random-quarter"]
    labels = np.where(np.arange(len(toy_corpus)) % 3 > 0, "clean", "spoilt")
    views = arm_views(toy_corpus, selection, names, [3, 4], labels)
    assert list(views) == names
    assert {len(own) for own in views.values()} == {2}
    kept = toy_corpus.subset(selection.pair_ids)
    longest = int(toy_corpus.num_tokens.max())
    for name in ("selected", "random", "random-lengths", "oracle"):
        for view in views[name]:
            assert abs(tokens_of(view) - tokens_of(kept)) <= longest / 2
    for name in ("full", "selected"):
        assert views[name][0] is views[name][1]
    for name in ("random", "random-lengths", "oracle", "random-quarter"):
        assert views[name][0].id != views[name][1].id
    for view in views["random-lengths"]:
        np.testing.assert_array_equal(np.sort(view.num_tokens), np.sort(kept.num_tokens))
    for view in views["oracle"]:
        assert (view.pair_ids % 3 > 0).all()
    quarter = tokens_of(views["random-quarter"][0]) / tokens_of(toy_corpus)
    assert quarter == pytest.approx(0.25, abs=0.01)
    again = arm_views(toy_corpus, selection, ["random"], [3], None)
    assert again["random"][0].id == views["random"][0].id


def test_a_folder_of_another_selection_is_an_arm(
    toy_corpus: Corpus, selection: Selection, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, np.ones((len(toy_corpus), 2)))
    other = plain_select(table, keep=0.2, by="length", out=tmp_path / "longest")
    views = arm_views(toy_corpus, selection, [str(other.path)], [0], None)
    np.testing.assert_array_equal(views["longest"][0].pair_ids, other.pair_ids)
    with pytest.raises(PycatError, match="two are named 'longest'"):
        arm_views(toy_corpus, selection, [str(other.path), f"{other.path}/"], [0], None)


def test_up_to_budget_takes_what_comes_closest() -> None:
    tokens = np.array([5, 3, 4, 9])
    for budget, count in ((1, 1), (5, 1), (6, 1), (7, 2), (9, 2), (10, 2), (11, 3), (99, 4)):
        assert len(up_to_budget(np.arange(4), tokens, budget)) == count
    np.testing.assert_array_equal(up_to_budget(np.array([3, 1]), tokens, 9), [3])


def test_losses_are_those_of_the_score_table(
    selection: Selection, toy_text: ToyText, tmp_path: Path
) -> None:
    src, ref = toy_text(12, seed=9, name="test")
    options = {**FAST, "passes": 3.0, "seeds": 2, "curve": True, "num_workers": 2}
    evaluated = evaluate(selection, tests={"toy": (src, ref)}, out=tmp_path / "out", **options)
    written = json.loads((evaluated.path / "evaluation.json").read_text())
    assert written["arms"] == evaluated.arms
    names = ["full", "random", "selected", "random-eighth", "random-quarter"]
    assert list(evaluated.arms) == names
    assert evaluated.arms["full"]["pairs"] == 300
    assert evaluated.arms["selected"]["target_tokens"] == tokens_of(
        selection.corpus().subset(selection.pair_ids)
    )
    held_out = pycat.open_corpus(evaluated.path / "tests" / "toy")
    updates = written["recipe"]["updates"]
    for name in names:
        result = evaluated.arms[name]["tests"]["toy"]
        runs = [Run.open(evaluated.path / name / f"seed-{seed}") for seed in (0, 1)]
        assert [run.steps for run in runs] == [tuple(updates)] * 2
        losses = [
            pycat.score(held_out, run.checkpoints, stats="nll", device="cpu").nll.sum(axis=0)
            / held_out.num_tokens.sum()
            for run in runs
        ]
        np.testing.assert_allclose(result["nll_by_seed"], np.array(losses)[:, -1], atol=1e-6)
        np.testing.assert_allclose(result["nll"], np.mean(losses, axis=0)[-1], atol=1e-6)
        np.testing.assert_allclose(
            list(result["nll_by_updates"].values()), np.mean(losses, axis=0), atol=1e-6
        )
        assert result["verdict"] in ("better", "tie", "worse")
        low, value, high = (result["gain_on_random"][i] for i in (1, 0, 2))
        assert low <= value <= high
        gain = evaluated.arms["random"]["tests"]["toy"]["nll"] - result["nll"]
        assert value == pytest.approx(gain, abs=1e-4)
        for share in result["effective_data"]:
            assert share is None or 0 <= share <= 1
    assert set(evaluated.manifest["random_curve"]["toy"]) >= {"irreducible", "exponent"}
    assert any("3 passes" in warning for warning in evaluated.warnings)
    costs = evaluated.manifest["ledger"]
    assert costs["seconds"]["retrain"] > 0
    assert costs["flops"]["retrain"] > 0
    assert Evaluation.open(evaluated.path).arms == evaluated.arms


def test_an_interrupted_evaluation_trains_no_arm_twice(
    selection: Selection, toy_text: ToyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, ref = toy_text(12, seed=9, name="test")
    options: dict[str, Any] = {"tests": {"toy": (src, ref)}, "out": tmp_path / "out", **FAST}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "held_out_nll", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(selection, **options)
    checkpoints = sorted((tmp_path / "out").glob("*/seed-0/*.safetensors"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert len(before) >= 3
    monkeypatch.setattr(evaluation, "held_out_nll", held_out.held_out_nll)
    evaluate(selection, **options)
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    with pytest.raises(OutputError, match=r"passes was 1\.0, now 2\.0"):
        evaluate(selection, **{**options, "passes": 2.0})


def test_translations_are_scored_as_sacrebleu_does(
    selection: Selection, toy_text: ToyText, tmp_path: Path
) -> None:
    src, ref = toy_text(12, seed=9, name="test")
    evaluated = evaluate(
        selection,
        tests={"toy": (src, ref)},
        out=tmp_path / "out",
        arms=["selected"],
        translate=["selected"],
        beam=2,
        **FAST,
    )
    (row,) = evaluated.rows
    text = (evaluated.path / "selected" / "toy.hyp.txt").read_text("utf-8")
    hypotheses = text.split("\n")[:-1]
    references = ref.read_text("utf-8").splitlines()
    assert len(hypotheses) == 12
    assert row.bleu == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert row.chrf == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert row.bleu_signature.startswith("nrefs:1|case:mixed")
    assert row.chrf_signature.startswith("nrefs:1|case:mixed")


def test_perfect_translations_score_100(
    selection: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BLEU counts 4-grams, so sentences need four words or more.
    src = tmp_path / "test.en"
    src.write_text("".join(f"a b c d e {i}\n" for i in range(9)), "utf-8")
    for copied, expected in ((True, 100.0), (False, 0.0)):
        monkeypatch.setattr(
            translating,
            "translate",
            lambda model, tokenizer, sources, copied=copied, **options: (
                sources if copied else ["x y z v w"] * len(sources)
            ),
        )
        evaluated = evaluate(
            selection,
            tests={"toy": (src, src)},
            out=tmp_path / f"out{copied}",
            arms=["selected"],
            translate=["selected"],
            **FAST,
        )
        assert evaluated.rows[0].bleu == pytest.approx(expected)


def test_labels_go_by_lines(toy_corpus: Corpus, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"label{i}\n" for i in range(300)))
    view = toy_corpus.subset(toy_corpus.pair_ids[[7, 250]])
    assert read_labels(labels, view).tolist() == ["label7", "label250"]
    labels.write_text("clean\n" * 9)
    with pytest.raises(PycatError, match="9 labels, expected one for each of the 300 lines"):
        read_labels(labels, toy_corpus)
    with pytest.raises(PycatError, match="the labels cannot be read"):
        read_labels(tmp_path / "none", toy_corpus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tests": {}}, "no test set given"),
        ({"tests": {"a/b": ("x", "y")}}, "test set 'a/b': expected a name of letters"),
        ({"arms": []}, "arms: none given"),
        ({"arms": ["best"]}, "arm 'best': no such selection folder, nor one of full, random"),
        ({"arms": ["oracle"]}, "oracle needs labels"),
        ({"translate": ["oracle"]}, "translate names 'oracle', which is none of the arms"),
        ({"seeds": 0}, "seeds is 0; expected at least 1"),
        ({"preset": "huge"}, "preset is 'huge'; expected one of mini, tiny, base"),
        ({"dropout": 1.0}, r"dropout is 1\.0; expected at least 0 and at most 0\.9"),
        ({"beam": 0}, "beam is 0; expected at least 1"),
        ({"passes": 0.0}, "passes is 0.0; expected above 0"),
        ({"batch_tokens": 10**6}, "expected at least one batch of 1,000,000; keep more"),
    ],
)
def test_bad_requests_are_named(
    selection: Selection, toy_text: ToyText, tmp_path: Path, options: Any, message: str
) -> None:
    src, ref = toy_text(4, name="test")
    given = {"tests": {"toy": (src, ref)}, "out": tmp_path / "out", **FAST, **options}
    with pytest.raises(PycatError, match=message):
        evaluate(selection, **given)
    assert not (tmp_path / "out").exists()


def test_a_missing_test_set_is_a_text_error(selection: Selection, tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"none\.en"):
        missing = (tmp_path / "none.en", tmp_path / "none.de")
        evaluate(selection, tests={"t": missing}, out=tmp_path / "out", **FAST)


def test_the_ledger_says_when_pruning_has_paid(selection: Selection, tmp_path: Path) -> None:
    assert selection.path is not None
    folder = selection.path / "selection.json"
    write_manifest(folder, {**json.loads(folder.read_text()), "elapsed_s": 30.0})
    scores = selection.path.parent / "scores" / "scores.json"
    write_manifest(scores, {**json.loads(scores.read_text()), "elapsed_s": 70.0})
    runs = [
        Run(tmp_path, (), (), (), {"elapsed_s": seconds, "model_flops": 5, "num_stacked": stacked})
        for seconds, stacked in ((10.0, 1), (60.0, 2))
    ]
    unknown = ledger(Selection.open(selection.path), runs, num_tokens=900, kept_tokens=300)
    assert unknown["paid_after"] is None  # what the proxy cost is not known
    (selection.path.parent / "proxy").mkdir()
    manifest: dict[str, Any] = {"format": "pycat.proxy", "version": 1, "complete": True}
    manifest |= {"recipe": {"checkpoint_steps": [], "corpus": ""}, "losses": [], "torch": "2"}
    manifest |= {"num_tokens": 0, "parameters": 0, "elapsed_s": 20.0}
    write_manifest(selection.path.parent / "proxy" / "proxy.json", manifest)
    costs = ledger(Selection.open(selection.path), runs, num_tokens=900, kept_tokens=300)
    assert costs["seconds"] == {"proxy": 20.0, "score": 70.0, "select": 30.0, "retrain": 40.0}
    assert costs["flops"] == {"retrain": 10}
    assert costs["paid_after"] == 3.0  # 120 s against 20 s saved twice


def test_test_sentences_that_were_trained_on_are_counted(
    toy_corpus: Corpus, toy_text: ToyText, tmp_path: Path
) -> None:
    src, tgt = toy_text(6, seed=77, name="fresh")
    known = toy_corpus.sentences(toy_corpus.pair_ids[:2].tolist())
    lines = [file.read_text("utf-8").splitlines() for file in (src, tgt)]
    # Two known sources, of which one stands twice, and one known target.
    sides = (
        [known[0][0], known[1][0], known[0][0], *lines[0][3:]],
        [known[0][1], *lines[1][1:]],
    )
    for file, side in zip((src, tgt), sides, strict=True):
        file.write_text("".join(f"{line}\n" for line in side), "utf-8")
    text = text_beside((src, tgt), toy_corpus)
    held_out_text = tokenize_alike(text, toy_corpus, tmp_path / "held-out", overwrite=False)
    num_src, num_tgt = held_out.num_known(held_out_text, toy_corpus)
    assert num_src >= 3
    assert num_tgt >= 1
    everything = held_out.num_known(toy_corpus, toy_corpus)
    assert everything == (len(toy_corpus), len(toy_corpus))
    (told,) = evaluation._known_sentences({"toy": held_out_text}, toy_corpus)
    assert told.startswith(f"toy: of 6 pairs {num_src} have a source and {num_tgt} a target")


def test_without_a_curve_gains_are_told(toy_corpus: Corpus) -> None:
    test = toy_corpus.subset(np.arange(30))
    lengths = test.num_tokens.astype(np.float64)
    rng = np.random.default_rng(0)
    nll = {
        name: (lengths * rng.normal(loss, 0.1, (1, 2, 30)))
        for name, loss in (("full", 2.0), ("random", 2.2), ("selected", 1.9))
    }
    found = {name: {"target_tokens": 100} for name in nll}
    results, curve = _compare(test, nll, found, [5, 10], curve=False)
    assert curve is None
    assert {name: row["verdict"] for name, row in results.items()} == {
        "full": "better",
        "random": "tie",
        "selected": "better",
    }
    gain = results["random"]["nll"] - results["selected"]["nll"]
    assert results["selected"]["gain_on_random"][0] == pytest.approx(gain, abs=2e-5)
    gain = results["full"]["nll"] - results["selected"]["nll"]
    assert results["selected"]["gain_on_full"][0] == pytest.approx(gain, abs=2e-5)
    assert "effective_data" not in results["selected"]
    del nll["random"]
    results, _ = _compare(test, nll, found, [5, 10], curve=False)
    assert "verdict" not in results["selected"] and "gain_on_full" in results["selected"]


def test_it_is_said_when_pruning_does_not_pay() -> None:
    def selected(on_random: list[float], on_full: list[float]) -> dict[str, Any]:
        still = {"gain_on_random": [0.0, -0.3, 0.3], "gain_on_full": [0.0, -0.3, 0.3]}
        tests = {"one": {"gain_on_random": on_random, "gain_on_full": on_full}, "two": still}
        return {"full": {}, "random": {}, "selected": {"tests": tests}}

    # The error of the mean is half of hypot(0.4, 0.3): 0.25.
    good = selected([0.52, 0.12, 0.92], [-0.48, -0.88, -0.08])
    assert evaluation._does_not_pay(good) == []
    [told] = evaluation._does_not_pay(selected([0.48, 0.08, 0.88], [0.1, -0.3, 0.5]))
    assert told.startswith(
        "the selection is no better than a random part of the text: it gains +0.240 nats [-0.010, "
        "+0.490] on that in the mean of the tests, so pruning so much of this text does not pay"
    )
    [told] = evaluation._does_not_pay(selected([0.9, 0.5, 1.3], [-0.52, -0.92, -0.12]))
    assert told.startswith("the selection is worse than all of the text: it gains -0.260 nats")
    del good["selected"]
    assert evaluation._does_not_pay(good) == []


def test_what_the_experiment_cannot_show_is_said() -> None:
    def arm(nll: float, verdict: str = "better") -> dict[str, Any]:
        return {"tests": {"toy": {"nll": nll, "verdict": verdict}}}

    arms = {"full": arm(3.0), "random-quarter": arm(3.5), "oracle": arm(2.9)}
    curves = {"toy": {"scale": 5.0}}
    assert evaluation._warnings(8, 2, arms, curves) == []
    told = evaluation._warnings(2, 1, arms, {"toy": {"scale": 0.0}})
    assert [text.split(":")[0] for text in told] == [
        "2 passes over the selection are few",
        "one seed",
        "toy",
    ]
    assert "does not fall with more random text" in told[2]
    blind = {**arms, "random-quarter": arm(3.0), "oracle": arm(2.9, "tie")}
    quarter, oracle = evaluation._warnings(8, 2, blind, curves)
    assert quarter.startswith("toy: a random quarter trains as well as all of the text")
    assert oracle.startswith("toy: clean text at random is no better than text at random")
