"""What a selection is worth: models trained on it and on its alternatives, by held-out loss."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.same_tokenizer import FurtherText, text_beside, tokenize_alike
from pycat.data.staging import names_copies, staged_corpus
from pycat.errors import CorpusError, PycatError
from pycat.evaluation.arms import (
    FRACTIONS,
    arm_name,
    arm_views,
    mean_num_pairs,
    read_labels,
)
from pycat.evaluation.effective_data import EffectiveData, HeldOut, Worth, effective_data, gains_on
from pycat.evaluation.held_out import held_out_nll, num_known
from pycat.evaluation.ledger import ledger
from pycat.evaluation.results import Evaluation
from pycat.evaluation.retraining import retrain
from pycat.evaluation.translating import translate_arms
from pycat.proxy.packing import PackedBatches
from pycat.proxy.run import Run
from pycat.proxy.trainer import Arm
from pycat.proxy.training import BATCH_TOKENS, LEARNING_RATES, auto_preset, check_options
from pycat.runtime.device import choose_device
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder
from pycat.runtime.parts import is_here
from pycat.selection.selection import Selection

DEFAULT_ARMS = ("full", "random", "selected")

# Random parts of the text that the curve of effective data is fitted to.
_CURVE_ARMS = ("full", *FRACTIONS, "random")

# Shares of the budget at which each model is annealed and measured.
_BUDGETS = (0.25, 0.5, 1.0)

_MIN_UPDATES = 12

# Translations, and the page and charts that `write_evaluation_page` adds.
_OWNED = ("*/*.hyp.txt", "evaluation.html", "*.loss.svg", "*.worth.svg")

DEFAULT_PASSES = 8.0
# Below so many passes over a half even a random one repeats too little to lose to the whole.
_FEW_PASSES = 8

# The name of the test set of pairs of the corpus itself.
_HELD_OUT = "held-out"

TestSet = FurtherText


@names_copies
def evaluate(
    selection: Selection | str | PathLike[str],
    *,
    tests: Mapping[str, TestSet] | None = None,
    held_out: NDArray[np.int64] | None = None,
    out: str | PathLike[str],
    arms: Sequence[str] = DEFAULT_ARMS,
    seeds: int = 2,
    passes: float | None = None,
    curve: bool = True,
    labels: str | PathLike[str] | None = None,
    preset: str = "auto",
    batch_tokens: int | None = None,
    learning_rate: float | None = None,
    dropout: float = 0.1,
    translate: Sequence[str] = (),
    beam: int = 5,
    length_penalty: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    num_workers: int | None = None,
    on: str = "local",
    stage: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Train models from scratch on each arm, and compare their loss on held-out text.

    All models make the same number of updates, that of `passes` over the selection, on batches of
    the same size. The models of one seed begin with the same weights. Each is annealed at a
    quarter, half and all of that budget (`train_together`), and scored in float32 each time.

    Args:
        selection: an open Selection, or the path of its folder, or of a folder of `prune`.
        tests: for each name, (source file, reference file); or one file of any kind that `tokenize`
            takes as `tsv`, or (file, columns). Parquet, JSON Lines, TMX and zip need no columns
            where they have those of the corpus, or such as are named by its languages.
        held_out: ids of pairs of the corpus itself, which no arm then trains on; they are the test
            set "held-out".
        out: the folder to make. An interrupted evaluation with the same options is resumed by arm
            and seed; a finished one is opened as it is.
        arms: names as `arm_views` has them: "full", "random", "random-lengths", "selected",
            "oracle", or folders of other selections of the same corpus.
        seeds: models of each arm; in random arms each has pairs of its own.
        passes: over the selection's target tokens; 8 by default.
        curve: train on random eighths and quarters too, and say what each arm is worth as a share
            of random text (`effective_data`). Without it gains on the arms "full" and "random" are
            told where these are among the arms.
        labels: file with a label for each line of the text; the arm "oracle" draws from those that
            say "clean".
        preset: as in `train`; "auto" is "mini" on a CPU.
        batch_tokens, learning_rate, dropout, dtype: of training, as in `train`.
        translate: the arms whose first seed translates the test sets, for BLEU and chrF.
        beam: width of the beam search; 1 is greedy search.
        length_penalty: alpha in log p / length ** alpha.
        seed: the first of the seeds.
        device: "cpu", "cuda" or "auto". On CUDA up to 16 models train as one.
        num_workers: on a CPU, processes of one thread each; by default as many as cores.
        on: where the models are trained: "local", on this machine; or on Ray, as in `score`, where
            each worker takes an arm and a seed at a time.
        stage: a folder on the own disk of this machine, and of each that has workers; the corpus is
            copied into it first, unless it has it already, and read there.
        overwrite: replace an evaluation made with other options.

    Returns:
        The evaluation; `evaluation.json` in its folder is described in docs/format.md.

    Raises:
        PycatError: no test set, an unknown arm, or an option out of range.
        CorpusError: the corpus has no tokenizer to read the test sets with.
        TextError: a test set cannot be read.
        OutputError: `out` holds something else, or an evaluation made with other options.
    """
    # One function, longer than most: it is the order of its steps.
    # What to train on, for how long, and what to measure on.
    passes = DEFAULT_PASSES if passes is None else passes
    selection = _open_selection(selection)
    corpus = selection.corpus()
    if stage is not None:
        corpus = staged_corpus(corpus, stage)
    tests = tests or {}
    _check(
        [*tests, *([] if held_out is None else [_HELD_OUT])], arms, translate, seeds, passes, beam
    )
    is_here(on, num_workers)  # an error, if it names no place
    _ = corpus.tokenizer  # an error, if there is none, before anything is trained
    texts = {name: text_beside(test, corpus) for name, test in tests.items()}
    kept, own_test = selection.kept_corpus().id, None
    if held_out is not None:
        own_test = corpus.subset(held_out)
        corpus = corpus.subset(np.setdiff1d(corpus.pair_ids, held_out))
        selection = replace(selection, pair_ids=np.setdiff1d(selection.pair_ids, held_out))
    device = choose_device(device).type if device == "auto" else device
    if preset == "auto":
        preset = "mini" if device == "cpu" else auto_preset(len(corpus))
    views = arm_views(
        corpus,
        selection,
        list(dict.fromkeys([*arms, *(_CURVE_ARMS if curve else ())])),
        range(seed, seed + seeds),
        None if labels is None else read_labels(Path(labels), corpus),
    )
    check_options(
        preset=preset,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        dropout=dropout,
        seed=seed,
    )
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS[preset]
    selected = corpus.subset(selection.pair_ids)
    updates = _num_updates(selected, passes, batch_tokens)
    budgets = [round(share * updates) for share in _BUDGETS]
    training: dict[str, Any] = {
        "preset": preset,
        "batch_tokens": batch_tokens,
        "learning_rate": LEARNING_RATES[preset] if learning_rate is None else learning_rate,
        "dropout": dropout,
        "device": device,
        "dtype": dtype,
    }
    search: dict[str, Any] = {"beam": beam, "length_penalty": length_penalty}
    recipe = {
        "arms": {name: [view.id for view in own] for name, own in views.items()},
        "tests": {
            name: [*(row["sha256"] for row in text.fingerprint()), *text.recipe.get("columns", ())]
            for name, text in texts.items()
        },
        **({} if own_test is None else {"held_out": own_test.id}),
        "passes": passes,
        "updates": budgets,
        "seed": seed,
        "translate": list(translate),
        **training,
        **search,
    }
    with OutputFolder(Path(out), "evaluation", recipe, _OWNED, overwrite) as folder:
        if folder.manifest is not None:
            return Evaluation.open(folder.path)

        # Train all arms, then score the held-out text under all of their models.
        runs = retrain(
            [
                Arm(view, seed + s, folder.path / name / f"seed-{seed + s}")
                for name, own in views.items()
                for s, view in enumerate(own)
            ],
            checkpoint_steps=budgets,
            num_workers=num_workers,
            on=on,
            overwrite=overwrite,
            **training,
        )
        test_corpora = {
            name: tokenize_alike(text, corpus, folder.path / "tests" / name, overwrite=True)
            for name, text in texts.items()
        }
        if own_test is not None:
            test_corpora[_HELD_OUT] = own_test
        results, curves = _results(views, runs, test_corpora, budgets, device, curve=curve)
        firsts = {name: runs[i * seeds] for i, name in enumerate(views)}
        translations = translate_arms(
            {arm_name(arm): firsts[arm_name(arm)] for arm in translate},
            {name: test_corpora[name].text() for name in texts},
            corpus,
            folder,
            device,
            **search,
        )
        folder.finish(
            selection=kept,
            arms=results,
            random_curve=curves,
            warnings=[
                *_known_sentences(test_corpora, corpus),
                *_warnings(passes, seeds, results, curves),
                *_does_not_pay(results),
            ],
            translations=[asdict(row) for row in translations],
            ledger=ledger(
                selection,
                runs,
                num_tokens=int(corpus.num_tokens.sum()),
                kept_tokens=int(selected.num_tokens.sum()),
            ),
        )
    return Evaluation.open(folder.path)


def _open_selection(selection: Selection | str | PathLike[str]) -> Selection:
    """A selection, from its folder or from that of `prune`."""
    if isinstance(selection, Selection):
        return selection
    inside = Path(selection) / "selection"
    return Selection.open(inside if inside.is_dir() else selection)


def _num_updates(selected: Corpus, passes: float, batch_tokens: int) -> int:
    """Updates that read the selection so many times, but enough for each budget to differ."""
    num_tokens = int(selected.num_tokens.sum())
    if num_tokens < batch_tokens:
        raise CorpusError(
            f"{selected.path}: the selection holds {num_tokens:,} target tokens, expected at least "
            f"one batch of {batch_tokens:,}; keep more, or lower batch_tokens"
        )
    return max(_MIN_UPDATES, round(passes * PackedBatches(selected, batch_tokens).num_batches))


def _results(
    views: Mapping[str, list[Corpus]],
    runs: Sequence[Run],
    held_out: Mapping[str, Corpus],
    budgets: Sequence[int],
    device: str,
    *,
    curve: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What `evaluation.json` says of each arm, and of the curve of each test set.

    Args:
        views: the training data of each arm and seed.
        runs: the models, in the order of the arms and then of the seeds.
        held_out: the test sets.
        budgets: updates after which each model was saved.
        device: on which the test sets are scored.
        curve: whether the arms of the curve are among those of `views`.
    """
    seeds = len(next(iter(views.values())))
    results: dict[str, dict[str, Any]] = {}
    for name in views:
        pairs, target_tokens = mean_num_pairs(views, name)
        results[name] = {"pairs": pairs, "target_tokens": target_tokens, "seeds": seeds}
        results[name]["tests"] = {}
    curves: dict[str, Any] = {}
    for test, corpus in held_out.items():
        nll = held_out_nll(corpus, runs, device)  # (models, budgets, pairs)
        sums = {name: nll[i * seeds : (i + 1) * seeds] for i, name in enumerate(views)}
        of_test, curves[test] = _compare(corpus, sums, results, budgets, curve)
        for name, result in of_test.items():
            results[name]["tests"][test] = result
    return results, curves


def _compare(
    test_corpus: Corpus,
    nll: Mapping[str, NDArray[np.float64]],
    found: Mapping[str, dict[str, Any]],
    budgets: Sequence[int],
    curve: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """What each arm reached on one test set, and the curve of random text it is read off.

    Args:
        test_corpus: M held-out pairs.
        nll: for each arm float64 (S, budgets, M), sums in nats.
        found: `target_tokens` of each arm.
        budgets: updates of each.
        curve: whether the arms of the curve are among those of `nll`.
    """
    lengths = test_corpus.num_tokens.astype(np.float64)
    results: dict[str, dict[str, Any]] = {}
    for name, own in nll.items():
        losses = own.sum(axis=2) / lengths.sum()  # (S, budgets)
        results[name] = {
            "nll": round(float(losses[:, -1].mean()), 6),
            "nll_by_seed": [round(float(loss), 6) for loss in losses[:, -1]],
            "nll_by_updates": {
                str(updates): round(float(loss), 6)
                for updates, loss in zip(budgets, losses.mean(axis=0), strict=True)
            },
        }
    held_out = {
        name: HeldOut(int(found[name]["target_tokens"]), own[:, -1]) for name, own in nll.items()
    }
    if not curve:
        for reference in ("full", "random"):
            if reference not in held_out:
                continue
            for name, (gain, verdict) in gains_on(held_out[reference], held_out, lengths).items():
                interval = [round(value, 5) for value in asdict(gain).values()]
                results[name][f"gain_on_{reference}"] = interval
                if reference == "random":
                    results[name]["verdict"] = verdict
        return results, None
    sizes = {held_out[name].num_tokens: held_out[name] for name in _CURVE_ARMS}
    worth = effective_data(held_out, list(sizes.values()), held_out["random"], lengths)
    for name, own_worth in worth.arms.items():
        results[name] |= _worth(own_worth)
    return results, _curve(worth)


def _worth(worth: Worth) -> dict[str, Any]:
    """What evaluation.json says of an arm; a share of 1 stands for all of the text or more."""
    share = worth.share
    return {
        "effective_data": [
            None if math.isnan(value) else round(min(value, 1.0), 4)
            for value in (share.value, share.low, share.high)
        ],
        "gain_on_full": [round(value, 5) for value in asdict(worth.gain_on_full).values()],
        "gain_on_random": [round(value, 5) for value in asdict(worth.gain_on_random).values()],
        "verdict": worth.than_random,
        "matches_full": worth.matches_full,
    }


def _curve(worth: EffectiveData) -> dict[str, Any]:
    noise = worth.seed_noise
    return {
        "irreducible": round(float(worth.curve.irreducible), 6),
        "scale": float(worth.curve.scale),
        "exponent": round(float(worth.curve.exponent), 6),
        "min_share": round(worth.min_share, 4),
        "seed_noise": None if math.isnan(noise) else round(noise, 6),
    }


def _known_sentences(held_out: Mapping[str, Corpus], corpus: Corpus) -> list[str]:
    """Which test sets hold sentences of the training text."""
    found = []
    for test, text in held_out.items():
        num_src, num_tgt = num_known(text, corpus)
        if num_src or num_tgt:
            found.append(
                f"{test}: of {len(text):,} pairs {num_src:,} have a source and {num_tgt:,} a "
                "target that the training text has too, so the loss favours arms that learn them "
                "by heart; leave them out of one of the two"
            )
    return found


def _warnings(
    passes: float, seeds: int, arms: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Any]
) -> list[str]:
    """What the experiment cannot show."""
    found = []
    if passes < _FEW_PASSES:
        found.append(
            f"{passes:g} passes over the selection are few: below {_FEW_PASSES} even a random part "
            "of clean text trains nearly as well as the whole"
        )
    if seeds < 2:
        found.append("one seed: intervals hold the noise of sentences alone, not that of training")
    for test, curve in curves.items():
        if curve is not None and not curve["scale"] > 0:
            found.append(
                f"{test}: the loss does not fall with more random text, so no share can be read "
                "off; train longer, or on more text"
            )
        quarter, full = (arms.get(name) for name in ("random-quarter", "full"))
        if quarter and full and quarter["tests"][test]["nll"] <= full["tests"][test]["nll"]:
            found.append(
                f"{test}: a random quarter trains as well as all of the text, so shares of random "
                "text say nothing; compare the losses, or train longer"
            )
        oracle = arms.get("oracle")
        if oracle is not None and oracle["tests"][test].get("verdict", "better") != "better":
            found.append(
                f"{test}: clean text at random is no better than text at random; this experiment "
                "cannot tell good pairs from bad ones"
            )
    return found


def _does_not_pay(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether the selection is no better than a random part, or worse than all, over the tests.

    The tests are other sentences, so that the errors of their gains are taken as independent.
    """
    found = []
    for other, sentence in (
        ("random", "no better than a random part of the text"),
        ("full", "worse than all of the text"),
    ):
        tests = [arm["tests"] for name, arm in arms.items() if name == "selected"]
        gains = [test.get(f"gain_on_{other}") for of_arm in tests for test in of_arm.values()]
        if not gains or other not in arms or None in gains:
            continue
        gain = sum(value for value, _, _ in gains) / len(gains)
        error = math.hypot(*((high - low) / 2 for _, low, high in gains)) / len(gains)
        if gain <= (error if other == "random" else -error):
            found.append(
                f"the selection is {sentence}: it gains {gain:+.3f} nats [{gain - error:+.3f}, "
                f"{gain + error:+.3f}] on that in the mean of the tests, so pruning so much of "
                "this text does not pay at this budget; keep more, or all where it is clean"
            )
    return found


def _check(
    tests: Sequence[str],
    arms: Sequence[str],
    translate: Sequence[str],
    seeds: int,
    passes: float,
    beam: int,
) -> None:
    """Refuse options that cannot be followed, before any file is read."""
    if not tests:
        raise PycatError(
            "evaluate: no test set given; pass held-out text, such as --test news=test.en,test.de"
        )
    for name in tests:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise PycatError(f"test set {name!r}: expected a name of letters, digits, . + - and _")
    if not arms:
        raise PycatError("arms: none given; expected some of full, random, selected, ...")
    for name in set(translate) - set(arms):
        raise PycatError(f"translate names {name!r}, which is none of the arms; add it to arms")
    for option, value in (("seeds", seeds), ("beam", beam)):
        check_number(option, value, low=1)
    check_number("passes", passes, low=0, above=True, high=1_000_000, below=True, whole=False)
