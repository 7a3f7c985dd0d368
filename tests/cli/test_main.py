"""The command line: verbs, exit statuses, messages; and that help and README keep their word."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores, SmallDisk, ToyText, plain_select

import pycat
from pycat.cli import main as cli
from pycat.runtime.output import write_manifest

VERBS = ("tokenize", "measure", "train", "score", "select", "evaluate", "prune")


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_verbs_in_order_give_a_pruned_text(
    toy_text: ToyText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, tgt = toy_text(200)
    test_src, test_tgt = toy_text(5, seed=9, name="test")
    corpus, proxy, scores = tmp_path / "corpus", tmp_path / "proxy", tmp_path / "scores"
    text = tmp_path / "half.en", tmp_path / "half.de"
    cpu = ("--device", "cpu")
    steps = ("--checkpoint-steps", "2,4", "--batch-tokens", 512)
    assert run("tokenize", "--src", src, "--tgt", tgt, "--out", corpus, "--vocab-size", 340) == 0
    assert "200 pairs" in capsys.readouterr().out
    measures = tmp_path / "measures"
    assert run("measure", "--corpus", corpus, "--out", measures) == 0
    kept, hits = pycat.Measures.open(measures).apply()
    counts = ", ".join(f"{rule} {count}" for rule, count in hits.items() if count)
    assert capsys.readouterr().out == (
        f"{measures}: 200 pairs, of which the default rules drop {200 - kept.sum()} (each may "
        f"break several: {counts})\n"
    )
    assert run("train", "--corpus", corpus, "--out", proxy, *steps, *cpu) == 0
    assert "step-0000004.safetensors" in capsys.readouterr().out
    assert run("score", "--corpus", corpus, "--checkpoints", proxy, "--out", scores, *cpu) == 0
    assert "under checkpoints at updates [2, 4]" in capsys.readouterr().out
    selection = ("--scores", scores, "--keep", 0.25, "--out", tmp_path / "selection")
    assert run("select", *selection, "--text", *text) == 0
    assert "kept 50 of 200 pairs by learnability+noise (25.0%" in capsys.readouterr().out
    assert all(len(path.read_bytes().splitlines()) == 50 for path in text)
    fast = ("--passes", 1, "--seeds", 1, "--batch-tokens", 128, "--num-workers", 1, *cpu)
    assert (
        run(
            *("evaluate", "--selection", tmp_path / "selection", "--out", tmp_path / "evaluation"),
            *("--arms", "random", "selected", "--no-curve", "--translate", "selected"),
            *("--test", f"toy={test_src},{test_tgt}", "--beam", 1, *fast),
        )
        == 0
    )
    table = capsys.readouterr().out.splitlines()
    assert table[1] == "toy: held-out loss in nats a target token"
    assert [row.split()[0] for row in table[3:5]] == ["random", "selected"]
    assert table[5].startswith("selected, toy: BLEU ")
    assert any(line.startswith("note: one seed") for line in table)


def test_missing_measures_are_made_by_the_command_that_the_error_names(
    toy_corpus: pycat.Corpus,
    make_scores: MakeScores,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefixes = (toy_corpus.path / "src", toy_corpus.path / "tgt")
    tokens = pycat.open_corpus(prefixes, vocab_size=toy_corpus.vocab_size, eos_id=toy_corpus.eos_id)
    nll = np.random.default_rng(0).uniform(1, 50, (300, 2))
    for name, corpus in (("of text", toy_corpus), ("of tokens", tokens)):
        scores = tmp_path / name / "scores"
        scores.parent.mkdir()
        table = make_scores(corpus, nll, scores)
        write_manifest(scores / "scores.json", {**table.manifest, "corpus_options": corpus.options})
        select = ("select", "--scores", scores, "--out", tmp_path / name / "kept")
        assert run(*select) == 1
        [command] = re.findall(
            r"run 'pycat (measure .*)' \(pycat\.measure\)", capsys.readouterr().err
        )
        assert run(*shlex.split(command)) == 0
        printed = capsys.readouterr().out
        assert ("not measured: rules; the corpus was not made" in printed) == (name == "of tokens")
        assert run(*select) == 0
        assert "kept 150 of 300 pairs" in capsys.readouterr().out
        elsewhere = tmp_path / name / "elsewhere"
        (scores.parent / "measures").rename(elsewhere)
        words = ("--scores", scores, "--selection", tmp_path / name / "kept", "--pair", 3)
        assert run("explain", *words, "--json", "--measures", elsewhere) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["rules"] is None) == (name == "of tokens")
        assert found["decision"]["step"] != "not known"


def test_select_takes_steps_parts_and_negated_criteria(
    toy_corpus: pycat.Corpus,
    make_scores: MakeScores,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = make_scores(
        toy_corpus, np.random.default_rng(0).uniform(1, 50, (300, 3)), tmp_path / "scores"
    )
    cases: list[tuple[tuple[object, ...], dict[str, Any]]] = [
        (("--by", "-ppl", "--keep", 0.2), {"by": "-ppl", "keep": 0.2}),
        (("--keep", "0.2:0.7"), {"keep": (0.2, 0.7)}),
        (("--part", "middle", "--unit", "tokens"), {"part": "middle", "unit": "tokens"}),
        (
            ("--drop", "-ppl@0:0.1", "--drop", "length:0.2", "--then", "-cat_var:0.3"),
            {"drop": {"-ppl@0": 0.1, "length": 0.2}, "by": "-cat_var", "keep": 0.3},
        ),
        (("--strata", "score", "--num-strata", 9), {"strata": "score", "num_strata": 9}),
        (("--cap", "num_tokens:8"), {"cap": ("num_tokens", 8), "keep": 0.1}),
    ]
    for i, (words, options) in enumerate(cases):
        out = tmp_path / f"selection{i}"
        more = ("--keep", 0.1) if "--cap" in words else ()
        more = (*more, "--rules", "none", "--guard", 0)
        if not {"--by", "--then"} & {*words}:
            more = (*more, "--by", "cat_var")
        assert run("select", "--scores", tmp_path / "scores", "--out", out, *words, *more) == 0
        expected = plain_select(table, **options)
        assert pycat.Selection.open(out).pair_ids.tolist() == expected.pair_ids.tolist()
    printed = capsys.readouterr().out
    assert re.search(r"kept 60 of 300 pairs by -ppl .*, scores from -[\d.,e+]+ up", printed)
    assert re.search(r"kept 150 of .* by cat_var .*, scores from [\d.,e+]+ to [\d.,e+]+\n", printed)
    pattern = (
        r"  kept pairs have \d+\.\d target tokens .* dropped ones \d+\.\d; .* length [+-]0\.\d"
    )
    assert re.search(pattern, printed)
    both = ("--then", "length:0.3", "--keep", 0.4)
    assert run("select", "--scores", tmp_path / "scores", "--out", tmp_path / "x", *both) == 1
    assert "--then C:F says --by C --keep F; leave those two out" in capsys.readouterr().err
    twice = ("--drop", "length:0.1", "--drop", "length:0.2")
    assert run("select", "--scores", tmp_path / "scores", "--out", tmp_path / "x", *twice) == 1
    assert "--drop names a criterion twice; add up its fractions" in capsys.readouterr().err


def test_apply_writes_the_text_or_another_one(
    toy_corpus: pycat.Corpus,
    make_scores: MakeScores,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = tmp_path / "selection"
    scores = make_scores(toy_corpus, np.ones((300, 2)))
    rows = plain_select(scores, keep=0.1, out=kept).pair_ids.tolist()
    outs = tmp_path / "o.en", tmp_path / "o.de"
    assert run("apply", "--selection", kept, "--text", *outs) == 0
    assert f"text: {outs[0]}, {outs[1]}" in capsys.readouterr().out
    texts = [path.read_bytes().splitlines(keepends=True) for path in toy_corpus.text().paths]
    assert [path.read_bytes() for path in outs] == [
        b"".join(lines[row] for row in rows) for lines in texts
    ]
    other = tmp_path / "other.tsv"
    other.write_text("".join(f"{i}\t{-i}\n" for i in range(300)))
    tsv = tmp_path / "o.tsv"
    assert run("apply", "--selection", kept, "--text", tsv, "--of", other) == 0
    assert tsv.read_text().splitlines() == [f"{i}\t{-i}" for i in rows]
    assert run("apply", "--selection", kept, "--text", *outs, "--of", other, "--overwrite") == 0
    assert outs[1].read_text().splitlines() == [f"{-i}" for i in rows]
    pair = toy_corpus.text().paths
    for words, message in (
        (("--text", *outs), "this file exists; pass --overwrite"),
        (("--text", tsv, "--of", *pair), "--of names two files and --text one"),
        (("--text", *outs, tsv), "--text names 3 files; expected source and target, or one"),
    ):
        assert run("apply", "--selection", kept, *words) == 1
        assert message in capsys.readouterr().err


def test_prune_passes_every_group_of_options_on(
    toy_text: ToyText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, tgt = toy_text(200)
    test_src, test_tgt = toy_text(5, seed=9, name="test")
    status = run(
        *("prune", "--src", src, "--tgt", tgt, "--out", tmp_path / "work", "--keep", 0.1),
        *("--tokenize-vocab-size", 340, "--train-checkpoint-steps", "1,2"),
        *("--train-batch-tokens", 512, "--seed", 5),
        *(
            "--score-dtype",
            "bfloat16",
            "--score-stats",
            "nll",
            *("--rules", "none", "--guard", 0),
            "--device",
            "cpu",
            "--evaluate",
            "--evaluate-passes",
            1,
        ),
        *("--test", f"{test_src},{test_tgt}", "--evaluate-arms", "selected"),
        *("--evaluate-batch-tokens", 64, "--evaluate-no-curve", "--evaluate-seeds", 1),
    )
    assert status == 0
    out = capsys.readouterr().out
    assert "kept 20 of 200 pairs" in out
    assert f"report: {tmp_path / 'work' / 'report.html'}" in out
    work = tmp_path / "work"
    recipe = pycat.Run.open(work / "proxy").manifest["recipe"]
    assert (recipe["seed"], recipe["checkpoint_steps"]) == (5, [1, 2])
    table = pycat.ScoreTable.open(work / "scores")
    assert table.manifest["recipe"]["dtype"] == "bfloat16"
    assert table.statistics == ("nll",)
    evaluation = pycat.Evaluation.open(work / "evaluation")
    assert {arm: list(found["tests"]) for arm, found in evaluation.arms.items()} == {
        "selected": ["test"]
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluate-seeds", 7], "--evaluate-seeds: this command has no stage evaluate; pass --c"),
        (
            ["--fast", "--train-preset", "base", "--score-stats", "nll"],
            "--train-preset: this command has no stage train; leave out --fast",
        ),
        (["--fast", "--score-stats", "nll"], "--score-stats: this command has no stage score"),
    ],
)
def test_options_of_a_stage_that_is_not_made_are_refused(
    toy_text: ToyText,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[object],
    message: str,
) -> None:
    src, tgt = toy_text(20)
    assert run("prune", "--src", src, "--tgt", tgt, "--out", tmp_path / "work", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_rules_and_guard_say_what_they_dropped(
    toy_text: ToyText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, tgt = toy_text(200)
    for path in (src, tgt):  # the last ten pairs are the first ten again
        lines = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join((*lines[:190], *lines[:10])), "utf-8")
    work = tmp_path / "work"
    quick = ("--tokenize-vocab-size", 340, "--train-checkpoint-steps", "1,2")
    more = ("--train-batch-tokens", 512)
    assert run("prune", "--src", src, "--tgt", tgt, "--out", work, *quick, *more) == 0
    printed = capsys.readouterr().out
    facts = pycat.Selection.open(work / "selection").manifest
    hits = facts["rule_hits"]
    assert hits["duplicate"] == hits["near_duplicate"] == 10
    broken = ", ".join(f"{rule} {count}" for rule, count in hits.items() if count)
    dropped = facts["dropped"]["rules"]
    assert f"  rules dropped {dropped} pairs (each may break several: {broken})" in printed
    assert f"  then dropped: guard 50, criterion {50 - dropped}\n" in printed
    rules = tmp_path / "rules.json"
    rules.write_text('{"length_z": 0.1, "near_duplicate": null}')
    command = ("select", "--scores", work / "scores", "--out", tmp_path / "few", "--guard", 0.5)
    assert run(*command, "--rules", rules) == 0
    printed = capsys.readouterr().out
    assert "  fewer than the 100 pairs asked for: the rules leave no more\n" in printed
    assert re.search(r"rules dropped 1\d\d pairs .*\blength_z 1\d\d\)\n", printed)
    assert run(*command[:-1], 0, "--rules", "none", "--overwrite") == 0
    assert "dropped:" not in capsys.readouterr().out


def test_rules_of_a_corpus_without_text_are_said_to_be_missing(
    toy_corpus: pycat.Corpus,
    make_scores: MakeScores,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefixes = (toy_corpus.path / "src", toy_corpus.path / "tgt")
    others = pycat.open_corpus(prefixes, vocab_size=toy_corpus.vocab_size, eos_id=toy_corpus.eos_id)
    scores = tmp_path / "scores"
    nll = np.random.default_rng(0).uniform(1, 50, (300, 2))
    table = make_scores(others, nll, scores)
    write_manifest(scores / "scores.json", {**table.manifest, "corpus_options": others.options})
    out = tmp_path / "kept"
    assert run("select", "--scores", scores, "--out", out, "--guard", 0) == 0
    printed = capsys.readouterr().out
    assert "not applied: rules; the corpus was not made from text, which rules read" in printed
    selection = pycat.Selection.open(out)
    assert len(selection) == 150
    assert selection.manifest["without"].keys() == {"rules"}


def test_score_says_how_fast_it_was_and_how_exact(
    toy_corpus: pycat.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = pycat.train(
        toy_corpus, out=tmp_path / "proxy", checkpoint_steps=[1, 3], device="cpu"
    ).checkpoints
    command = ("score", "--corpus", toy_corpus.path, "--checkpoints", *checkpoints)
    options = ("--device", "cpu", "--dtype", "bfloat16", "--out", tmp_path / "scores")
    assert run(*command, *options) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^  [\d,]+ target tokens x checkpoints a second", printed, re.MULTILINE)
    assert re.search(
        r"^  bfloat16 against float32, 200 pairs: rank correlation of cat_var [01]\.\d{5}, nll "
        r"differs by \d\.\de-\d\d of it on average$",
        printed,
        re.MULTILINE,
    )
    assert run(*command, *options) == 0  # says the same of what is there
    assert capsys.readouterr().out == printed


def test_errors_are_one_line_and_status_1(
    toy_text: ToyText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, tgt = toy_text(20)
    none = tmp_path / "none.en"
    assert run("tokenize", "--src", none, "--tgt", tgt, "--out", tmp_path / "c") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"pycat: error: {none}: expected a text file")
    assert captured.err.count("\n") == 1
    assert run("prune", "--src", src, "--tgt", tgt, "--out", tmp_path / "w", "--evaluate") == 1
    assert "--evaluate and --test belong together" in capsys.readouterr().err


def test_a_full_disk_is_named_with_a_remedy(
    toy_text: ToyText, small_disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    src, tgt = toy_text(5000)
    disk = small_disk(16)
    assert run("tokenize", "--src", src, "--tgt", tgt, "--out", disk / "corpus") == 1
    message = capsys.readouterr().err
    assert str(disk) in message
    assert "No space left on device" in message
    assert "free some space or choose --out on another disk, and run the same command" in message


def test_an_unwritable_place_is_named_with_a_remedy(
    toy_text: ToyText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, tgt = toy_text(20)
    assert run("tokenize", "--src", src, "--tgt", tgt, "--out", "/proc/pycat/corpus") == 1
    assert "/proc/pycat" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("mine")
    assert run("tokenize", "--src", src, "--tgt", tgt, "--out", file) == 1
    assert f"{file}: expected a folder, found a file" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    toy_text: ToyText,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pycat, "tokenize", stop)
    src, tgt = toy_text(20)
    assert run("tokenize", "--src", src, "--tgt", tgt, "--out", tmp_path / "c") == 130
    assert capsys.readouterr().err == "pycat: interrupted; the same command goes on from here\n"


def test_no_bar_is_drawn_when_not_a_terminal(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(50)
    command = [sys.executable, "-m", "pycat", "tokenize", "--src", str(src), "--tgt", str(tgt)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "c"), "--vocab-size", "340"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm"},
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    # A step of more than two seconds, on a busy machine, writes lines.
    assert all(line.startswith("pycat: ") for line in done.stderr.splitlines())
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_gives_defaults(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(verb, "--help")
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--out FOLDER" in text
    expected = {
        "tokenize": "(default: 8000)",
        "measure": "Measure what rules and noise filter read",  # it has no option with a default
        "train": "(default: inverse_sqrt)",
        "score": "(default: float32)",
    }
    assert expected.get(verb, "(default: 0)") in text


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["select", "--drop", "el2n"], "expected a criterion and a fraction, such as el2n:0.2"),
        (["select", "--keep", "half"], "'half': expected a fraction, such as 0.5"),
        (["select", "--cap", "group:few"], "expected a column and a number of pairs"),
        (["train", "--corpus", "c", "--out", "o", "--checkpoint-steps", "1,x"], "such as 100,200"),
        (["evaluate", "--test", "a,b,c"], "expected [NAME=]SOURCE,REFERENCE"),
        (["tokenize", "--languages", "en", "--out", "o"], "expected two names, such as en,de"),
        (["evaluate", "--test", "x/t.en,x/t.de", "--test", "y/t.tsv"], "two sets are named 't'"),
        (["check", "c", "--all", "a"], "check: unrecognized arguments: --all a; see pycat check -"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(*words)
        assert message in capsys.readouterr().err


def test_the_public_names_are_the_verbs() -> None:
    for verb in VERBS:
        assert callable(getattr(pycat, verb))
    for name in pycat.__all__:  # whose order ruff sees to: constants, classes, functions
        assert hasattr(pycat, name)


def test_evaluate_takes_a_folder_of_prune_or_a_selection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("work", "--selection", "selection")
    for words in ((), both):
        assert run("evaluate", *words, "--test", "a.tsv", "--out", tmp_path / "out") == 1
        assert "either the folder of prune, or --selection" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "none", "--test", "a.tsv", "--out", tmp_path / "out") == 1
    assert "expected the manifest of a pycat selection folder" in capsys.readouterr().err


def test_an_error_is_one_line_without_orders_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "two\nlines\x1b[2J"
    folder.mkdir()
    assert run("check", folder) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"pycat: error: {tmp_path}/two\\nlines\\x1b[2J: found nothing that pyc")
    assert said.count("\n") == 1 and said.endswith("\n")


def test_a_command_in_a_folder_that_is_gone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("check", ".") == 1
    assert "the folder that this command runs in is gone; change to" in capsys.readouterr().err
