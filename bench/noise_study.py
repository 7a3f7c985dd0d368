"""What separates noise from hard pairs, where the truth is known: the evidence for the recipe.

    python bench/noise_study.py --tsv TEXT.tsv.gz --work FOLDER [--kinds given other held-out]

TEXT has source, target, domain and label, "clean" or the kind of noise; without labels all counts
as clean. With "given" its first pairs are taken as they are; with "other" and "held-out", clean
pairs are spoilt in further ways. For each a small proxy is trained, once a seed, and every signal
of the scoring pass is asked how well it tells noise from clean pairs; `--seeds` without a value
shows what the rules drop and trains nothing. Finished work in the folder is not repeated. Last
line: JSON.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import processor_name
from held_out_kinds import held_out_kinds
from noise_kinds import OTHER_KINDS, Pair, spoil
from numpy.typing import NDArray

import pycat
from pycat.data.parallel_text import ParallelText
from pycat.errors import PycatError
from pycat.filters.noise import late_mean, surprise
from pycat.proxy.run import Run
from pycat.proxy.transformer import PRESETS
from pycat.runtime.output import replacing

PROXY = {"d_model": 128, "num_heads": 4, "d_ff": 512, "num_layers": 2}
STEPS = [60, 120, 200, 300, 450]
KEEP = 0.5
# Bounds the memory of counting which words stand together.
GLOSSARY_PAIRS = 20_000

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tsv", type=Path, required=True, help="source, target, domain[, label]")
    parser.add_argument("--work", type=Path, required=True, help="folder for corpora and proxies")
    parser.add_argument(
        "--kinds", nargs="+", default=["given", "other"], choices=["given", "other", "held-out"]
    )
    parser.add_argument("--languages", type=comma_separated, default=("en", "de"), help="en,de")
    parser.add_argument("--without-domains", type=comma_separated, default=(), help="news,bible")
    parser.add_argument(
        "--third-language",
        type=Path,
        help="a text of the same form: held-out noise has its targets as sources too",
    )
    parser.add_argument("--pairs", type=int, default=24_000)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1], help="of the proxy")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="checkpoints after")
    parser.add_argument(
        "--no-source-gain", action="store_true", help="leave out the scores beside another source"
    )
    options = parser.parse_args()
    try:
        pairs = labelled(options.tsv, options.without_domains)
        third = labelled(options.third_language) if options.third_language else []
    except (ValueError, PycatError) as error:
        parser.error(str(error))
    if "given" in options.kinds and all(pair.label == "clean" for pair in pairs):
        parser.error(f"{options.tsv}: no pair is labelled as noise; use --kinds other held-out")
    PRESETS["study"] = PROXY
    results = {
        which: study(which, pairs, third, options.work / which, options) for which in options.kinds
    }
    print(
        json.dumps(
            {
                "results": results,
                "languages": options.languages,
                "without_domains": options.without_domains,
                "pairs": options.pairs,
                "seeds": options.seeds,
                "vocab_size": options.vocab_size,
                "steps": options.steps,
                "keep": KEEP,
                "machine": processor_name(),
                "torch": torch.__version__,
                "pycat": pycat.__version__,
            }
        )
    )


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def labelled(path: Path, without_domains: Sequence[str] = ()) -> list[Pair]:
    """All pairs of the file that are of other domains; those that have no label count as clean.

    Raises:
        ValueError: a line has too few columns, or the file has no such domain.
    """
    pairs, domains = [], set()
    for number, (raw,) in enumerate(ParallelText((path,)).rows(), start=1):
        row = raw.decode().rstrip("\n").split("\t")
        if len(row) < 3:
            raise ValueError(
                f"{path}, line {number}: {len(row)} columns; expected source, target, domain and, "
                "where it is known, label"
            )
        domains.add(row[2])
        if row[2] not in without_domains:
            pairs.append(Pair(row[0], row[1], row[3] if len(row) > 3 else "clean"))
    if missing := sorted(set(without_domains) - domains):
        raise ValueError(
            f"{path}: no pair is of the domain {', '.join(missing)}; "
            f"found {', '.join(sorted(domains))}"
        )
    return pairs


def study(
    which: str, pairs: list[Pair], third: list[Pair], work: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Print the tables of one corpus; the share of clean and noise that each recipe keeps."""
    count: int = options.pairs
    has_labels = any(pair.label != "clean" for pair in pairs)
    if which == "given":
        pairs = pairs[:count]
    else:
        # The pairs come from the end of the file, so that a large file has none of them in "given".
        rest = [pair for pair in pairs[count:] + pairs[:count] if pair.label == "clean"]
        ways = OTHER_KINDS
        if which == "held-out":
            known = rest[count : count + GLOSSARY_PAIRS]
            ways = held_out_kinds(known, [pair.tgt for pair in third])
        pairs = spoil(rest, count, 0.3, kinds=ways)
    corpus = _corpus(pairs, work, options.languages, options.vocab_size)
    measures = pycat.measure(corpus, out=work / "measures")
    labels = _labels(pairs, corpus, measures)
    tables, signals = [], []
    for seed in options.seeds:
        run = pycat.train(
            corpus,
            out=work / f"proxy-{seed}",
            preset="study",
            checkpoint_steps=options.steps,
            batch_tokens=2048,
            learning_rate=1e-3,
            seed=seed,
            dtype="float32",
        )
        table = pycat.score(corpus, run.checkpoints, out=work / f"scores-{seed}")
        pycat.add_clusters(table, run.checkpoints[-1])
        tables.append(table)
        shuffled = None if options.no_source_gain else _nll_shuffled(corpus, run, work, seed)
        signals.append(_signals(table, shuffled, measures))
    kinds = ["clean", *sorted(set(labels.tolist()) - {"clean"})]
    print(f"\n### {which}: {len(labels):,} pairs, {np.mean(labels != 'clean'):.1%} noise")
    if not has_labels:
        print(f"\n{options.tsv.name} has no labels: noise of its own counts as clean here.")
    counts = ", ".join(f"{kind} {(labels == kind).sum():,}" for kind in kinds)
    print(f"\nPairs ({'-'.join(options.languages)}) of each kind: {counts}.\n")
    rules = _print_rules(measures, labels, kinds)
    if not tables:
        return {"any rule": rules}
    _print_signals(signals, labels, kinds, corpus)
    _print_guard(signals, labels, kinds, measures)
    return {"any rule": rules, **_print_recipes(tables, labels, kinds, corpus)}


def _corpus(
    pairs: list[Pair], work: Path, languages: tuple[str, str], vocab_size: int
) -> pycat.Corpus:
    work.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{pair.src}\t{pair.tgt}\t{pair.label}\n" for pair in pairs)
    tsv = work / "pairs.tsv"
    if not tsv.is_file() or tsv.read_bytes() != text.encode():
        with replacing(tsv) as temporary:
            temporary.write_bytes(text.encode())
    return pycat.tokenize(tsv=tsv, out=work / "corpus", languages=languages, vocab_size=vocab_size)


def _labels(pairs: list[Pair], corpus: pycat.Corpus, measures: pycat.Measures) -> NDArray[np.str_]:
    """Label (N,) of each pair of the corpus.

    Of equal pairs the first is clean and the others are duplicates, whichever was called so: their
    originals may stand behind them in the file, or not in this part of it at all.
    """
    labels = np.array([pair.label for pair in pairs])[corpus.lines]
    first = measures.column("pair_group") == np.arange(len(labels))
    either = np.isin(labels, ("clean", "duplicate"))
    named: NDArray[np.str_] = np.where(either, np.where(first, "clean", "duplicate"), labels)
    return named


def _nll_shuffled(corpus: pycat.Corpus, run: Run, work: Path, seed: int) -> Floats:
    """Nll (N,) of each target at the last checkpoint, beside a source of like length."""
    sentences = corpus.sentences(corpus.pair_ids.tolist())
    order = np.lexsort((corpus.num_src_tokens, corpus.num_tokens))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    tsv = work / "shuffled.tsv"
    text = "".join(
        f"{sentences[i][0]}\t{tgt}\n" for i, (_, tgt) in zip(other, sentences, strict=True)
    )
    with replacing(tsv) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")
    shuffled = pycat.tokenize(
        tsv=tsv,
        out=work / "shuffled",
        tokenizer=corpus.path / "tokenizer.model",
        languages=corpus.languages,
    )
    scores = pycat.score(shuffled, run.checkpoints[-2:], out=work / f"shuffled-{seed}", stats="nll")
    return scores.nll[:, -1]


def _signals(
    table: pycat.ScoreTable, nll_shuffled: Floats | None, measures: pycat.Measures
) -> dict[str, Floats]:
    """What may tell noise: (N,) each, the way round that its criterion keeps the highest."""
    num_tokens, ppl = table.num_tokens, table.ppl
    sums = {name: table.column(name) for name in table.statistics}
    mean = {name: values / num_tokens[:, None] for name, values in sums.items()}
    late = {name: late_mean(values, num_tokens) for name, values in sums.items()}
    lexical = np.minimum(measures.column("lexical_tgt"), measures.column("lexical_src"))
    source_gain = {}
    if nll_shuffled is not None:
        source_gain["source gain"] = (nll_shuffled - sums["nll"][:, -1]) / num_tokens
    return {
        "cat_var": ppl.var(axis=1),
        "cat_diff": ppl[:, 0] - ppl[:, -1],
        "cat_var_log": mean["nll"].var(axis=1),
        "learnability": mean["nll"][:, 0] - mean["nll"][:, -1],
        "confidence": mean["p_target"].mean(axis=1),
        "-ppl": -ppl[:, -1],
        "-el2n": -late["el2n"],
        "-entropy": -late["entropy"],
        "margin": late["margin"],
        "-surprise": -surprise(sums["nll"], sums["entropy"], num_tokens),
        "-grad_norm": -late["grad_norm_bound"],
        **source_gain,
        "-abs(length_z)": -np.abs(measures.column("length_z")).astype(np.float64),
        "lexical": lexical.astype(np.float64),
        "-gap": -np.maximum(measures.column("gap_tgt"), measures.column("gap_src")),
        "order, target": measures.column("order_tgt"),
        "order, source": measures.column("order_src"),
        "ending": measures.column("ending"),
        "-noise_score": -measures.noise_score(table),
    }


def _highest(values: Floats, kept: Mask, count: int) -> Mask:
    """The `count` highest of those kept, or all of them."""
    rows = np.flatnonzero(kept)
    chosen = np.zeros(len(values), bool)
    chosen[rows[np.argsort(-values[rows], kind="stable")[:count]]] = True
    return chosen


def _auc(values: Floats, clean: Mask, noisy: Mask) -> float:
    """How often a clean pair's value is above a noisy one's; 0.5 tells nothing."""
    ordered, found = np.sort(values[noisy]), values[clean]
    below = np.searchsorted(ordered, found, "left") + np.searchsorted(ordered, found, "right")
    return float(below.mean() / 2 / len(ordered))


def _print_table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"{title}\n")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def _print_rules(
    measures: pycat.Measures, labels: NDArray[np.str_], kinds: list[str]
) -> dict[str, float]:
    """Returns the share of each kind that all rules together drop."""
    hits = measures.hits()
    hits["any rule"] = ~measures.apply()[0]
    _print_table(
        "Share of each kind that each rule drops:",
        ["rule", *kinds],
        [
            [name, *(f"{hit[labels == kind].mean():.3f}" for kind in kinds)]
            for name, hit in hits.items()
        ],
    )
    return {kind: round(float(hits["any rule"][labels == kind].mean()), 4) for kind in kinds}


def _print_signals(
    signals: list[dict[str, Floats]],
    labels: NDArray[np.str_],
    kinds: list[str],
    corpus: pycat.Corpus,
) -> None:
    clean = labels == "clean"
    noise = {kind: labels == kind for kind in kinds[1:]} | {"all noise": ~clean}
    everything = np.ones(len(labels), bool)
    aucs, shares = [], []
    for name in signals[0]:
        values = [some[name] for some in signals]
        aucs.append(
            [name, *(f"{np.mean([_auc(v, clean, m) for v in values]):.2f}" for m in noise.values())]
        )
        chosen = [_highest(v, everything, round(KEEP * len(labels))) for v in values]
        shares.append([name, *_shares(chosen, {"clean": clean, **noise}, corpus)])
    _print_table(
        "AUC of each criterion: how often it puts a clean pair above a noisy one.",
        ["criterion", *noise],
        aucs,
    )
    _print_table(
        f"Share of each kind kept at keep={KEEP} by each criterion alone, and the mean length of "
        "what is kept over that of all:",
        ["criterion", "clean", *noise, "length"],
        shares,
    )


def _shares(chosen: list[Mask], groups: Mapping[str, Mask], corpus: pycat.Corpus) -> list[str]:
    lengths = corpus.num_tokens
    return [
        *(f"{np.mean([c[group].mean() for c in chosen]):.2f}" for group in groups.values()),
        f"{np.mean([lengths[c].mean() for c in chosen]) / lengths.mean():.2f}",
    ]


def _print_guard(
    signals: list[dict[str, Floats]],
    labels: NDArray[np.str_],
    kinds: list[str],
    measures: pycat.Measures,
) -> None:
    rows = []
    count = round((1 - KEEP) / 2 * len(labels))
    for title, kept in (
        ("without rules", np.ones(len(labels), bool)),
        ("after rules", measures.apply()[0]),
    ):
        dropped = [_highest(-some["-noise_score"], kept, count) for some in signals]
        precision = np.mean([(labels[d] != "clean").mean() for d in dropped])
        recall = []
        for group in [*((labels == kind) for kind in kinds), labels != "clean"]:
            left = group & kept
            shares = [d[left].mean() for d in dropped] if left.sum() >= 20 else [np.nan]
            recall.append(f"{np.mean(shares):.2f}")
        rows.append([title, f"{dropped[0].sum():,}", f"{precision:.2f}", *recall])
    _print_table(
        "The guard alone: pairs dropped, how many of them are noise (precision), and the share of "
        "each kind it drops of those it sees (recall; nan below 20 pairs):",
        ["guard", "dropped", "precision", *kinds, "all noise"],
        rows,
    )


def _print_recipes(
    tables: list[pycat.ScoreTable],
    labels: NDArray[np.str_],
    kinds: list[str],
    corpus: pycat.Corpus,
) -> dict[str, dict[str, Any]]:
    groups = {kind: labels == kind for kind in kinds} | {"all noise": labels != "clean"}
    rows: list[list[str]] = []
    results: dict[str, dict[str, Any]] = {}
    recipes: dict[str, dict[str, Any]] = {
        how + name: {"by": name, "rules": rules, "guard": guard}
        for name in ("random", "cat_var", "cat_var_log", "learnability", "learnability+noise")
        for how, rules, guard in (
            ("", "none", 0.0),
            ("rules, ", "default", 0.0),
            ("guard, ", "none", 0.5),
            ("rules, guard, ", "default", 0.5),
        )
    }
    recipes["the default: rules, guard, learnability+noise in clusters"] = {}
    for name, recipe in recipes.items():
        kept = [pycat.select(table, keep=KEEP, **recipe) for table in tables]
        chosen = [np.isin(corpus.pair_ids, some.pair_ids) for some in kept]
        rows.append([name, *_shares(chosen, groups, corpus)])
        results[name] = {
            "clean": round(float(np.mean([c[labels == "clean"].mean() for c in chosen])), 4),
            "noise": round(float(np.mean([c[labels != "clean"].mean() for c in chosen])), 4),
            "noise_by_seed": [round(float(c[labels != "clean"].mean()), 4) for c in chosen],
            "length": float(rows[-1][-1]),
        }
    _print_table(
        f"Share of each kind kept at keep={KEEP} by whole recipes:",
        ["recipe", *groups, "length"],
        rows,
    )
    return results


if __name__ == "__main__":
    main()
