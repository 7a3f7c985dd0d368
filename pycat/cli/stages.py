"""The verbs `tokenize`, `measure`, `train`, `evaluate`, `baseline` and `megatron-index`.

Options that `prune` hands on are dataclasses of their own, with the names and defaults of the
stage's function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pycat
from pycat.cli.options import (
    TextFiles,
    device_option,
    group,
    languages,
    num_workers_option,
    on_option,
    option,
    out_option,
    overwrite_option,
    prompt,
    sentencepiece_option,
    stage_option,
    steps,
    vocabs_option,
)
from pycat.errors import PycatError
from pycat.runtime.ranks import launch

if TYPE_CHECKING:
    from pycat.data.corpus import Corpus
    from pycat.evaluation.results import Evaluation

_MADE_ONCE = "A finished one of the same options is not made again."
_PRESETS = "mini has d=128 and 4+4 layers, tiny d=256 and 3+3, base d=512 and 6+6"


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """How `tokenize` tokenizes."""

    tokenizer: Path | None = option(
        "Use this SentencePiece .model, or the tokenizer in this folder of a Hugging Face model or "
        "one converted by CTranslate2; without one, a tokenizer is trained on the text.",
        None,
    )
    vocabs: list[Path] | None = vocabs_option()
    sentencepiece: list[Path] | None = sentencepiece_option()
    vocab_size: int = option("Train this many pieces, which both languages share.", 8000)
    model_type: Literal["unigram", "bpe"] = option("Train pieces of this type.", "unigram")
    character_coverage: float = option(
        "Make pieces of the characters of this share of the text; rarer ones are read as bytes.",
        0.9995,
    )
    max_tokens: int = option("Skip pairs with a side of more tokens than this.", 512)
    crop: bool = option("Cut longer sides to their first tokens instead of skipping them.", False)
    keep_empty: bool = option("Keep pairs with an empty side instead of skipping them.", False)
    languages: tuple[str, str] | None = option(
        "Call source and target by these names; without it, by the suffixes of their files.",
        None,
        type=languages,
        metavar="SRC,TGT",
    )
    src_lang: str | None = option(
        "Let a Hugging Face tokenizer put this code into source sequences, such as eng_Latn.",
        None,
        metavar="CODE",
    )
    tgt_lang: str | None = option(
        "Let a Hugging Face tokenizer put this code into target sequences, such as deu_Latn.",
        None,
        metavar="CODE",
    )
    prompt: str | None = option(
        "For a Hugging Face model, let this text stand around the source, in place of {src}: all "
        r"that precedes the target of a causal one, where \n is a line end, or the prefix of T5.",
        None,
        type=prompt,
        metavar="TEXT",
    )


@dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Turn parallel text into a tokenized corpus."""

    out: Path = out_option(f"Make this folder. {_MADE_ONCE}")
    overwrite: bool = overwrite_option()
    text: TextFiles = group()
    monolingual: Path | None = option(
        "Instead of parallel text, read this file of one language, for a causal model whose folder "
        "is the --tokenizer (docs/monolingual.md).",
        None,
    )
    how: TokenizeOptions = group()
    on: str = on_option()
    num_workers: int | None = num_workers_option()

    def run(self) -> None:
        """Tokenize, and print counts."""
        corpus = pycat.tokenize(
            **vars(self.text),
            **vars(self.how),
            monolingual=self.monolingual,
            out=self.out,
            overwrite=self.overwrite,
            on=self.on,
            num_workers=self.num_workers,
        )
        skipped = ", ".join(
            f"{count:,} with {why}" for why, count in corpus.manifest["skipped"].items()
        )
        print(
            f"{corpus.path}: {len(corpus):,} pairs, {corpus.num_src_tokens.sum():,} source and "
            f"{corpus.num_tokens.sum():,} target tokens, vocabulary {corpus.vocab_size:,}; "
            f"skipped: {skipped or 'none'}"
        )
        print_left_out(corpus)


def print_left_out(corpus: "Corpus") -> None:
    """Print what of a file of rows gave no line, if there is such."""
    if corpus.left_out:
        reasons = ", ".join(f"{count:,} {what}" for what, count in corpus.left_out.items())
        print(f"{corpus.manifest['source']['path']}: left out {reasons}")


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How to open a corpus that is not a folder of pycat's."""

    split: str | None = option(
        'Open this split of a folder of fairseq\'s; without it, "train".', None, metavar="NAME"
    )
    languages: tuple[str, str] | None = option(
        "Open these languages of a folder of fairseq's, or name those of two prefixes.",
        None,
        type=languages,
        metavar="SRC,TGT",
    )
    vocab_size: int | None = option("The token ids of two prefixes lie below this number.", None)
    eos_id: int | None = option("This id ends each sequence of two prefixes.", None)
    pad_id: int | None = option(
        "This id fills up padded batches of two prefixes; without it, --eos-id does.", None
    )
    tokenizer: Path | None = option(
        "This SentencePiece .model made the ids of two prefixes; it tells vocabulary and EOS.",
        None,
    )
    layout: Literal["fairseq", "megatron"] | None = option(
        "Two prefixes have this layout; without it, the size of the index tells which.", None
    )

    def open(self, paths: Sequence[Path]) -> "Corpus":
        """The corpus of `--corpus`."""
        if len(paths) > 2:
            raise PycatError(
                f"--corpus names {len(paths)} paths; expected a folder, or the prefixes of source "
                "and target"
            )
        return pycat.open_corpus(
            paths[0] if len(paths) == 1 else (paths[0], paths[1]), **vars(self)
        )


def open_group() -> OpenOptions:
    """The group of `OpenOptions`."""
    grouped: OpenOptions = group(
        "corpora that pycat did not make",
        "How to open a folder made by fairseq-preprocess, or two prefixes of MMIDIDX files.",
    )
    return grouped


CORPUS_HELP = (
    "Read the corpus in this folder, made by tokenize or by fairseq-preprocess; or of two prefixes "
    "of MMIDIDX files, source and target."
)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure what rules and noise filter read of each pair of a corpus.

    Neither a proxy nor scores are needed. The verbs select, explain and report find a folder named
    measures beside that of the scores or of the corpus.
    """

    out: Path = out_option(f"Make this folder. {_MADE_ONCE}")
    overwrite: bool = overwrite_option()
    corpus: list[Path] = option(CORPUS_HELP, metavar="FOLDER")
    on: str = on_option()
    num_workers: int | None = num_workers_option()
    stage: Path | None = stage_option("the tokens")
    opening: OpenOptions = open_group()

    def run(self) -> None:
        """Measure, and print how many pairs each rule hits."""
        from pycat.filters.loud_rules import loud_rules_in_words
        from pycat.filters.rules import hits_in_words

        measures = pycat.measure(
            self.opening.open(self.corpus),
            out=self.out,
            overwrite=self.overwrite,
            on=self.on,
            num_workers=self.num_workers,
            stage=self.stage,
        )
        kept, hits = measures.apply()
        without = measures.manifest["without"]
        if "rules" not in without:
            print(
                f"{measures.path}: {len(measures):,} pairs, of which the default rules drop "
                f"{len(kept) - kept.sum():,} (each may break several: {hits_in_words(hits)})"
            )
        else:
            print(f"{measures.path}: {len(measures):,} pairs")
        for why in dict.fromkeys(without.values()):
            missing = [rule for rule, reason in without.items() if reason == why]
            print(f"  not measured: {', '.join(missing)}; {why}")
        for line in loud_rules_in_words(measures.manifest["loud_rules"], len(measures)):
            print(line)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How `train` trains."""

    preset: Literal["auto", "mini", "tiny", "base"] = option(
        f"Train a model of this size; {_PRESETS}; auto is mini below 100,000 pairs, else tiny.",
        "auto",
    )
    checkpoints: int = option("Keep this many checkpoints, the last one at the end of training.", 5)
    checkpoint_schedule: Literal["linear", "log", "loss"] = option(
        "Keep checkpoints after even steps, after doubling ones, or where the training loss has "
        "fallen by even steps behind the warm-up.",
        "linear",
    )
    checkpoint_steps: Sequence[int] | None = option(
        "Keep checkpoints after these updates instead, and end training after the last.",
        None,
        type=steps,
        metavar="N,N,…",
    )
    dynamic: float | None = option(
        "Train each epoch on this share of the corpus, above 0 and below 1, chosen by the losses "
        "of the last one.",
        None,
    )
    dynamic_by: Literal["loss", "infobatch", "random"] = option(
        "Of dynamic pruning, leave out what has the lowest loss; a random part of what has a low "
        "one, with more weight on the rest of it; or a random part of all.",
        "loss",
    )
    dynamic_unit: Literal["pairs", "spans"] = option(
        "Leave out whole pairs, or spans of at most 16 target tokens.", "pairs"
    )
    epochs: float = option(
        "Pass over the corpus, or that share of it, this many times, but make at most 4,000 "
        "updates.",
        3.0,
    )
    updates: int | None = option("Make this many updates, instead of epochs.", None)
    batch_tokens: int | None = option(
        "Put at most this many tokens into either side of a batch, of all ranks together; without "
        "it, 1,024 for mini, 2,048 for the others.",
        None,
    )
    optimizer: Literal["adam", "muon"] = option(
        "Update all weights by Adam, or on a CPU the matrices of layers by Muon, with five times "
        "the rate.",
        "adam",
    )
    learning_rate: float | None = option(
        "Let Adam's rate rise to this; without it, to that of the preset.", None
    )
    rate_schedule: Literal["wsd", "inverse_sqrt"] = option(
        "After its peak, hold the rate and let it fall over the last third (wsd), or let it fall "
        "with the inverse square root of the update.",
        "inverse_sqrt",
    )
    warmup: int | None = option(
        "Let the rate rise for this many updates; without it, a tenth of all, at most 4000.", None
    )
    label_smoothing: float = option("Give this probability to other pieces than the target.", 0.1)
    dropout: float = option("Drop activations with this probability.", 0.1)
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "Multiply matrices in this type; auto is bfloat16 if the device has it.", "auto"
    )


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a small translation model on a corpus, keeping checkpoints along the way.

    Under "torchrun -m pycat train" all ranks train one model, each on its share of every batch.
    """

    out: Path = out_option(f"Make this folder. {_MADE_ONCE}")
    overwrite: bool = overwrite_option()
    corpus: list[Path] = option(CORPUS_HELP, metavar="FOLDER")
    how: TrainOptions = group()
    seed: int = option("Seed weights, batch order and dropout with this number.", 0)
    device: str = device_option()
    stage: Path | None = stage_option("the corpus")
    opening: OpenOptions = open_group()

    def run(self) -> None:
        """Train, and print checkpoints with their losses."""
        run = pycat.train(
            self.opening.open(self.corpus),
            **vars(self.how),
            out=self.out,
            overwrite=self.overwrite,
            seed=self.seed,
            device=self.device,
            stage=self.stage,
        )
        if launch().rank > 0:  # rank 0 prints
            return
        parameters = run.manifest["parameters"]
        print(f"{run.path}: {parameters:,} parameters; checkpoint, mean loss since:")
        for path, loss in zip(run.checkpoints, run.losses, strict=True):
            print(f"  {path}  {loss:.3f} nats/token")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Add a column of another model's scores: LaBSE, LASER, COMET-QE, COMETKiwi or USE."""

    scores: Path = option("Add to the table in this folder, made by score.", metavar="FOLDER")
    model: Literal["labse", "laser", "comet-qe", "cometkiwi", "use"] = option(
        "Score with this model."
    )
    name: str | None = option(
        "Give the column this name; without it, that of the model.", None, metavar="NAME"
    )
    weights: str | None = option(
        "Load this folder, file or name in place of the model's own weights.", None, metavar="NAME"
    )
    batch_size: int = option("Let the model run this many sentences at once.", 32)
    device: str = device_option()

    def run(self) -> None:
        """Score, and print the median."""
        import numpy as np

        name = pycat.add_baseline(
            self.scores,
            self.model,
            name=self.name,
            weights=self.weights,
            batch_size=self.batch_size,
            device=self.device,
        )
        values = pycat.ScoreTable.open(self.scores).column(name)
        print(
            f"{self.scores}: column {name}, {len(values):,} pairs, median {np.median(values):.4g}; "
            f"rank by it with --by {name}"
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How `evaluate` trains and compares."""

    arms: Sequence[str] = option(
        "Train these arms: full, random, random-lengths, selected, oracle, or folders of other "
        "selections.",
        ("full", "random", "selected"),
        type=str,
        nargs="+",
        metavar="ARM",
    )
    seeds: int = option("Train so many models of each arm; random arms draw anew for each.", 2)
    passes: float | None = option(
        "Pass over the selection's target tokens this many times; without it, 8, or 4 for a check "
        "of prune.",
        None,
    )
    no_curve: bool = option(
        "Do not train on smaller random parts, which effective data is read off.", False
    )
    labels: Path | None = option(
        "Read a label for each line of the text from this file; oracle draws from those that say "
        "clean.",
        None,
    )
    preset: Literal["auto", "mini", "tiny", "base"] = option(
        f"Train models of this size; {_PRESETS}.", "auto"
    )
    batch_tokens: int | None = option(
        "Put at most this many tokens into either side of a batch; without it, 1,024 for mini, "
        "2,048 for the others.",
        None,
    )
    learning_rate: float | None = option(
        "Let Adam's rate rise to this; without it, to that of the preset.", None
    )
    dropout: float = option("Drop activations with this probability.", 0.1)
    translate: Sequence[str] = option(
        "Translate the test sets by these arms too, for BLEU and chrF.",
        (),
        type=str,
        nargs="+",
        metavar="ARM",
    )
    beam: int = option("Keep this many hypotheses in beam search; 1 is greedy.", 5)
    length_penalty: float = option("Rank hypotheses by log p divided by length to this power.", 1.0)
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "Multiply matrices in this type; auto is bfloat16 if the device has it.", "auto"
    )
    num_workers: int | None = option(
        "On a CPU, train so many models at a time; without it, one on each core.", None
    )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `pycat.evaluate`."""
        given = dict(vars(self))
        given["curve"] = not given.pop("no_curve")
        if given["passes"] is None:
            del given["passes"]
        return given


def print_evaluation(evaluation: "Evaluation", page: Path | None = None) -> None:
    """Print a table for each test set, BLEU and chrF, where its page is, and what is in doubt."""
    width = max(map(len, evaluation.arms))
    # Target tokens are shown only where the arms differ in them.
    tokens = {name: f" {arm['target_tokens']:>13,}" for name, arm in evaluation.arms.items()}
    differ = len({*tokens.values()}) > 1
    tests = list(next(iter(evaluation.arms.values()))["tests"])
    for test in tests:
        print(f"\n{test}: held-out loss in nats a target token")
        head = f"{'arm':<{width}} {'pairs':>10}{' target tokens' if differ else ''} {'loss':>8}"
        print(f"  {head}  worth of random text   than random")
        for name, arm in evaluation.arms.items():
            result = arm["tests"][test]
            worth = evaluation.worth_text(name, test)
            verdict = result.get("verdict", "")
            amount = f"{arm['pairs']:>10,}{tokens[name] if differ else ''}"
            figures = f"{amount} {result['nll']:>8.4f}"
            print(f"  {name:<{width}} {figures}  {worth:<21}  {verdict}".rstrip())
    for row in evaluation.rows:
        print(f"{row.arm}, {row.test}: BLEU {row.bleu:.2f}, chrF {row.chrf:.2f}")
    if evaluation.rows:
        row = evaluation.rows[0]
        print(f"BLEU {row.bleu_signature}\nchrF {row.chrf_signature}")
    if page is not None:
        print(f"page: {page}")
    for warning in evaluation.warnings:
        print(f"note: {warning}")


@dataclass(frozen=True, kw_only=True)
class MegatronIndex:
    """Write beside a corpus what Megatron needs to open it: src.mcore.idx and tgt.mcore.idx."""

    corpus: list[Path] = option(CORPUS_HELP, metavar="FOLDER")
    opening: OpenOptions = open_group()

    def run(self) -> None:
        """Write, and print the names."""
        for prefix in self.opening.open(self.corpus).write_megatron_index():
            print(f"{prefix}.idx, {prefix}.bin")
