"""The verb `score`: a table of scores, or lines as other scorers write them."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pycat
from pycat.cli.options import (
    columns_option,
    dashed,
    device_option,
    group,
    num_workers_option,
    on_option,
    option,
    out_option,
    overwrite_option,
    prompt,
    sentencepiece_option,
    stage_option,
    vocabs_option,
)
from pycat.cli.stages import CORPUS_HELP, OpenOptions, open_group
from pycat.errors import PycatError
from pycat.runtime.locks import scratch_folder
from pycat.runtime.named_files import is_stream

if TYPE_CHECKING:
    from pycat.data.corpus import Corpus
    from pycat.scores.score_table import ScoreTable


# What marian-scorer calls them: nats a line, the same, nats a token, nats in all, e^(nats a token).
SUMMARIES = ("cross-entropy", "ce-mean", "ce-mean-words", "ce-sum", "perplexity")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How `score` scores; `stats` and `exact_keep` are those of a table alone."""

    stats: Literal["nll", "all"] = option(
        "Sum nll alone, or all statistics that criteria are made of.", "all"
    )
    batch_tokens: int | None = option(
        "Put at most this many tokens into either side of a batch; without it, the fastest number.",
        None,
    )
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = option(
        "Multiply matrices in this type; int8 is the fastest on CPUs, and auto is bfloat16 if the "
        "device has it, else float32, or int8 with --exact-keep.",
        "float32",
    )
    too_long: Literal["refuse", "truncate"] = option(
        "Refuse a corpus with pairs that exceed the model's positions, or truncate those.", "refuse"
    )
    exact_keep: float | None = option(
        "With bfloat16 or int8, score the pairs near this cut by cat_var again in float32, so "
        "that the same ones are kept by it.",
        None,
    )


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """Which lines to write, and of which text."""

    format: Literal["fairseq", "marian", "jsonl"] | None = option(
        "Write lines as this scorer does, or as JSON.", None
    )
    per_token: bool = option("With jsonl, write the scores of tokens too.", False)
    normalize: bool = option("With marian, divide each score by its number of tokens.", False)
    summary: Literal[SUMMARIES] | None = option(  # type: ignore[valid-type]
        "With marian, write one number for all lines in place of one a line.",
        None,
        nargs="?",
        const=SUMMARIES[0],
    )
    src: Path | None = option("Read source text, as tokenize does; - is standard input.", None)
    tgt: Path | None = option("Read target text, as tokenize does; - is standard input.", None)
    tsv: Path | None = option("Read text with tabs, as tokenize does; - is standard input.", None)
    columns: tuple[int, int] | tuple[str, str] | None = columns_option()
    train_sets: list[Path] | None = option(
        "Read these two files, in the order in which the model reads them, as marian-scorer does: "
        "for a model from target to source, the target first.",
        None,
        metavar="FILE",
    )
    vocabs: list[Path] | None = vocabs_option()
    sentencepiece: list[Path] | None = sentencepiece_option()
    max_tokens: int | None = option("Skip longer pairs, as tokenize does.", None)
    max_length: int | None = option("As --max-tokens; the name that marian-scorer has.", None)
    max_length_crop: bool = option("Cut longer sides in place of skipping the pair.", False)
    keep_empty: bool = option(
        "Score a blank side as the end of a sentence alone, as marian-scorer does; without it, "
        "such a line has no score.",
        False,
    )
    src_lang: str | None = option("Name the source's code, as for tokenize.", None, metavar="CODE")
    tgt_lang: str | None = option("Name the target's code, as for tokenize.", None, metavar="CODE")
    prompt: str | None = option(
        "Put this text before the target, as tokenize does.", None, type=prompt, metavar="TEXT"
    )

    def text(self) -> dict[str, Any]:
        """The options that say which text, as far as given, by their names."""
        no_text = ("format", "per_token", "normalize", "summary")
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None and value is not False and name not in no_text
        }


@dataclass(frozen=True, kw_only=True)
class Score:
    """Sum the negative log-likelihood of each pair, and more, under each checkpoint."""

    out: Path | None = out_option(
        "Make this folder. A finished one of the same options is not made again.", None
    )
    overwrite: bool = overwrite_option()
    corpus: list[Path] | None = option(CORPUS_HELP, None, metavar="FOLDER")
    checkpoints: list[Path] = option(
        "Score under the checkpoints in this folder, made by train or by a Hugging Face Trainer; "
        "or under these two or more, which are put in the order of their updates: of those, or "
        "folders of CTranslate2, .npz of Marian, .pt of fairseq or OpenNMT-py.",
        metavar="PATH",
    )
    how: ScoreOptions = group()
    base: Path | None = option(
        "Take over the scores that this earlier table holds of the same tokens under the same "
        "checkpoints, and score the other pairs alone.",
        None,
        metavar="FOLDER",
    )
    device: str = device_option()
    on: str = on_option()
    num_workers: int | None = num_workers_option()
    stage: Path | None = stage_option("corpus and checkpoints")
    opening: OpenOptions = open_group()
    lines: LineOptions = group(
        "instead of a table, lines as other scorers write them",
        "--out is a file then, and without it the lines go to standard output. Text may be given "
        "in place of --corpus; without --tokenizer, the first checkpoint's own is used.",
    )

    def run(self) -> None:
        """Score, and print what a table holds, or the lines."""
        text = self.lines.text()
        if self.lines.format is None and (self.corpus is None or self.lines.per_token):
            raise PycatError(
                "score: a table of scores needs --corpus, and text and --per-token go with "
                "--format; pass --corpus FOLDER, or --format"
            )
        if self.lines.format is not None and self.base is not None:
            raise PycatError("score: --base goes with a table of scores, not with --format")
        if self.stage is not None and self.lines.format is not None:
            raise PycatError(
                "score: --stage is for a table of scores; leave out --format or --stage"
            )
        if self.lines.format is not None and (self.on, self.num_workers) != ("local", None):
            raise PycatError("score: --on and --num-workers go with a table; leave out --format")
        if self.corpus is not None and text:
            given = ", ".join(f"--{dashed(name)}" for name in text)
            raise PycatError(f"score: --corpus is tokenized already; leave out {given}")
        if len(self.checkpoints) > 1 or self.checkpoints[0].is_dir():
            _print_order(self.checkpoints)
        with ExitStack() as stack:
            corpus = (
                self._tokenized(text, stack)
                if self.corpus is None
                else self.opening.open(self.corpus)
            )
            if self.lines.format is None:
                table = pycat.score(
                    corpus,
                    self.checkpoints,
                    **vars(self.how),
                    base=self.base,
                    out=self.out,
                    overwrite=self.overwrite,
                    device=self.device,
                    on=self.on,
                    num_workers=self.num_workers,
                    stage=self.stage,
                )
                _print_table(table)
            else:
                written = pycat.score_lines(
                    corpus,
                    self.checkpoints,
                    format=self.lines.format,
                    per_token=self.lines.per_token,
                    normalize=self.lines.normalize,
                    summary=self.lines.summary,
                    batch_tokens=self.how.batch_tokens,
                    dtype=self.how.dtype,
                    too_long=self.how.too_long,
                    out=self.out,
                    overwrite=self.overwrite,
                    device=self.device,
                )
                for path in written:
                    print(path, file=sys.stderr if is_stream(path) else sys.stdout)

    def _tokenized(self, text: Mapping[str, Any], stack: ExitStack) -> "Corpus":
        """A corpus of this text, by the checkpoints' own tokenizer; it lasts as long as `stack`."""
        from pycat.scoring.loading import tokenizer_of

        used = ("languages", "tokenizer")
        strangers = [
            f"--{dashed(name)}"
            for name, value in vars(self.opening).items()
            if value is not None and name not in used
        ]
        if strangers:
            raise PycatError(
                f"score: {', '.join(strangers)} given without --corpus; leave them out"
            )
        vocabs, models = self.lines.vocabs or (), self.lines.sentencepiece or ()
        tokenizer: Any = self.opening.tokenizer
        if tokenizer is None:
            tokenizer = tokenizer_of(self.checkpoints, vocabs, models)
        elif vocabs or models:
            raise PycatError("score: --tokenizer and --vocabs exclude each other; pass one of them")
        if tokenizer is None:
            raise PycatError(
                f"{self.checkpoints[0]}: has no tokenizer beside the weights; pass --tokenizer, or "
                "--corpus with text that is tokenized"
            )
        folder = stack.enter_context(scratch_folder())
        return pycat.tokenize(
            **_text_options(text, folder),
            tokenizer=tokenizer,
            languages=self.opening.languages,
            out=folder / "corpus",
        )


def _text_options(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Options of `tokenize` for the text that `score` was given; standard input goes to a file."""
    found = {
        name: value
        for name, value in given.items()
        if name not in ("vocabs", "sentencepiece", "train_sets", "max_length", "max_length_crop")
    }
    if (sets := given.get("train_sets")) is not None:
        if len(sets) != 2 or any(name in found for name in ("src", "tgt", "tsv")):
            raise PycatError(
                f"score: --train-sets names {len(sets)} files; expected two, and neither --src, "
                "--tgt nor --tsv beside them"
            )
        found["src"], found["tgt"] = sets
    if (length := given.get("max_length")) is not None:
        if "max_tokens" in found:
            raise PycatError("score: --max-length and --max-tokens are one option; pass one")
        found["max_tokens"] = length
    if given.get("max_length_crop"):
        found["crop"] = True
    piped = [name for name in ("src", "tgt", "tsv") if str(found.get(name)) == "-"]
    if len(piped) > 1:
        raise PycatError("score: only one file can be standard input (-); name the other")
    for name in piped:
        found[name] = folder / "stdin"
        with found[name].open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    return found


def _print_order(checkpoints: Sequence[Path]) -> None:
    """Print, beside the output, which checkpoint counts as earlier."""
    from pycat.scoring.loading import checkpoint_order

    order = checkpoint_order(checkpoints)
    if len(order.paths) > 1:
        print(order, file=sys.stderr)


def _print_table(table: "ScoreTable") -> None:
    """Print the medians under each checkpoint, the speed, and how exact a reduced precision is."""
    import numpy as np

    print(f"{table.path}: {len(table):,} pairs under checkpoints at updates {table.steps}")
    num_tokens = table.num_tokens
    for k, step in enumerate(table.steps):
        with np.errstate(over="ignore"):
            median = np.median(np.exp(table.column(f"nll_{k}") / num_tokens))
        print(f"  update {step:>7,}: median perplexity {median:,.1f}")
    if "reused" in table.manifest:
        reused = table.manifest["reused"]
        print(f"  {reused['num_pairs']:,} of the pairs were taken over from the earlier table")
    if "tokens_per_s" in table.manifest:
        print(_speed(table.manifest))
    if "rank_agreement" in table.manifest:
        print(_agreement(table.manifest))


def _speed(manifest: Mapping[str, Any]) -> str:
    share = manifest.get("flop_utilization")
    return f"  {manifest['tokens_per_s']:,.0f} target tokens x checkpoints a second" + (
        "" if share is None else f", {share:.0%} of the rate of a large matrix product"
    )


def _agreement(manifest: Mapping[str, Any]) -> str:
    agreement = manifest["rank_agreement"]
    spearman = agreement["spearman"]
    return (
        f"  {manifest['recipe']['dtype']} against float32, {agreement['num_pairs']:,} pairs: rank "
        f"correlation of {agreement['criterion']} "
        f"{'undefined' if spearman is None else f'{spearman:.5f}'}, nll differs by "
        f"{agreement['mean_relative_nll_difference']:.1e} of it on average"
    )
