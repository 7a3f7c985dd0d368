"""The command line: one verb per public function, options of the same names."""

import argparse
import errno
import inspect
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pycat.cli import explain as explain_command
from pycat.cli import report as report_command
from pycat.cli import select as select_command
from pycat.data.corpus import Corpus, open_corpus
from pycat.data.tokenizer import MODEL_TYPES
from pycat.data.tokenizing import tokenize
from pycat.errors import PycatError
from pycat.evaluation.evaluation import BASELINES, Evaluation, TestSet, evaluate
from pycat.proxy.training import SCHEDULES, train
from pycat.proxy.transformer import PRESETS
from pycat.pruning import prune
from pycat.runtime.device import DTYPES, SCORING_DTYPES
from pycat.scores.score_table import ScoreTable
from pycat.scoring.engine import STATS, TOO_LONG, score
from pycat.scoring.external_scorers import MODELS, add_baseline
from pycat.scoring.line_scores import FORMATS, score_lines
from pycat.scoring.loading import own_tokenizer
from pycat.selection.selection import select

_OPEN_OPTIONS = ("split", "languages", "vocab_size", "eos_id", "pad_id", "tokenizer", "layout")
_OPEN_LAYOUTS = ("fairseq", "megatron")
_REMEDIES = {
    errno.ENOSPC: "free some space or choose --out on another disk",
    errno.EDQUOT: "free some space or choose --out on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose --out on another disk",
    errno.EACCES: "see that you may read or write there, or choose another place",
    errno.EPERM: "see that you may read or write there, or choose another place",
    errno.EROFS: "choose an --out you may write to",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pycat`; returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    options = vars(_parser().parse_args(select_command.with_criteria(words)))
    run = options.pop("run")
    try:
        run(**options)
    except PycatError as error:
        print(f"pycat: error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"pycat: error: {reason}; lower --batch-tokens", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "mend that")
        again = "and run the same command again: finished work is kept"
        print(f"pycat: error: {error}; {remedy}, {again}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pycat: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _tokenize(**options: Any) -> None:
    corpus = tokenize(**options)
    skipped = ", ".join(
        f"{count:,} with {why}" for why, count in corpus.manifest["skipped"].items()
    )
    print(
        f"{corpus.path}: {len(corpus):,} pairs, {corpus.num_src_tokens.sum():,} source and "
        f"{corpus.num_tokens.sum():,} target tokens, vocabulary {corpus.vocab_size:,}; "
        f"skipped: {skipped or 'none'}"
    )


def _train(**options: Any) -> None:
    run = train(_opened(options), **options)
    print(f"{run.path}: {run.manifest['parameters']:,} parameters; checkpoint, mean loss since:")
    for path, loss in zip(run.checkpoints, run.losses, strict=True):
        print(f"  {path}  {loss:.3f} nats/token")


def _score(
    format: str | None,
    per_token: bool,
    text: dict[str, Any],
    checkpoints: list[Path],
    **options: Any,
) -> None:
    if format is None and (options["corpus"] is None or per_token):
        raise PycatError(
            "score: a table of scores needs --corpus, and text and --per-token go with --format; "
            "pass --corpus FOLDER, or --format"
        )
    if options["corpus"] is not None and text:
        raise PycatError(
            f"score: --corpus is tokenized already; leave out {', '.join(map(_dashed, text))}"
        )
    with ExitStack() as stack:
        corpus = (
            _tokenized_for(checkpoints, text, options, stack)
            if options["corpus"] is None
            else _opened(options)
        )
        if format is not None:
            del options["stats"], options["exact_keep"]  # lines hold nll alone, and know no cut
            written = score_lines(
                corpus, checkpoints, format=format, per_token=per_token, **options
            )
            for path in written:
                print(path)
            return
    table = score(corpus, checkpoints, **options)
    print(f"{table.path}: {len(table):,} pairs under checkpoints at updates {table.steps}")
    num_tokens = table.num_tokens
    for k, step in enumerate(table.steps):
        with np.errstate(over="ignore"):
            median = np.median(np.exp(table.column(f"nll_{k}") / num_tokens))
        print(f"  update {step:>7,}: median perplexity {median:,.1f}")
    if "tokens_per_s" in table.manifest:
        print(_speed(table.manifest))
    if "rank_agreement" in table.manifest:
        print(_agreement(table.manifest))


def _baseline(scores: Path, model: str, **options: Any) -> None:
    name = add_baseline(scores, model, **options)
    values = ScoreTable.open(scores).column(name)
    print(
        f"{scores}: column {name}, {len(values):,} pairs, median {np.median(values):.4g}; "
        f"rank by it with --by {name}"
    )


def _speed(facts: Mapping[str, Any]) -> str:
    share = facts.get("flop_utilization")
    return f"  {facts['tokens_per_s']:,.0f} target tokens x checkpoints a second" + (
        "" if share is None else f", {share:.0%} of the rate of a large matrix product"
    )


def _agreement(facts: Mapping[str, Any]) -> str:
    agreement = facts["rank_agreement"]
    spearman = agreement["spearman"]
    return (
        f"  {facts['recipe']['dtype']} against float32, {agreement['num_pairs']:,} pairs: rank "
        f"correlation of {agreement['criterion']} "
        f"{'undefined' if spearman is None else f'{spearman:.5f}'}, nll differs by "
        f"{agreement['mean_relative_nll_difference']:.1e} of it on average"
    )


def _tokenized_for(
    checkpoints: list[Path], text: dict[str, Any], options: dict[str, Any], stack: ExitStack
) -> Corpus:
    """A corpus of this text that lasts as long as the stack, by the checkpoints' own tokenizer.

    The `open_corpus` options are taken out of `options`; those that text has too are used.
    """
    del options["corpus"]
    how = {name: options.pop(f"open.{name}") for name in _OPEN_OPTIONS}
    text["languages"], text["tokenizer"] = how.pop("languages"), how.pop("tokenizer")
    if strangers := [_dashed(name) for name, value in how.items() if value is not None]:
        raise PycatError(f"score: {', '.join(strangers)} given without --corpus; leave them out")
    if text["tokenizer"] is None and (own := own_tokenizer(checkpoints)) is not None:
        text["tokenizer"] = own
    elif text["tokenizer"] is None:
        raise PycatError(
            f"{checkpoints[0]}: has no tokenizer beside the weights; pass --tokenizer, or --corpus "
            "with text that is tokenized"
        )
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pycat-"))
    return tokenize(out=Path(folder) / "corpus", **text)


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _megatron_index(**options: Any) -> None:
    for prefix in _opened(options).write_megatron_index():
        print(f"{prefix}.idx, {prefix}.bin")


def _opened(options: dict[str, Any]) -> Corpus:
    """The corpus that the `open_corpus` options say, which are taken out of `options`."""
    paths = options.pop("corpus")
    if len(paths) > 2:
        raise PycatError(
            f"--corpus names {len(paths)} paths; expected a folder, or the prefixes of source "
            "and target"
        )
    how = {name: options.pop(f"open.{name}") for name in _OPEN_OPTIONS}
    return open_corpus(paths[0] if len(paths) == 1 else tuple(paths), **how)


def _evaluate(**options: Any) -> None:
    _print_evaluation(evaluate(**options))


def _prune(evaluate: bool, tests: dict[str, TestSet], **options: Any) -> None:
    if evaluate != bool(tests):
        raise PycatError(
            "prune: --evaluate and --test belong together: --test names the held-out text that "
            "--evaluate translates; pass both, or neither"
        )
    grouped: dict[str, Any] = {}
    for name in list(options):
        group, _, keyword = name.partition(".")
        if keyword:
            grouped.setdefault(f"{group}_options", {})[keyword] = options.pop(name)
    shared = {"device": options.pop("device")}
    for group in ("train_options", "score_options", "evaluate_options"):
        grouped[group] |= shared
    pruned = prune(tests=tests, **options, **grouped)
    print(select_command.summary(pruned.selection))
    if pruned.evaluation is not None:
        _print_evaluation(pruned.evaluation)
    print("time: " + ", ".join(f"{stage} {s:,.1f} s" for stage, s in pruned.timings.items()))
    print("text: " + ", ".join(map(str, pruned.texts)))
    print(f"report: {pruned.report}")


def _print_evaluation(evaluation: Evaluation) -> None:
    width = max(len(row.test) for row in evaluation.rows)
    print(f"{'arm':<10} {'pairs':>10} {'updates':>8}  {'test':<{width}} {'BLEU':>6} {'chrF':>6}")
    for row in evaluation.rows:
        print(
            f"{row.arm:<10} {row.num_pairs:>10,} {row.updates:>8,}  {row.test:<{width}} "
            f"{row.bleu:>6.2f} {row.chrf:>6.2f}"
        )
    print(f"BLEU {evaluation.bleu_signature}\nchrF {evaluation.chrf_signature}")


class _Options:
    """Adds options to a parser, with the defaults of the function that they are handed to."""

    def __init__(
        self, parser: argparse.ArgumentParser, function: Any, group: str = "", prefix: str = ""
    ) -> None:
        self._parser = (
            parser.add_argument_group(f"{function.__name__} options") if group else parser
        )
        self._defaults = inspect.signature(function).parameters
        self._group, self._prefix = f"{group}." if group else "", prefix

    def add(self, name: str, text: str, **settings: Any) -> None:
        metavar = {int: "N", float: "X", Path: "FILE"}.get(settings.get("type", str))
        if metavar is not None:
            settings.setdefault("metavar", metavar)
        default = self._defaults[name].default
        required = default is inspect.Parameter.empty
        if not required:
            settings["default"] = default
            if default is not None and default is not False:
                shown = ",".join(default) if isinstance(default, tuple) else default
                text += f" (default: {shown})"
        self._parser.add_argument(
            "--" + self._prefix + name.replace("_", "-"),
            dest=self._group + name,
            required=required,
            help=text,
            **settings,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pycat",
        description="Prune parallel text for machine translation by Checkpoints Across Time: "
        "keep the pairs whose perplexity moves most while a small proxy model trains.",
    )
    parser.add_argument("--version", action="version", version=f"pycat {version('pycat-nmt')}")
    verbs = parser.add_subparsers(title="verbs, in their order", required=True, metavar="VERB")

    def verb(name: str, function: Any, run: Any, text: str) -> tuple[Any, _Options]:
        own = verbs.add_parser(name, help=text, description=text)
        own.set_defaults(run=run)
        options = _Options(own, function)
        options.add(
            "out",
            "folder to make; a finished one of the same options is not made again",
            type=Path,
            metavar="FOLDER",
        )
        options.add("overwrite", "replace what was made with other options", action="store_true")
        return own, options

    own, options = verb("tokenize", tokenize, _tokenize, "parallel text to a tokenized corpus")
    _text_options(own)
    _tokenize_options(options)

    own, options = verb("train", train, _train, "train a proxy model, keeping checkpoints")
    _corpus_options(own)
    _train_options(options)
    options.add("seed", "of weights, batch order and dropout", type=int)
    _device_option(own)

    own, options = verb("score", score, _score, "sum each pair's nll under each checkpoint")
    _corpus_options(own, required=False)
    own.add_argument(
        "--checkpoints",
        type=Path,
        required=True,
        nargs="+",
        help="folder made by train or by a Hugging Face Trainer, or two and more of their "
        "checkpoints in training order",
    )
    _score_options(options)
    _device_option(own)
    _line_score_options(own)

    text = "add a column of another model's scores: LaBSE, LASER, COMET-QE, …"
    own = verbs.add_parser("baseline", help=text, description=text)
    own.set_defaults(run=_baseline)
    _baseline_options(own)

    own, options = verb("select", select, select_command.run, "keep the highest-scoring pairs")
    select_command.add_options(own, options)

    text = "write the kept lines of the text, or of other files of the same lines"
    own = verbs.add_parser("apply", help=text, description=text)
    own.set_defaults(run=select_command.run_apply)
    select_command.add_apply_options(own)

    text = "show a pair: its text, its scores among all others', why it was kept or dropped"
    own = verbs.add_parser("explain", help=text, description=text)
    own.set_defaults(run=explain_command.run)
    explain_command.add_options(own)

    text = "write the page that prune writes about a selection, for stages run one by one"
    own = verbs.add_parser("report", help=text, description=text)
    own.set_defaults(run=report_command.run)
    report_command.add_options(own)

    own, options = verb(
        "evaluate",
        evaluate,
        _evaluate,
        "retrain on the kept pairs, translate test sets, print BLEU and chrF",
    )
    own.add_argument("--selection", type=Path, required=True, help="folder made by select")
    _test_option(own, required=True)
    _evaluate_options(options)
    options.add("seed", "of weights, batch order, dropout and the random arm", type=int)
    _device_option(own)

    own, options = verb(
        "prune",
        prune,
        _prune,
        "tokenize, train, score and select; write pruned text and a report. Rules and a guard drop "
        "likely noise first; plain CAT-VAR, the paper's method, is --rules none --guard 0",
    )
    _text_options(own)
    _select_options(options)
    options.add("seed", "of the proxy, the criterion random and the evaluation", type=int)
    _device_option(own)
    own.add_argument("--evaluate", action="store_true", help="also evaluate on the --test sets")
    _test_option(own, required=False)
    _tokenize_options(_Options(own, tokenize, "tokenize"))
    _train_options(_Options(own, train, "train"))
    _score_options(_Options(own, score, "score", "score-"))
    _evaluate_options(_Options(own, evaluate, "evaluate", "evaluate-"))

    text = "write beside a corpus what Megatron needs to open it: src.mcore.idx, tgt.mcore.idx"
    own = verbs.add_parser("megatron-index", help=text, description=text)
    own.set_defaults(run=_megatron_index)
    _corpus_options(own)
    return parser


def _baseline_options(parser: argparse.ArgumentParser) -> None:
    options = _Options(parser, add_baseline)
    options.add("scores", "folder made by score", type=Path, metavar="FOLDER")
    options.add("model", "whose scores", choices=tuple(MODELS))
    options.add("name", "of the column; that of the model unless given")
    options.add("weights", "what to load in place of the model's own: a folder, file or name")
    options.add("batch_size", "sentences that the model runs at once", type=int)
    _device_option(parser)


def _text_options(parser: argparse.ArgumentParser) -> None:
    text = "UTF-8, one sentence a line; plain, .gz or .zst"
    parser.add_argument("--src", type=Path, help=f"source text: {text}")
    parser.add_argument("--tgt", type=Path, help="target text, line i translating line i of --src")
    parser.add_argument(
        "--tsv", type=Path, help="instead of both: source, tab, target; more columns are carried"
    )


def _corpus_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--corpus",
        type=Path,
        required=required,
        nargs="+",
        metavar="FOLDER",
        help="made by tokenize or by fairseq-preprocess; or two prefixes of MMIDIDX files",
    )
    options = _Options(parser, open_corpus, "open")
    options.add("split", 'of fairseq\'s folder, "train" unless named', metavar="NAME")
    options.add(
        "languages",
        "those to open of fairseq's folder; names of two prefixes",
        type=_pair,
        metavar="SRC,TGT",
    )
    options.add("vocab_size", "of two prefixes: bound on the ids", type=int)
    options.add("eos_id", "of two prefixes: the id that ends each sequence", type=int)
    options.add("pad_id", "of two prefixes: pads batches; eos-id unless given", type=int)
    options.add("tokenizer", "of two prefixes, instead of both: SentencePiece .model", type=Path)
    options.add("layout", "of two prefixes, unless recognised", choices=_OPEN_LAYOUTS)


def _device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help='"cpu", "cuda", "cuda:1", … or "auto" (default: auto)'
    )


def _test_option(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--test",
        dest="tests",
        type=_test_set,
        action=_AddTest,
        default={},
        required=required,
        metavar="[NAME=]SRC,REF",
        help="test set: source and reference file, or one .tsv file",
    )


def _tokenize_options(options: _Options) -> None:
    options.add(
        "tokenizer",
        "SentencePiece .model to use, or folder of a Hugging Face model; without one it is trained",
        type=Path,
    )
    options.add("vocab_size", "pieces to train, both languages together", type=int)
    options.add("model_type", "pieces to train", choices=MODEL_TYPES)
    options.add("max_tokens", "skip pairs with a side of more tokens", type=int)
    options.add(
        "languages",
        "names of source and target; default: the file names' suffixes",
        type=_pair,
        metavar="SRC,TGT",
    )
    code = "code that a Hugging Face tokenizer puts into its sequences, such as"
    options.add("src_lang", f"{code} eng_Latn", metavar="CODE")
    options.add("tgt_lang", f"{code} deu_Latn", metavar="CODE")
    options.add(
        "prompt",
        "for causal Hugging Face models: text before the target, {src} standing for the source and "
        r"\n for a line end",
        type=_prompt,
        metavar="TEXT",
    )


def _train_options(options: _Options) -> None:
    options.add("preset", "tiny: d=256, 3+3 layers; base: d=512, 6+6 layers", choices=list(PRESETS))
    options.add("checkpoints", "how many to keep, the last one at the end", type=int)
    options.add("checkpoint_schedule", "even steps, or doubling ones", choices=SCHEDULES)
    options.add(
        "checkpoint_steps",
        "instead of both: save after these updates, and end with the last",
        type=_steps,
        metavar="N,N,…",
    )
    options.add("epochs", "passes over the corpus", type=float)
    options.add("updates", "instead of epochs: optimizer updates", type=int)
    options.add("batch_tokens", "tokens of a batch's larger side, with padding", type=int)
    options.add("learning_rate", "peak of Adam's rate", type=float)
    options.add("warmup", "updates up to the peak; default: a tenth of all, at most 4000", type=int)
    options.add("label_smoothing", "probability", type=float)
    options.add("dropout", "probability", type=float)
    options.add("dtype", "of matrix products; auto: bfloat16 if the device has it", choices=DTYPES)


def _score_options(options: _Options) -> None:
    options.add("stats", "nll alone, or all statistics that criteria are made of", choices=STATS)
    options.add(
        "batch_tokens", "tokens of a batch's larger side; default: what is fastest", type=int
    )
    options.add(
        "dtype",
        "of matrix products; auto: bfloat16 if the device has it; int8: fastest on newer CPUs",
        choices=SCORING_DTYPES,
    )
    options.add(
        "too_long", "pairs that exceed the model's positions: refuse, or cut", choices=TOO_LONG
    )
    options.add(
        "exact_keep",
        "with bfloat16 or int8: score what is near this cut again in float32, so that the same "
        "pairs are kept",
        type=float,
    )


def _line_score_options(parser: argparse.ArgumentParser) -> None:
    lines = parser.add_argument_group(
        "instead of a table, lines as other scorers write them",
        "--out is a file then, and without it they go to standard output. Text may be given "
        "in place of --corpus; --tokenizer is the first checkpoint's own then, unless named.",
    )
    lines.add_argument("--format", choices=FORMATS, help="of the lines")
    lines.add_argument("--per-token", action="store_true", help="with jsonl: scores of tokens too")
    for name, settings in (
        ("src", {"type": Path, "metavar": "FILE"}),
        ("tgt", {"type": Path, "metavar": "FILE"}),
        ("tsv", {"type": Path, "metavar": "FILE"}),
        ("max_tokens", {"type": int, "metavar": "N"}),
        ("src_lang", {"metavar": "CODE"}),
        ("tgt_lang", {"metavar": "CODE"}),
        ("prompt", {"type": _prompt, "metavar": "TEXT"}),
    ):
        lines.add_argument(
            _dashed(name),
            dest="text",
            action=_Gather,
            default={},
            help="as tokenize",
            **settings,
        )


def _select_options(options: _Options) -> None:
    options.add("keep", "fraction of the pairs to keep, above 0 and at most 1", type=float)
    options.add("by", select_command.CRITERION_HELP, metavar="CRITERION")
    select_command.add_noise_options(options)


def _evaluate_options(options: _Options) -> None:
    options.add(
        "baselines",
        "arms beside the selection: full, random, or none",
        type=_baselines,
        metavar="full,random",
    )
    options.add("preset", "tiny: d=256, 3+3 layers; base: d=512, 6+6 layers", choices=list(PRESETS))
    options.add("epochs", "passes over each arm's own pairs", type=float)
    options.add("updates", "instead of epochs: optimizer updates of every arm", type=int)
    options.add("batch_tokens", "tokens of a batch's larger side, with padding", type=int)
    options.add("learning_rate", "peak of Adam's rate", type=float)
    options.add("beam", "hypotheses kept alive; 1 is greedy", type=int)
    options.add("length_penalty", "alpha in log p / length ** alpha", type=float)
    options.add("dtype", "of matrix products; auto: bfloat16 if the device has it", choices=DTYPES)


class _AddTest(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        name, test = values
        if name in getattr(namespace, self.dest):
            parser.error(f"--test: two sets are named {name!r}; name them: --test NAME=SRC,REF")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: test})


class _Gather(argparse.Action):
    """Puts several options into one dictionary, by their own names."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        name = self.option_strings[0].removeprefix("--").replace("-", "_")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: values})


def _test_set(text: str) -> tuple[str, TestSet]:
    name, equals, files = text.partition("=")
    files = files if equals else text
    paths = files.split(",")
    if len(paths) > 2 or not all(paths):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected [NAME=]SOURCE,REFERENCE or [NAME=]FILE.tsv"
        )
    name = name if equals else Path(paths[0]).name.split(".")[0]
    return name, (paths[0], paths[1]) if len(paths) == 2 else paths[0]


def _pair(text: str) -> tuple[str, str]:
    names = text.split(",")
    if len(names) != 2 or not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: expected two names, such as en,de")
    return names[0], names[1]


def _prompt(text: str) -> str:
    return text.replace("\\n", "\n")


def _steps(text: str) -> list[int]:
    try:
        return [int(step) for step in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected updates separated by commas, such as 100,200,400"
        ) from None


def _baselines(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    if not set(names) <= set(BASELINES):
        raise argparse.ArgumentTypeError(f"{text!r}: expected full, random, both, or none")
    return names
