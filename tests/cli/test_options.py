"""Options of verbs: the defaults and choices of the functions that they are handed to."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import pycat
from pycat.cli import main as cli
from pycat.cli.columns import Cld, Clusters, Trusted
from pycat.cli.evaluate import Evaluate
from pycat.cli.prune import Prune
from pycat.cli.score import Score, ScoreOptions
from pycat.cli.select import Select
from pycat.cli.stages import (
    Baseline,
    EvaluateOptions,
    Measure,
    OpenOptions,
    Tokenize,
    TokenizeOptions,
    Train,
    TrainOptions,
)
from pycat.data.tokenizer import MODEL_TYPES
from pycat.evaluation.evaluation import DEFAULT_ARMS
from pycat.proxy.dynamic_pruning import DYNAMIC_BY, DYNAMIC_UNITS
from pycat.proxy.schedules import CHECKPOINT_SCHEDULES, RATE_SCHEDULES
from pycat.proxy.training import OPTIMIZERS
from pycat.proxy.transformer import PRESETS
from pycat.runtime.device import DTYPES, SCORING_DTYPES
from pycat.scoring.engine import STATS, TOO_LONG
from pycat.scoring.external_scorers import MODELS
from pycat.scoring.line_scores import FORMATS
from pycat.selection.recipe import PARTS, UNITS

# The verb's own words: what is no argument of the function, or has another name there.
OWN_OPTIONS = {"text", "then", "drop", "evaluate", "test", "corpus", "checkpoints", "work"}
OWN_OPTIONS |= {"no_curve", "selection", "run_file"}


def values(kind: Any, name: str) -> Sequence[str]:
    """The values that the type of an option allows."""
    hint = get_type_hints(kind)[name]
    literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    return get_args(literals[0])


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (Tokenize, pycat.tokenize),
        (TokenizeOptions, pycat.tokenize),
        (OpenOptions, pycat.open_corpus),
        (Measure, pycat.measure),
        (Train, pycat.train),
        (TrainOptions, pycat.train),
        (Score, pycat.score),
        (ScoreOptions, pycat.score),
        (Baseline, pycat.add_baseline),
        (Trusted, pycat.add_trusted),
        (Cld, pycat.add_cld),
        (Clusters, pycat.add_clusters),
        (Select, pycat.select),
        (Evaluate, pycat.evaluate),
        (EvaluateOptions, pycat.evaluate),
        (Prune, pycat.prune),
    ],
)
def test_defaults_are_those_of_the_function(kind: Any, function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(kind)
    own = OWN_OPTIONS | ({"device"} if kind is Prune else set())  # each stage's of `prune`
    own |= {"scores", "export"} if kind is Select else set()  # or a corpus
    compared = 0
    for option in fields(kind):
        if is_dataclass(hints[option.name]) or option.name in own:
            continue
        default = parameters[option.name].default
        expected = MISSING if default is inspect.Parameter.empty else default
        assert option.default == expected, option.name
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (TokenizeOptions, "model_type", MODEL_TYPES),
        (OpenOptions, "layout", ("fairseq", "megatron")),
        (TrainOptions, "preset", ("auto", *PRESETS)),
        (TrainOptions, "optimizer", OPTIMIZERS),
        (TrainOptions, "rate_schedule", RATE_SCHEDULES),
        (TrainOptions, "checkpoint_schedule", CHECKPOINT_SCHEDULES),
        (TrainOptions, "dynamic_by", DYNAMIC_BY),
        (TrainOptions, "dynamic_unit", DYNAMIC_UNITS),
        (TrainOptions, "dtype", DTYPES),
        (ScoreOptions, "stats", STATS),
        (ScoreOptions, "dtype", SCORING_DTYPES),
        (ScoreOptions, "too_long", TOO_LONG),
        (Score, "lines.format", FORMATS),
        (Baseline, "model", tuple(MODELS)),
        (Select, "part", PARTS),
        (Select, "unit", UNITS),
        (EvaluateOptions, "preset", ("auto", *PRESETS)),
        (EvaluateOptions, "dtype", DTYPES),
    ],
)
def test_choices_are_those_of_the_function(kind: Any, name: str, expected: Sequence[str]) -> None:
    *groups, name = name.split(".")
    for entry in groups:
        kind = get_type_hints(kind)[entry]
    assert values(kind, name) == expected


def test_arms_are_those_of_evaluate() -> None:
    assert EvaluateOptions().arms == DEFAULT_ARMS
    assert EvaluateOptions().arguments()["curve"] is True
    assert EvaluateOptions(no_curve=True).arguments()["curve"] is False


def test_prune_has_the_options_of_each_stage_with_its_prefix() -> None:
    words = [
        *("prune", "--src", "a", "--tgt", "b", "--out", "c"),
        *("--tokenize-vocab-size", "7", "--train-epochs", "2", "--train-dtype", "float32"),
        *("--score-dtype", "int8", "--evaluate-passes", "4", "--evaluate-arms", "full", "selected"),
    ]
    prune = cli.parse(words)
    assert isinstance(prune, Prune)
    assert prune.tokenize_options == TokenizeOptions(vocab_size=7)
    assert prune.train_options == TrainOptions(epochs=2.0, dtype="float32")
    assert prune.score_options == ScoreOptions(dtype="int8")
    assert prune.evaluate_options == EvaluateOptions(passes=4.0, arms=["full", "selected"])


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_is_whole_sentences(verb: str) -> None:
    kinds: list[Any] = [cli.VERBS[verb]]
    for kind in kinds:
        for name, hint in get_type_hints(kind).items():
            if is_dataclass(hint):
                kinds.append(hint)
                continue
            text = kind.__dataclass_fields__[name].metadata["text"]
            assert text[0].isupper(), name
            assert text.endswith("."), name


def test_by_lists_the_criteria(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("select", "prune"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([verb, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert "Rank by this criterion: cat_var, cat_diff, " in shown
        assert " rarity, random; a column of the table" in shown
