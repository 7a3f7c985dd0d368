"""Demonstration of pycat on real text, on any machine, in a few minutes.

Without text of your own, the demonstration collects English-German software text, spoils a part of
it in known ways, prunes it to half, and compares models trained on that half and on alternatives.
With your own text it prunes that to half.
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pycat.cli import main as cli
from pycat.cli.options import Parser
from pycat.cli.prune import print_places
from pycat.cli.select import summary
from pycat.cli.stages import print_evaluation
from pycat.demo.spoiling import KINDS, spoil
from pycat.demo.text import DemoText, collect, show_sources
from pycat.evaluation.arms import CLEAN, read_labels
from pycat.evaluation.results import Evaluation
from pycat.pruning import Pruned, prune
from pycat.runtime.output import replacing
from pycat.selection.replaying import choose_again

_WITH_OWN_TEXT = """\
pycat demo: prune {src} and {tgt} to half.

  1. tokenize   SentencePiece, trained on this text
  2. measure    what rules and a noise filter read of each pair
  3. train      a small translation model, keeping 5 early checkpoints
  4. score      every pair's perplexity under each checkpoint
  5. select     drop pairs that break rules or that the noise filter suspects, then keep the pairs
                that look least like noise and that the model learns most of while it trains, as
                many of each cluster of alike sentences: half of all
  report        {out}/own/report.html
"""

_WITH_COLLECTED_TEXT = """\
pycat demo: prune real English-German text to half, and see what the half is worth.

  0. collect    translated messages of well-known free software, out of their Python packages
                (about 95 MB to download, licences listed below; nothing of it is kept in pycat)
{spoil}  1. tokenize   SentencePiece, trained on this text
  2. measure    what rules and a noise filter read of each pair
  3. train      a small translation model, keeping 5 early checkpoints
  4. score      every pair's perplexity under each checkpoint
  5. select     drop pairs that break rules or that the noise filter suspects, then keep the pairs
                that look least like noise and that the model learns most of while it trains, as
                many of each cluster of alike sentences: half of all
  6. evaluate   train new models on all pairs, on a random half and on that half, each for the same
                number of updates, and measure their loss on 500 clean messages held out
  report        {work}/report.html

About ten minutes on two cores. The models are small and trained briefly: compare them with each
other, not with a translator.
"""

_SPOIL = """\
                Then {percent} % of the pairs are spoilt, so that it is known which are bad.
"""

# Settings for ten minutes on two cores without AVX-512; the retraining takes most of them. They
# compute in float32 everywhere, so that figures differ little from one processor to the next.
_TOKENIZE: dict[str, Any] = {"vocab_size": 4000}
_TRAIN: dict[str, Any] = {"preset": "mini", "epochs": 1, "batch_tokens": 1024, "dtype": "float32"}
_EVALUATE: dict[str, Any] = {
    "preset": "mini",
    "passes": 2,
    "seeds": 1,
    "batch_tokens": 1024,
    "dtype": "float32",
}
_TEST = "software"

# The table's heading for each step of a selection that drops pairs.
_STEPS = {"rules": "rules", "guard": "noise filter", "criterion": "criterion", "kept": "kept"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    parsed: list[Namespace] = []
    if status := cli.exit_status(lambda: parsed.append(_options(argv))):
        return status
    [options] = parsed
    if options.src is None:
        return cli.exit_status(partial(_with_collected_text, options.out, options.spoil))
    if status := cli.exit_status(lambda: print(_WITH_OWN_TEXT.format(**vars(options)))):
        return status
    texts = ("--src", str(options.src), "--tgt", str(options.tgt))
    return cli.main(["prune", *texts, "--out", str(options.out / "own"), "--score-dtype", "auto"])


def _options(argv: Sequence[str] | None) -> Namespace:
    """What the words ask for; exits with status 2 on wrong usage."""
    parser = Parser(prog="pycat-demo", description=__doc__)
    parser.add_argument(
        "--src", type=Path, help="your own source text, in place of the collected text"
    )
    parser.add_argument("--tgt", type=Path, help="its translation, line by line")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument(
        "--spoil",
        type=int,
        default=30,
        metavar="PERCENT",
        help="how much of the collected text to spoil (default: 30); your own is never spoilt",
    )
    options = parser.parse_args(argv)
    if (options.src is None) != (options.tgt is None):
        parser.error("--src and --tgt belong together: make demo SRC=train.en TGT=train.de")
    if not 0 <= options.spoil <= 90:
        parser.error(f"--spoil is {options.spoil}; expected a percentage from 0 to 90")
    return options


def _with_collected_text(out: Path, percent: int) -> None:
    """Collect, spoil, prune and evaluate."""
    work = out / (f"spoilt-{percent}" if percent else "collected")
    spoil_words = _SPOIL.format(percent=percent) if percent else ""
    print(_WITH_COLLECTED_TEXT.format(spoil=spoil_words, work=work), flush=True)
    text = collect(out / "text")
    show_sources(text)
    target, labels = text.train_de, None
    if percent:
        target, labels = _spoil(text, percent)
    stages: dict[str, Any] = {
        "src": text.train_en,
        "tgt": target,
        "out": work,
        "tokenize_options": _TOKENIZE,
        "train_options": _TRAIN,
        "score_options": {"dtype": "float32"},
    }
    pruned = prune(**stages)
    print(summary(pruned.selection))
    arms = ["full", "random", "selected"]
    if labels is not None:
        _print_dropped(dropped_by_kind(pruned, labels))
        arms.append("oracle")
    pruned = prune(
        **stages,
        tests={_TEST: (text.test_en, text.test_de)},
        evaluate_options={**_EVALUATE, "arms": arms, "labels": labels},
    )
    assert pruned.evaluation is not None
    print_evaluation(pruned.evaluation)
    _print_conclusion(pruned.evaluation)
    print_places(pruned)


def _spoil(text: DemoText, percent: int) -> tuple[Path, Path]:
    """Spoil so much of the training text; writes and returns the German side and the labels."""
    english, german, french = map(_lines, (text.train_en, text.train_de, text.train_fr))
    target, labels = spoil(english, german, french, percent / 100)
    folder = text.train_de.parent
    paths = folder / f"spoilt-{percent}.de", folder / f"spoilt-{percent}.labels"
    for path, lines in zip(paths, (target, labels), strict=True):
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="\n")
    counts = Counter(labels)
    print(
        f"{len(labels) - counts[CLEAN]:,} of the {len(labels):,} pairs are spoilt. In place of the "
        "German stands"
    )
    for kind, words in KINDS.items():
        print(f"  {kind:<12} {counts[kind]:>6,}  {words}")
    print(f"Text: {paths[0]}, what was done to each line: {paths[1]}\n", flush=True)
    return paths


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def dropped_by_kind(pruned: Pruned, labels: Path) -> dict[str, Counter[str]]:
    """Count the pairs of each label that each step of a selection dropped, or that were kept.

    Args:
        pruned: what `prune` made, with rules or noise filter.
        labels: file with a label for each line of the text.

    Returns:
        For each label, pairs by "rules", "guard", "criterion" and "kept".
    """
    choice = choose_again(pruned.selection, pruned.scores, pruned.corpus, pruned.measures)
    counts: dict[str, Counter[str]] = {}
    label_of = read_labels(labels, pruned.corpus).tolist()
    for label, step, kept in zip(
        label_of, choice.left_out.tolist(), choice.kept.tolist(), strict=True
    ):
        # Pairs that no step before the cut left out are at 0.
        name = "kept" if kept else choice.steps[step - 1] if step else "criterion"
        counts.setdefault(label, Counter())[name] += 1
    return counts


def _print_dropped(counts: Mapping[str, Counter[str]]) -> None:
    """Print what was dropped of each kind as percentages, by step."""
    spoilt = sum((counts[kind] for kind in KINDS if kind in counts), Counter[str]())
    rows = {"clean": counts[CLEAN], "spoilt": spoilt}
    rows |= {f"  {kind}": counts[kind] for kind in KINDS if kind in counts}
    print("\nOf 100 pairs of each kind, so many each step dropped, and so many are kept:")
    print(f"  {'':<14} {'pairs':>7} " + "".join(f"{name:>14}" for name in _STEPS.values()))
    for name, row in rows.items():
        shares = "".join(f"{100 * row[step] / row.total():>14.1f}" for step in _STEPS)
        print(f"  {name:<14} {row.total():>7,} {shares}")
    print(flush=True)


def _print_conclusion(evaluation: Evaluation) -> None:
    """Print the result in a few lines."""
    selected = evaluation.arms["selected"]["tests"][_TEST]
    for other, gain in (("a random half", "gain_on_random"), ("all of the text", "gain_on_full")):
        value, low, high = selected[gain]
        print(
            f"The half that pycat kept, beside {other}: loss {abs(value):.3f} "
            f"{'lower' if value > 0 else 'higher'} (95 % interval of the gain: {low:+.3f} to "
            f"{high:+.3f})"
        )
    print()


if __name__ == "__main__":
    sys.exit(main())
