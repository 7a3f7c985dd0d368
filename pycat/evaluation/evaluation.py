"""What a selection is worth: models trained on it and on its alternatives, by held-out loss."""

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
    HALF,
    arm_name,
    arm_views,
    curve_arms,
    open_selection,
    read_labels,
)
from pycat.evaluation.comparing import results_of
from pycat.evaluation.doubts import (
    does_not_pay,
    known_sentences,
    other_amounts,
    skipped_pairs,
    warnings_of,
)
from pycat.evaluation.ledger import ledger
from pycat.evaluation.results import Evaluation
from pycat.evaluation.retraining import retrain
from pycat.evaluation.translating import translate_arms
from pycat.proxy.packing import PackedBatches
from pycat.proxy.trainer import Arm
from pycat.proxy.training import BATCH_TOKENS, LEARNING_RATES, auto_preset, check_options
from pycat.runtime.device import choose_device
from pycat.runtime.manifest import load_manifest
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder, recorded_recipe
from pycat.runtime.parts import is_here
from pycat.selection.selection import Selection

DEFAULT_ARMS = ("full", "random", "selected")

# Shares of the budget at which each model is annealed and measured.
_BUDGETS = (0.25, 0.5, 1.0)

_MIN_UPDATES = 12

# Translations, and the page and charts that `write_evaluation_page` adds.
_OWNED = ("*/*.hyp.txt", "evaluation.html", "*.loss.svg", "*.worth.svg")

DEFAULT_PASSES = 8.0

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
            "oracle", or folders of other selections of the same corpus, by `select` or `prune`.
        seeds: models of each arm; in random arms each has pairs of its own.
        passes: over the selection's target tokens; 8 by default.
        curve: train on random eighths and quarters too, and on halves where the selection is not
            about one, and say what each arm is worth as a share of random text
            (`effective_data`). Without it gains on the arms "full" and "random" are told where
            these are among the arms.
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
    if not isinstance(selection, Selection):
        selection = open_selection(selection)
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
    selected = corpus.subset(selection.pair_ids)
    num_tokens, kept_tokens = (int(each.num_tokens.sum()) for each in (corpus, selected))
    views = arm_views(
        corpus,
        selection,
        list(dict.fromkeys([*arms, *(curve_arms(kept_tokens / num_tokens) if curve else ())])),
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
        "curve": curve,
    }
    recipe = _recipe_of_earlier(Path(out), recipe) or recipe
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
        results, curves = results_of(views, runs, test_corpora, budgets, device, curve=curve)
        counts = {name: _counts(test) for name, test in test_corpora.items()}
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
            tests=counts,
            random_curve=curves,
            warnings=[
                *known_sentences(test_corpora, corpus),
                *skipped_pairs(counts),
                *warnings_of(passes, seeds, results, curves),
                *other_amounts(results),
                *does_not_pay(results),
            ],
            translations=[asdict(row) for row in translations],
            ledger=ledger(
                selection,
                runs,
                num_tokens=num_tokens,
                kept_tokens=kept_tokens,
            ),
        )
    return Evaluation.open(folder.path)


def _recipe_of_earlier(out: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe of a folder of an earlier pycat that asks for the same, else None.

    Such recipes lack `curve`, which the results tell where it is finished; and no curve had a
    random half.
    """
    before = recorded_recipe(out, "evaluation")
    if before is None or "curve" in before:
        return None
    asked = {name: value for name, value in recipe.items() if name != "curve"}
    manifest = load_manifest(out / "evaluation.json")
    if not manifest.get("complete"):
        return before if before == asked else None
    curves = manifest.get("random_curve") or {}
    if recipe["curve"] != any(curve is not None for curve in curves.values()):
        return None
    arms = {name: ids for name, ids in recipe["arms"].items() if name != HALF}
    return before if before in (asked, {**asked, "arms": arms}) else None


def _counts(test_corpus: Corpus) -> dict[str, Any]:
    """Pairs of a test set that are measured on, and those that are skipped, by the reason."""
    is_view = len(test_corpus) != test_corpus.manifest["num_pairs"]
    skipped = {} if is_view else dict(test_corpus.manifest["skipped"])
    return {"sentences": len(test_corpus), "skipped": skipped}


def _num_updates(selected: Corpus, passes: float, batch_tokens: int) -> int:
    """Updates that read the selection so many times, but enough for each budget to differ."""
    num_tokens = int(selected.num_tokens.sum())
    if num_tokens < batch_tokens:
        raise CorpusError(
            f"{selected.path}: the selection holds {num_tokens:,} target tokens, expected at least "
            f"one batch of {batch_tokens:,}; keep more, or lower batch_tokens"
        )
    return max(_MIN_UPDATES, round(passes * PackedBatches(selected, batch_tokens).num_batches))


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
