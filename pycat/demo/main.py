"""Demonstration of pycat on real text, on any machine, in a few minutes.

Without text of your own, the demonstration collects English-German software text, prunes it to
half, and retrains on that half and on a random half. With your own text it prunes that to half.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pycat.cli import main as cli
from pycat.demo.text import collect, show_sources
from pycat.errors import PycatError

_WITH_OWN_TEXT = """\
pycat demo: prune {src} and {tgt} to half.

  1. tokenize   SentencePiece, trained on this text
  2. measure    what rules and a noise filter read of each pair
  3. train      a small translation model, keeping 5 early checkpoints
  4. score      every pair's perplexity under each checkpoint
  5. select     drop pairs that break rules or that the noise filter suspects, then keep the pairs
                whose perplexity varies most (cat_var): half of all
  report        {out}/own/report.html
"""

_WITH_COLLECTED_TEXT = """\
pycat demo: prune real English-German text to half, and see what the half is worth.

  0. collect    translated messages of well-known free software, out of their Python packages
                (about 95 MB to download, licences listed below; nothing of it is kept in pycat)
  1. tokenize   SentencePiece, trained on this text
  2. measure    what rules and a noise filter read of each pair
  3. train      a small translation model, keeping 5 early checkpoints
  4. score      every pair's perplexity under each checkpoint
  5. select     drop pairs that break rules or that the noise filter suspects, then keep the pairs
                whose perplexity varies most (cat_var): half of all
  6. evaluate   retrain on that half and on a random half, translate 500 held-out messages
  report        {out}/collected/report.html

About nine minutes on two cores. A model trained this briefly translates badly: the demonstration
shows every step, not the quality that a full training reaches.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pycat-demo", description=__doc__)
    parser.add_argument(
        "--src", type=Path, help="your own source text, in place of the collected text"
    )
    parser.add_argument("--tgt", type=Path, help="its translation, line by line")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    options = parser.parse_args(argv)
    if (options.src is None) != (options.tgt is None):
        parser.error("--src and --tgt belong together: make demo SRC=train.en TGT=train.de")
    out: Path = options.out
    if options.src is not None:
        print(_WITH_OWN_TEXT.format(**vars(options)), flush=True)
        src, tgt, work = options.src, options.tgt, out / "own"
        evaluate_options = []
    else:
        print(_WITH_COLLECTED_TEXT.format(out=out), flush=True)
        try:
            text = collect(out / "text")
        except (PycatError, OSError) as error:
            print(f"pycat: error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("pycat: interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        show_sources(text)
        src, tgt, work = text.train_en, text.train_de, out / "collected"
        evaluate_options = [
            *("--evaluate", "--test", f"software={text.test_en},{text.test_de}"),
            *("--evaluate-baselines", "random", "--evaluate-epochs", "3", "--train-epochs", "2"),
        ]
    return cli.main(
        [
            *("prune", "--src", str(src), "--tgt", str(tgt), "--out", str(work)),
            *("--score-dtype", "auto"),
            *evaluate_options,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
