"""Retraining of arms: their data, held-out loss, effective data, translations, resuming."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from helpers import MakeScores, ToyText, plain_select

import pycat
from pycat.cli.stages import print_evaluation
from pycat.data.corpus import Corpus
from pycat.data.same_tokenizer import text_beside, tokenize_alike
from pycat.errors import OutputError, PycatError, TextError
from pycat.evaluation import comparing, doubts, held_out, translating
from pycat.evaluation.arms import arm_name, arm_views, curve_arms, read_labels, up_to_budget
from pycat.evaluation.comparing import _refuse_diverged, compare
from pycat.evaluation.evaluation import evaluate
from pycat.evaluation.ledger import ledger
from pycat.evaluation.results import Evaluation, worth_text
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


@pytest.mark.parametrize("name", ["selected", "full", "random", "random-lengths", "random-eighth"])
def test_a_folder_named_like_an_arm_is_refused(
    toy_corpus: Corpus, selection: Selection, tmp_path: Path, name: str
) -> None:
    for given in (str(tmp_path / "alt" / name), f"alt/{name}/", f"./{name}"):
        message = f"arm '{given}': found a folder named '{name}', expected .*; rename the folder"
        with pytest.raises(PycatError, match=message):
            arm_views(toy_corpus, selection, [given], [0], None)
    # By the name alone it is the arm.
    views = arm_views(toy_corpus, selection, [name], [0], None)
    assert list(views) == [name]


def test_arms_go_by_the_last_name_of_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert [arm_name(arm) for arm in (".", "./", "../w2", "w/x/..", "w2/")] == [
        *("here", "here", "w2", "w", "w2")
    ]
    with pytest.raises(PycatError, match="arm '/': found a folder named ''"):
        arm_name("/")


def test_a_folder_of_prune_is_an_arm_without_what_is_held_out(
    toy_corpus: Corpus, selection: Selection, make_scores: MakeScores, tmp_path: Path
) -> None:
    table = make_scores(toy_corpus, np.ones((len(toy_corpus), 2)))
    other = plain_select(table, keep=0.2, by="length", out=tmp_path / "w2" / "selection")
    work = str(tmp_path / "w2")
    views = arm_views(toy_corpus, selection, [work], [0], None)
    np.testing.assert_array_equal(views["w2"][0].pair_ids, other.pair_ids)
    # A test of pairs of the corpus itself leaves them out of every arm, one of which it would be.
    held_out = other.pair_ids[:7]
    rest = toy_corpus.subset(np.setdiff1d(toy_corpus.pair_ids, held_out))
    views = arm_views(rest, selection, [work], [0], None)
    np.testing.assert_array_equal(views["w2"][0].pair_ids, other.pair_ids[7:])
    elsewhere = replace(selection, manifest={**selection.manifest, "corpus": "another"})
    with pytest.raises(PycatError, match="its pairs are of another corpus"):
        arm_views(toy_corpus, elsewhere, [work], [0], None)


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
    whole = selection.corpus()
    share = tokens_of(whole.subset(selection.pair_ids)) / tokens_of(whole)
    names = list(dict.fromkeys(["full", "random", "selected", *curve_arms(share)]))
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

    monkeypatch.setattr(comparing, "held_out_nll", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(selection, **options)
    checkpoints = sorted((tmp_path / "out").glob("*/seed-0/*.safetensors"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert len(before) >= 3
    monkeypatch.setattr(comparing, "held_out_nll", held_out.held_out_nll)
    evaluate(selection, **options)
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    with pytest.raises(OutputError, match=r"passes was 1\.0, now 2\.0"):
        evaluate(selection, **{**options, "passes": 2.0})


def test_a_curve_is_not_left_out_unasked(
    selection: Selection, toy_text: ToyText, tmp_path: Path
) -> None:
    tests = {"toy": toy_text(12, seed=9, name="test")}
    arms = ["full", "random", "selected", "random-eighth", "random-quarter", "random-half"]
    options: dict[str, Any] = {**FAST, "out": tmp_path / "out", "tests": tests, "arms": arms}
    first = evaluate(selection, **options)
    assert first.manifest["random_curve"] == {"toy": None}
    assert first.manifest["tests"] == {"toy": {"sentences": 12, "skipped": {}}}
    options["curve"] = True
    with pytest.raises(OutputError, match="curve was false, now true"):
        evaluate(selection, **options)
    # A folder of an earlier pycat did not record it.
    file = first.path / "evaluation.json"
    recipe = {name: value for name, value in first.manifest["recipe"].items() if name != "curve"}
    write_manifest(file, {**first.manifest, "recipe": recipe})
    before = file.read_bytes()
    assert evaluate(selection, **{**options, "curve": False}).manifest["recipe"] == recipe
    assert file.read_bytes() == before
    with pytest.raises(OutputError, match="curve was null, now true"):
        evaluate(selection, **options)
    checkpoints = sorted(first.path.glob("*/seed-0/*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in checkpoints]
    again = evaluate(selection, **options, overwrite=True)
    assert again.manifest["random_curve"]["toy"] is not None
    assert [path.stat().st_mtime_ns for path in checkpoints] == stamps


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


def add_time(folder: Path, kind: str, elapsed_s: float, **facts: Any) -> None:
    """Record the time of a stage in its manifest, or make one of a stage that took so long."""
    file = folder / f"{kind}.json"
    manifest: dict[str, Any] = {"format": f"pycat.{kind}", "version": 1, "complete": True}
    if file.is_file():
        manifest = json.loads(file.read_text())
    elif kind == "proxy":
        manifest |= {"recipe": {"checkpoint_steps": [], "corpus": ""}, "losses": [], "torch": "2"}
        manifest |= {"num_tokens": 0, "parameters": 0}
    elif kind == "measures":
        manifest |= {"recipe": {"definitions": 1, "corpus": ""}, "corpus": "", "without": {}}
        manifest |= {"num_pairs": 1, "num_parts": 1}
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(file, {**manifest, "elapsed_s": elapsed_s, **facts})


def retrained(folder: Path) -> list[Run]:
    """Three runs of 10 s, 30 s and 20 s; their average of 20 s has one budget of 12 updates."""
    recipe = {"anneal_each": True}
    return [
        Run(
            *(folder, (), (3, 6, 12), ()),
            {"elapsed_s": seconds, "model_flops": 5, "num_stacked": stacked, "recipe": recipe},
        )
        for seconds, stacked in ((10.0, 1), (60.0, 2), (20.0, 1))
    ]


def test_the_ledger_says_when_pruning_has_paid(selection: Selection, tmp_path: Path) -> None:
    assert selection.path is not None
    work = selection.path.parent
    add_time(selection.path, "selection", 30.0)
    add_time(work / "scores", "scores", 70.0)
    runs = retrained(tmp_path)

    def costs() -> dict[str, Any]:
        return ledger(Selection.open(work / "selection"), runs, num_tokens=900, kept_tokens=300)

    assert costs()["paid_after"] is None  # what the proxy cost is not known
    add_time(work / "proxy", "proxy", 20.0)
    # Measures that the selection does not read cost it nothing.
    add_time(work / "measures", "measures", 999.0)
    before = {"proxy": 20.0, "score": 70.0, "select": 30.0, "retrain": 60.0}
    assert costs()["seconds"] == before
    assert costs()["flops"] == {"retrain": 15}
    # Branches of 1, 2 and 4 updates on a trunk of 8: 12 of 15 updates are those of one budget, 16
    # of 20 s, and pruning saves them twice.
    assert costs()["paid_after"] == 3.75  # 120 s against 32 s

    # Clusters and trusted text count where the selection reads them.
    made_by = {"cluster": {"elapsed_s": 8.0}, "other": {"elapsed_s": 500.0}}
    add_time(work / "scores", "scores", 70.0, made_by=made_by)
    add_time(work / "trusted" / "good" / "tuned", "proxy", 15.0, model_flops=7)
    add_time(work / "trusted" / "unread" / "tuned", "proxy", 500.0)
    recipe = {**selection.manifest["recipe"], "criterion": "learnability+good"}
    add_time(selection.path, "selection", 30.0, recipe={**recipe, "strata": "cluster,length"})
    assert costs()["seconds"] == {
        **before,
        "cluster": 8.0,
        "trusted": 15.0,
    }
    assert costs()["flops"] == {"retrain": 15, "trusted": 7}
    assert costs()["paid_after"] == 4.47  # 143 s against 32 s

    # A proxy that was taken over costs nothing.
    add_time(work, "prune", 1.0, recipe={"train": {"base": ["sha256"]}})
    assert "proxy" not in costs()["seconds"]
    assert costs()["paid_after"] == 3.84  # 123 s against 32 s


def test_the_ledger_of_a_selection_without_a_proxy(toy_corpus: Corpus, tmp_path: Path) -> None:
    work = tmp_path / "work"
    selection = plain_select(toy_corpus, keep=0.5, by="length", out=work / "selection")
    add_time(work / "selection", "selection", 32.0)
    # Of another recipe in the same folder.
    add_time(work / "proxy", "proxy", 500.0)
    runs = retrained(tmp_path)

    def costs() -> dict[str, Any]:
        return ledger(Selection.open(work / "selection"), runs, num_tokens=900, kept_tokens=300)

    assert costs()["seconds"] == {"select": 32.0, "retrain": 60.0}
    assert costs()["paid_after"] == 1.0
    # Rules and noise filter read measures, whose time must be known then.
    recipe = {**selection.manifest["recipe"], "guard": 0.5}
    add_time(work / "selection", "selection", 32.0, recipe=recipe)
    assert costs()["paid_after"] is None
    add_time(work / "measures", "measures", 64.0)
    assert costs()["seconds"]["measure"] == 64.0
    assert costs()["paid_after"] == 3.0


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
    (told,) = doubts.known_sentences({"toy": held_out_text}, toy_corpus)
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
    results, curve = compare(test, nll, found, [5, 10], curve=False)
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
    results, _ = compare(test, nll, found, [5, 10], curve=False)
    assert "verdict" not in results["selected"] and "gain_on_full" in results["selected"]


def test_it_is_said_when_pruning_does_not_pay() -> None:
    def told(on_random: list[float], on_full: list[float], seeds: int = 1) -> list[str]:
        still = {"gain_on_random": [0.0, -0.3, 0.3], "gain_on_full": [0.0, -0.3, 0.3]}
        tests = {"one": {"gain_on_random": on_random, "gain_on_full": on_full}, "two": still}
        return doubts.does_not_pay(
            {"full": {}, "random": {}, "selected": {"seeds": seeds, "tests": tests}}
        )

    def around(gain: float) -> list[float]:
        return [gain, gain - 0.4, gain + 0.4]

    # With one seed, the error of the mean is half of hypot(0.4, 0.3): 0.25.
    assert told(around(0.52), around(-0.48)) == []
    [unknown] = told(around(0.48), around(0.1))
    assert unknown.startswith(
        "the selection and a random part of the text cannot be told apart at this budget: it "
        "gains +0.240 nats [-0.010, +0.490] on that in the mean of the tests"
    )
    assert "does not pay" not in unknown
    [unknown] = told(around(-0.48), around(0.1))
    assert "cannot be told apart" in unknown and "does not pay" not in unknown
    for gains in ((-0.52, 0.1), (0.9, -0.52)):
        [worse] = told(around(gains[0]), around(gains[1]))
        assert worse.startswith(
            f"the selection is worse than {'a random part' if gains[0] < 0 else 'all'} of the text:"
            " it gains -0.260 nats [-0.510, -0.010] on that in the mean of the tests, so pruning so"
            " much of this text does not pay"
        )
    # With two, the same models stand behind all tests: the mean of 0.4 and 0.3, 0.35.
    [unknown] = told(around(0.52), around(0.1), seeds=2)
    assert "+0.260 nats [-0.090, +0.610]" in unknown
    assert told(around(0.72), around(-0.68), seeds=2) == []
    [worse] = told(around(0.9), around(-0.72), seeds=2)
    assert "-0.360 nats [-0.710, -0.010]" in worse
    assert doubts.does_not_pay({"full": {}, "random": {}}) == []


def test_arms_of_another_amount_are_told() -> None:
    tokens = {"full": 2000, "random": 1000, "selected": 1010, "oracle": 989, "w2": 1011}
    arms = {name: {"target_tokens": count} for name, count in tokens.items()}
    arms["random-quarter"] = {"target_tokens": 500}
    oracle, other = doubts.other_amounts(arms)
    assert oracle.startswith("oracle: trains on 989 target tokens and random on 1,000")
    assert other.startswith("w2: trains on 1,011 target tokens and random on 1,000")
    del arms["random"]
    assert doubts.other_amounts(arms) == []


def test_skipped_pairs_of_a_test_set_are_told() -> None:
    counts: dict[str, Any] = {
        "news": {"sentences": 998, "skipped": {"empty side": 2, "none": 0, "too long": 1}},
        "web": {"sentences": 10, "skipped": {"empty side": 0}},
        "held-out": {"sentences": 5, "skipped": {}},
    }
    [told] = doubts.skipped_pairs(counts)
    assert told.startswith("news: 3 of 1,001 pairs are skipped (empty side 2, too long 1), so ")


def test_a_model_that_diverged_is_named(tmp_path: Path) -> None:
    manifest: dict[str, Any] = {"recipe": {"learning_rate": 0.5}}
    runs = [Run(tmp_path / "w2" / f"seed-{seed}", (), (), (), manifest) for seed in (3, 4)]
    nll = np.ones((2, 3, 5))
    _refuse_diverged("news", nll, runs)
    for value in (np.nan, np.inf):
        nll[1, 0, 2] = value
        with pytest.raises(PycatError) as caught:
            _refuse_diverged("news", nll, runs)
        message = str(caught.value)
        assert message.startswith("arm w2, seed-4: its loss on news is not finite, expected a")
        assert "lower --learning-rate (was 0.5), or with other seeds (--seed" in message


def test_the_curve_has_a_half_where_the_selection_is_none() -> None:
    usual = ["full", "random-eighth", "random-quarter", "random"]
    for share in (0.4, 0.5, 0.65):
        assert curve_arms(share) == usual
    for share in (0.3, 0.39, 0.66, 1.0):
        assert curve_arms(share) == [*usual[:3], "random-half", "random"]


def test_a_random_part_of_everything_does_not_stand_for_everything(toy_corpus: Corpus) -> None:
    test = toy_corpus.subset(np.arange(30))
    lengths = test.num_tokens.astype(np.float64)
    losses = {
        "full": 2.0,
        "random": 2.5,
        "selected": 2.0,
        "random-eighth": 4.0,
        "random-quarter": 3.5,
        "random-half": 3.0,
    }
    nll = {name: lengths * np.full((1, 1, 30), loss) for name, loss in losses.items()}
    found = {name: {"target_tokens": 800} for name in nll}
    for name, tokens in (("random-eighth", 100), ("random-quarter", 200), ("random-half", 400)):
        found[name] = {"target_tokens": tokens}
    results, _ = compare(test, nll, found, [10], curve=True)
    # Beside the whole, whose loss is 2.
    assert results["selected"]["gain_on_full"] == [0.0, 0.0, 0.0]
    assert results["random"]["gain_on_full"] == [-0.5, -0.5, -0.5]
    assert results["full"]["matches_full"] and not results["random"]["matches_full"]


@pytest.mark.parametrize(
    ("share", "gain", "text"),
    [
        ([0.78, 0.744, 0.816], -0.1, "78 % [74, 82]"),
        ([0.78, 0.0, 1.0], -0.1, "78 % [< 12.5, 100]"),
        ([1.0, 0.9, 1.0], 0.021, "> 100 % (+0.021 nats)"),
        ([1.0, 0.9, 1.0], -0.003, "100 % [90, 100]"),
        ([1.0, 1.0, 1.0], 0.0, "100 %"),
        ([0.0, 0.0, 0.2], -0.9, "< 12.5 % [< 12.5, 20]"),
        ([0.0, 0.0, 0.0], -0.9, "< 12.5 %"),
        ([0.125, 0.125, 0.125], -0.9, "12 %"),
        ([None, None, None], -0.9, "-"),
        (None, -0.02, "-0.020 nats on full"),
    ],
)
def test_effective_data_in_words(share: Any, gain: float, text: str) -> None:
    result = {"gain_on_full": [gain, gain, gain]}
    if share is not None:
        result["effective_data"] = share
    assert worth_text(result, 0.125) == text
    arms = {name: {"tests": {"toy": result}} for name in ("full", "selected")}
    manifest = {"random_curve": {"toy": {"min_share": 0.125}}}
    evaluated = Evaluation(Path(), arms, [], [], manifest)
    assert evaluated.worth_text("selected", "toy") == text
    assert evaluated.worth_text("full", "toy") == "all of it"


def test_the_table_has_target_tokens_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"nll": 2.5, "gain_on_full": [0.0, 0.0, 0.0], "verdict": "tie"}
    result |= {"effective_data": [1.0, 0.9, 1.0]}
    arms = {
        name: {"pairs": 1200, "target_tokens": 34_000, "tests": {"toy": result}}
        for name in ("random", "selected")
    }
    evaluated = Evaluation(Path(), arms, [], [], {})
    print_evaluation(evaluated)
    assert "target tokens" not in capsys.readouterr().out
    arms["random"]["target_tokens"] = 35_000
    print_evaluation(evaluated)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "  arm           pairs target tokens     loss  worth of random text   than random",
        "  random        1,200        35,000   2.5000  100 % [90, 100]        tie",
        "  selected      1,200        34,000   2.5000  100 % [90, 100]        tie",
    ]


def test_what_the_experiment_cannot_show_is_said() -> None:
    def arm(nll: float, verdict: str = "better") -> dict[str, Any]:
        return {"tests": {"toy": {"nll": nll, "verdict": verdict}}}

    arms = {"full": arm(3.0), "random-quarter": arm(3.5), "oracle": arm(2.9)}
    curves = {"toy": {"scale": 5.0}}
    assert doubts.warnings_of(8, 2, arms, curves) == []
    told = doubts.warnings_of(2, 1, arms, {"toy": {"scale": 0.0}})
    assert [text.split(":")[0] for text in told] == [
        "2 passes over the selection are few",
        "one seed",
        "toy",
    ]
    assert "does not fall with more random text" in told[2]
    blind = {**arms, "random-quarter": arm(3.0), "oracle": arm(2.9, "tie")}
    quarter, oracle = doubts.warnings_of(8, 2, blind, curves)
    assert quarter.startswith("toy: a random quarter trains as well as all of the text")
    assert oracle.startswith("toy: clean text at random is no better than text at random")
