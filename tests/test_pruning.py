"""The whole way from text to pruned text and report, and what a second call repeats."""

import gzip
import inspect
import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from helpers import PLAIN, ToyText, plain_select, toy_pairs
from numpy.typing import NDArray

import pycat
from pycat.errors import OutputError, PycatError, TextError
from pycat.evaluation.arms import curve_arms
from pycat.pruning import Pruned, prune
from pycat.runtime.output import write_manifest
from pycat.scoring.clusters import add_clusters
from pycat.selection.strata import proportional

FAST: dict[str, Any] = {
    "tokenize_options": {"vocab_size": 340},
    "train_options": {"checkpoint_steps": [2, 4], "batch_tokens": 512, "device": "cpu"},
    "score_options": {"device": "cpu"},
}

EVALUATE: dict[str, Any] = {
    "curve": False,
    "passes": 1.0,
    "seeds": 1,
    "batch_tokens": 512,
    "num_workers": 1,
    "device": "cpu",
    "beam": 1,
}


def _stamps(work: Path) -> dict[str, int]:
    return {
        str(path.relative_to(work)): path.stat().st_mtime_ns
        for path in work.rglob("*")
        if path.is_file() and path.parent != work
    }


def test_from_text_to_pruned_text(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    work = tmp_path / "work"
    pruned = prune(src, tgt, out=work, keep=0.25, **PLAIN, **FAST)
    lines = list(zip(src.read_bytes().splitlines(), tgt.read_bytes().splitlines(), strict=True))
    scores = pruned.scores.ppl.var(axis=1)
    best = np.sort(np.argsort(-scores, kind="stable")[:50])
    assert pruned.selection.pair_ids.tolist() == best.tolist()
    assert pruned.texts == (work / "pruned.en", work / "pruned.de")
    kept = zip(*(path.read_bytes().splitlines() for path in pruned.texts), strict=True)
    assert list(kept) == [lines[i] for i in best]
    assert pruned.report.read_text("utf-8").count("arXiv") >= 1
    assert list(pruned.timings) == ["tokenize", "train", "score", "select"]
    assert pruned.measures is None
    assert not (work / "measures").exists()


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from the lowest; equal values share their average."""
    ordered = np.sort(values)
    below, through = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + through) / 2


def test_the_default_recipe_is_rules_then_guard_then_ranks_within_clusters(
    toy_text: ToyText, tmp_path: Path
) -> None:
    src, tgt = toy_text(200)
    pruned = prune(src, tgt, out=tmp_path / "work", **FAST)
    assert list(pruned.timings) == ["tokenize", "measure", "train", "score", "select", "cluster"]
    assert pruned.measures is not None
    left, hits = pruned.measures.apply()
    noise = pruned.measures.noise_score(pruned.scores)
    assert (noise != pruned.measures.noise_score()).any()  # the table has entropy, so surprise too
    # Of the 100 that go, 50 go by the guard.
    suspect = np.flatnonzero(left)[np.argsort(-noise[left], kind="stable")[:50]]
    num_left = int(left.sum())
    left[suspect] = False
    rows = np.flatnonzero(left)
    # Of two checkpoints, the first is early and the second late.
    fall = (pruned.scores.nll[:, 0] - pruned.scores.nll[:, 1]) / pruned.scores.num_tokens
    mean_rank = ranks(fall) + ranks(-noise)
    clusters = pruned.scores.column("cluster")
    assert sorted(np.unique(clusters)) == [0, 1]
    quotas = proportional(np.bincount(clusters[rows]), 100)
    kept = np.isin(np.arange(200), pruned.selection.pair_ids)
    for cluster, quota in enumerate(quotas):
        inside = rows[clusters[rows] == cluster]
        assert kept[inside].sum() == quota
        # Equal ranks may lie on both sides of the cut.
        assert mean_rank[inside[kept[inside]]].min() >= mean_rank[inside[~kept[inside]]].max()
    facts = pruned.selection.manifest
    assert facts["dropped"] == {
        "rules": 200 - num_left,
        "guard": 50,
        "criterion": num_left - 150,
    }
    assert facts["rule_hits"] == hits
    assert facts["recipe"]["rules"] == pycat.DEFAULT_RULES
    assert facts["recipe"]["guard"] == 0.5
    assert facts["recipe"]["criterion"] == "learnability+noise"
    assert facts["recipe"]["strata"] == "cluster"
    assert "noise_score" not in pruned.scores.names
    assert not (pruned.corpus.path / "rules.parquet").exists()


def test_each_verb_alone_gives_what_prune_gives(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    pruned = prune(src, tgt, out=tmp_path / "work", **FAST)
    corpus = pycat.tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=340)
    run = pycat.train(corpus, out=tmp_path / "proxy", **FAST["train_options"])
    table = pycat.score(corpus, run.checkpoints, device="cpu")
    pycat.measure(corpus, out=tmp_path / "measures")
    add_clusters(table, run.checkpoints[-1], device="cpu")
    kept = pycat.select(table)
    np.testing.assert_array_equal(table.nll, pruned.scores.nll)
    np.testing.assert_array_equal(kept.pair_ids, pruned.selection.pair_ids)
    plain = prune(src, tgt, out=tmp_path / "plain", **PLAIN, **FAST)
    kept = plain_select(table, keep=0.5, by="cat_var")
    np.testing.assert_array_equal(kept.pair_ids, plain.selection.pair_ids)


def test_prune_and_select_have_the_same_defaults() -> None:
    of_prune, of_select = (inspect.signature(verb).parameters for verb in (prune, pycat.select))
    for name in ("keep", "by", "rules", "guard", "strata", "seed"):
        assert of_prune[name].default == of_select[name].default


def test_strata_are_those_asked_for(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    work = tmp_path / "work"
    by_noise = prune(src, tgt, out=work, by="noise", **FAST)
    assert "strata" not in by_noise.selection.manifest["recipe"]
    assert "cluster" not in by_noise.scores.names
    lengths = prune(src, tgt, out=work, strata="length", overwrite=True, **FAST)
    assert lengths.selection.manifest["recipe"]["criterion"] == "learnability+noise"
    assert lengths.selection.manifest["recipe"]["strata"] == "length"
    both = prune(src, tgt, out=work, by="noise", strata="cluster", overwrite=True, **FAST)
    assert both.selection.manifest["recipe"]["strata"] == "cluster"
    stamps = _stamps(work)
    again = prune(src, tgt, out=work, by="noise", strata="cluster", **FAST)
    assert again.selection.pair_ids.tolist() == both.selection.pair_ids.tolist()
    assert _stamps(work) == stamps
    with pytest.raises(PycatError, match="strata by clusters, site are not known"):
        prune(src, tgt, out=tmp_path / "typo", strata="clusters,length,site", **FAST)
    with pytest.raises(PycatError, match="fast trains no proxy, whose states strata by cluster"):
        prune(src, tgt, out=tmp_path / "fast", strata="cluster", fast=True, **FAST)


def test_rules_that_leave_too_few_keep_fewer(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    pruned = prune(src, tgt, out=tmp_path / "work", keep=0.5, rules={"length_z": 0.1}, **FAST)
    assert pruned.measures is not None
    left, _ = pruned.measures.apply({"length_z": 0.1})
    assert 0 < left.sum() < 100
    assert pruned.selection.pair_ids.tolist() == np.flatnonzero(left).tolist()
    assert pruned.selection.manifest["asked"] == 100


@pytest.mark.parametrize("num_pairs", [150, 1200])
def test_a_text_of_which_rules_leave_next_to_nothing_is_refused_before_training(
    tmp_path: Path, num_pairs: int
) -> None:
    # The first column is a score, as some tools write it; a few sources are sentences.
    pairs = toy_pairs(num_pairs)
    num_good = 1 if num_pairs < 1000 else 99
    rows = [
        f"{src}\t{tgt}\n"
        if row < num_good
        else f"0.{row:06}\t{src} is a number, a quite long one"
        f" which stands in the source column of the text\t{tgt}\n"
        for row, (src, tgt) in enumerate(pairs)
    ]
    tsv = tmp_path / "scored.tsv"
    tsv.write_text("".join(rows), "utf-8")
    rules = {**dict.fromkeys(pycat.DEFAULT_RULES), "letters": 0.5}
    with pytest.raises(PycatError) as caught:
        prune(tsv=tsv, columns=(1, 2), out=tmp_path / "work", rules=rules, **FAST)
    lines = str(caught.value).splitlines()
    fewest = 2 if num_pairs < 1000 else 100
    assert lines[0] == (
        f"{tmp_path / 'work' / 'corpus'}: the rules leave {num_good} of {num_pairs:,} pairs, "
        f"expected at least {fewest}; nothing was trained."
    )
    assert lines[1] == f"Pairs that each rule hits: letters {num_pairs - num_good:,}. For example"
    src = pairs[num_good][0]
    target = f"{src} is a number, a quite long one which stands in the source column of the text"
    assert lines[2] == (
        f"  line {num_good + 1} (letters): '0.{num_good:06}' -> {target[:59] + '…'!r}"
    )
    assert lines[4].startswith(f"  line {num_pairs:,} (letters): '0.")
    assert len(lines) == 6
    assert not (tmp_path / "work" / "proxy").exists()
    # Without rules, and with one pair more, the same folder goes on.
    if num_pairs < 1000:
        assert len(prune(tsv=tsv, out=tmp_path / "work", **PLAIN, **FAST).selection) == 75
        return
    tsv.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs[:1]) + "".join(rows), "utf-8")
    more: dict[str, Any] = {"rules": rules, "overwrite": True, **FAST}
    pruned = prune(tsv=tsv, columns=(1, 2), out=tmp_path / "work", **more)
    assert len(pruned.selection) == 100


def test_a_work_folder_of_an_earlier_pycat_goes_on(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    work = tmp_path / "work"
    prune(src, tgt, out=work, **FAST)
    # It had no measures; the rules lay beside the corpus, the noise scores beside the sums.
    rmtree(work / "measures")
    (work / "corpus" / "rules.parquet").write_bytes(b"of an earlier pycat")
    pycat.ScoreTable.open(work / "scores").add("noise_score", np.zeros(200))
    manifest = json.loads((work / "prune.json").read_text("utf-8"))
    del manifest["recipe"]["measure"], manifest["made"]["measure"]
    write_manifest(work / "prune.json", manifest)
    before = _stamps(work)
    pruned = prune(src, tgt, out=work, **FAST)
    assert pruned.measures is not None
    after = _stamps(work)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"measures"}


def test_a_second_call_repeats_nothing(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    first = prune(src, tgt, out=tmp_path / "work", **FAST)
    before = _stamps(tmp_path / "work")
    second = prune(src, tgt, out=tmp_path / "work", **FAST)
    assert _stamps(tmp_path / "work") == before
    assert second.timings == first.timings


@pytest.mark.parametrize(
    ("change", "message", "remade"),
    [
        ({"guard": 0.2}, r"guard was 0.5, now 0.2. This invalidates select and", {"selection"}),
        ({"rules": "none"}, r"rules was .*, now null. This invalidates select and", {"selection"}),
        ({"keep": 0.3}, r"keep was 0.5, now 0.3. This invalidates select and the report "
         r"\(tokenize, measure, train, score would stay\)", {"selection"}),
        ({"score_options": {"device": "cpu", "dtype": "bfloat16"}},
         r"dtype was null, now .*invalidates score, select and", {"scores", "selection"}),
        ({"train_options": {**FAST["train_options"], "checkpoint_steps": [3, 5]}},
         r"checkpoint_steps was \[2, 4\], now \[3, 5\]. This invalidates train, score, select and",
         {"proxy", "scores", "selection"}),
        ({"tokenize_options": {"vocab_size": 330}},
         r"vocab_size was 340, now 330. This invalidates tokenize, meas.*\(nothing would stay\)",
         {"corpus", "measures", "proxy", "scores", "selection"}),
    ],
)  # fmt: skip
def test_a_changed_option_says_what_it_invalidates(
    toy_text: ToyText, tmp_path: Path, change: dict[str, Any], message: str, remade: set[str]
) -> None:
    src, tgt = toy_text(200)
    work = tmp_path / "work"
    prune(src, tgt, out=work, **FAST)
    before = _stamps(work)
    with pytest.raises(OutputError, match=message):
        prune(src, tgt, out=work, **{**FAST, **change})
    assert _stamps(work) == before
    prune(src, tgt, out=work, overwrite=True, **{**FAST, **change})
    after = _stamps(work)
    changed = {path.split("/")[0] for path in after if after[path] != before.get(path)}
    assert changed == remade


def test_changed_text_invalidates_everything(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    prune(src, tgt, out=tmp_path / "work", **FAST)
    src.write_text(src.read_text("utf-8").replace("one", "an", 1), "utf-8")
    with pytest.raises(
        OutputError, match=r"text was .* This invalidates tokenize, measure, train, score"
    ):
        prune(src, tgt, out=tmp_path / "work", **FAST)


def test_an_overwrite_that_was_cut_short_goes_on(
    toy_text: ToyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, tgt = toy_text(200)
    prune(src, tgt, out=tmp_path / "work", **FAST)

    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    longer = {**FAST, "train_options": {**FAST["train_options"], "checkpoint_steps": [3, 5]}}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pycat.pruning.score", stop)
        prune(src, tgt, out=tmp_path / "work", overwrite=True, **longer)
    pruned = prune(src, tgt, out=tmp_path / "work", overwrite=True, **longer)
    assert pruned.scores.steps == [3, 5]
    assert isinstance(pruned, Pruned)


def test_tsv_keeps_columns_and_compression(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = (path.read_text("utf-8").splitlines() for path in toy_text(200))
    rows = [f"{s}\t{t}\tdomain {i}\r\n" for i, (s, t) in enumerate(zip(src, tgt, strict=True))]
    tsv = tmp_path / "pairs.tsv.gz"
    tsv.write_bytes(gzip.compress("".join(rows).encode()))
    pruned = prune(tsv=tsv, out=tmp_path / "work", by="random", **FAST)
    assert pruned.texts == (tmp_path / "work" / "pruned.tsv.gz",)
    kept = gzip.decompress(pruned.texts[0].read_bytes()).decode()
    assert kept == "".join(rows[i] for i in pruned.selection.pair_ids)


def test_evaluation_is_added_to_finished_stages(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    prune(src, tgt, out=tmp_path / "work", **FAST)
    before = _stamps(tmp_path / "work")
    tests = {"toy": toy_text(5, seed=9, name="test")}
    options = EVALUATE
    pruned = prune(src, tgt, out=tmp_path / "work", tests=tests, evaluate_options=options, **FAST)
    assert pruned.evaluation is not None
    assert "evaluate" in pruned.timings
    after = _stamps(tmp_path / "work")
    assert {path: after[path] for path in before} == before
    assert list(pruned.evaluation.arms) == ["full", "random", "selected"]
    nll = pruned.evaluation.arms["selected"]["tests"]["toy"]["nll"]
    assert f"{nll:.4f}" in pruned.report.read_text("utf-8")


def test_a_later_call_without_tests_keeps_the_evaluation(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    tests = {"toy": toy_text(5, seed=9, name="test")}
    options = {"arms": ["selected"], "translate": ["selected"], **EVALUATE}
    work = tmp_path / "work"
    first = prune(src, tgt, out=work, tests=tests, evaluate_options=options, **FAST)
    stamps = [path.stat().st_mtime_ns for path in (*first.texts, first.report)]
    again = prune(src, tgt, out=work, **FAST)
    assert again.evaluation is not None
    assert [path.stat().st_mtime_ns for path in (*first.texts, first.report)] == stamps
    other = prune(src, tgt, out=work, keep=0.3, overwrite=True, **FAST)
    assert other.evaluation is None
    assert "chrF" not in other.report.read_text("utf-8")


def test_moved_text_is_found_where_it_is_given(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    prune(src, tgt, out=tmp_path / "work", **FAST)
    (tmp_path / "elsewhere").mkdir()
    src = src.rename(tmp_path / "elsewhere" / src.name)
    tgt = tgt.rename(tmp_path / "elsewhere" / tgt.name)
    before = _stamps(tmp_path / "work")
    pruned = prune(src, tgt, out=tmp_path / "work", keep=0.1, overwrite=True, **FAST)
    assert len(pruned.texts[0].read_bytes().splitlines()) == 20
    after = _stamps(tmp_path / "work")
    assert after["proxy/proxy.json"] == before["proxy/proxy.json"]


def test_bad_requests_fail_before_any_work(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(20)
    for keep in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(PycatError, match=f"keep is {keep}; expected a fraction"):
            prune(src, tgt, out=tmp_path / "work", keep=keep)
    with pytest.raises(PycatError, match="criterion 'best' is not known; expected one of cat_var"):
        prune(src, tgt, out=tmp_path / "work", by="best")
    with pytest.raises(PycatError, match=r"rule 'copies' is not known; expected one of duplicate"):
        prune(src, tgt, out=tmp_path / "work", rules={"copies": 1})
    with pytest.raises(
        PycatError, match=r"none.json: cannot be read as rules .* default, none, or"
    ):
        prune(src, tgt, out=tmp_path / "work", rules=tmp_path / "none.json")
    with pytest.raises(PycatError, match=r"guard is 2; expected a fraction from 0 to 1"):
        prune(src, tgt, out=tmp_path / "work", guard=2)
    with pytest.raises(TextError, match=r"none.tsv: expected a text file, found nothing"):
        prune(src, tgt, out=tmp_path / "work", tests={"toy": tmp_path / "none.tsv"})
    with pytest.raises(PycatError, match=r"languages are \('en', 'en'\); expected two different"):
        prune(src, tgt, out=tmp_path / "work2", tokenize_options={"languages": ("en", "en")})
    assert not (tmp_path / "work").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"found thesis.txt; choose another folder"):
        prune(src, tgt, out=tmp_path / "mine", **FAST)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_prune_on_real_text(shared_data: Path, tmp_path: Path) -> None:
    pruned = prune(
        tsv=shared_data / "tiny" / "train.tsv.gz",
        out=tmp_path / "work",
        tests={"tiny": shared_data / "tiny" / "test.tsv.gz"},
        tokenize_options={"vocab_size": 2000, "languages": ("en", "de")},
        train_options={"epochs": 2, "device": "cpu"},
        score_options={"device": "cpu", "dtype": "auto"},
        evaluate_options={"arms": ["selected"], **EVALUATE, "batch_tokens": 2048},
    )
    assert len(pruned.corpus) == 2000
    assert len(pruned.selection) == 1000
    assert pruned.run is not None
    assert pruned.run.losses[0] > pruned.run.losses[-1]
    median = np.median(pruned.scores.ppl, axis=0)
    assert (np.diff(median) < 0).all()
    assert pruned.evaluation is not None
    assert len(gzip.decompress(pruned.texts[0].read_bytes()).splitlines()) == 1000


def test_fast_pruning_trains_no_proxy(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    work = tmp_path / "work"
    pruned = prune(src, tgt, out=work, fast=True, tokenize_options=FAST["tokenize_options"])
    assert list(pruned.timings) == ["tokenize", "measure", "select"]
    assert pruned.run is None
    assert not any((work / folder).exists() for folder in ("proxy", "scores"))
    assert pruned.selection.manifest["recipe"]["criterion"] == "noise"
    left, _ = pruned.measures.apply() if pruned.measures is not None else (None, None)
    assert left is not None
    rows = np.flatnonzero(left)
    noise = pruned.measures.noise_score()[rows] if pruned.measures is not None else rows
    lowest = rows[np.argsort(noise, kind="stable")[:100]]
    assert pruned.selection.pair_ids.tolist() == sorted(lowest.tolist())
    page = pruned.report.read_text("utf-8")
    assert "Perplexity" not in page
    assert "Data map" not in page
    assert "Kept 100 of 200 pairs" in page
    again = prune(src, tgt, out=work, fast=True, tokenize_options=FAST["tokenize_options"])
    assert again.report.read_text("utf-8") == page
    with pytest.raises(PycatError, match="fast trains no proxy, which the criterion cat_var needs"):
        prune(src, tgt, out=tmp_path / "other", fast=True, by="cat_var")
    # With a proxy in the same folder, corpus and measures stay.
    before = _stamps(work / "corpus")
    prune(src, tgt, out=work, by="cat_var", overwrite=True, **FAST)
    assert _stamps(work / "corpus") == before


def test_pruning_by_trusted_text_and_a_check(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    good = toy_text(150, seed=7, name="good")
    options = {**FAST, "trusted": {"trusted": good}, "rules": "none"}
    check = {**EVALUATE, "curve": True}
    pruned = prune(src, tgt, out=tmp_path / "work", check=True, evaluate_options=check, **options)
    assert pruned.selection.manifest["recipe"]["criterion"] == "trusted"
    assert pruned.evaluation is not None
    arms = pruned.evaluation.arms
    share = arms["selected"]["target_tokens"] / arms["full"]["target_tokens"]
    assert {*arms} == {"selected", *curve_arms(share)}
    # A twentieth of the pairs that the noise filter leaves is measured on, and in no arm.
    num_noise = pruned.selection.manifest["dropped"]["guard"]
    assert arms["full"]["pairs"] == 200 - (200 - num_noise) // 20 < 200
    assert [*arms["full"]["tests"]] == ["held-out"]
    assert 'id="evaluation"' in pruned.report.read_text("utf-8")
    with pytest.raises(PycatError, match="fast trains no proxy, which trusted text needs"):
        prune(src, tgt, out=tmp_path / "other", fast=True, trusted={"trusted": good})
    # The check's result stays on the report, and the number of models at a time changes nothing.
    again = prune(src, tgt, out=tmp_path / "work", **options)
    assert 'id="evaluation"' in again.report.read_text("utf-8")
    before = _stamps(tmp_path / "work" / "evaluation")
    more = {**check, "num_workers": 2}
    prune(src, tgt, out=tmp_path / "work", check=True, evaluate_options=more, **options)
    assert _stamps(tmp_path / "work" / "evaluation") == before
    # Other trusted text makes its own column, where that is asked for.
    other = {**options, "trusted": {"trusted": toy_text(150, seed=8, name="other")}}
    with pytest.raises(OutputError, match=r"This invalidates trusted, select, evaluate"):
        prune(src, tgt, out=tmp_path / "work", **other)
    column = pycat.ScoreTable.open(tmp_path / "work" / "scores").column("trusted")
    prune(src, tgt, out=tmp_path / "work", overwrite=True, **other)
    made = pycat.ScoreTable.open(tmp_path / "work" / "scores").column("trusted")
    assert (made != column).any()


def test_a_check_is_of_pairs_that_rules_and_filter_leave(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(200)
    check = {**EVALUATE, "arms": ["selected"]}
    pruned = prune(src, tgt, out=tmp_path / "work", check=True, evaluate_options=check, **FAST)
    assert pruned.evaluation is not None and pruned.measures is not None
    num_noise = pruned.selection.manifest["dropped"]["guard"]
    assert num_noise > 0
    rows = np.flatnonzero(pruned.measures.apply()[0])
    noise = pruned.measures.noise_score(pruned.scores)[rows]
    clean = rows[np.argsort(noise, kind="stable")[: len(rows) - num_noise]]
    drawn = np.random.default_rng((0, 2)).choice(np.sort(clean), len(clean) // 20, replace=False)
    held_out = pruned.corpus.subset(np.sort(drawn))
    assert pruned.evaluation.manifest["recipe"]["held_out"] == held_out.id


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"trusted": {"noise": ("a", "b")}}, "column noise: the table has or keeps this name"),
        ({"trusted": {"cluster": ("a", "b")}}, "column cluster: the table has or keeps this name"),
        ({"trusted": {"no name": ("a", "b")}}, "column 'no name': expected a letter"),
        ({"guard": "auto"}, r"estimated among [\d,]+ pairs, expected at least 1,000"),
        ({"by": "fitted_noise"}, r"estimated among [\d,]+ pairs, expected at least 1,000"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(
    toy_text: ToyText, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    src, tgt = toy_text(100)
    with pytest.raises(PycatError, match=message):
        prune(src, tgt, out=tmp_path / "work", **FAST, **asked)
    assert not (tmp_path / "work" / "proxy").exists()
