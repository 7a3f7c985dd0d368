"""What separates noise from hard pairs, where the truth is known: the evidence for the recipe.

    python bench/noise_study.py --tsv LABELLED.tsv.gz --work FOLDER [--kinds given other]

LABELLED has source, target, domain and label, "clean" or the kind of noise. With "given" its first
pairs are taken as they are; with "other", clean pairs are spoilt in further ways. For each a
small proxy is trained, twice, and every signal of the scoring pass is asked how well it tells noise
from clean pairs. Finished work in the folder is not repeated. Last line: JSON.
"""

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from noise_kinds import Pair, spoil
from numpy.typing import NDArray
from pycat.kernels.ops import cat_linear_cross_entropy, pack_weight
from pycat.kernels.reference import STAT_NAMES

import pycat
from pycat.adapters import load_adapters
from pycat.batches import Batch, length_mask
from pycat.lexical import lexical_scores
from pycat.model import PRESETS
from pycat.noise import guard, late_mean, noise_score, surprise
from pycat.output import replacing
from pycat.parallel_text import ParallelText
from pycat.rules import RuleTable, measure_rules
from pycat.training import Run

PRESETS["study"] = {"d_model": 128, "num_heads": 4, "d_ff": 512, "num_layers": 2}
STEPS = [60, 120, 200, 300, 450]
KEEP = 0.5

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tsv", type=Path, required=True, help="source, target, domain, label")
    parser.add_argument("--work", type=Path, required=True, help="folder for corpora and proxies")
    parser.add_argument("--kinds", nargs="+", default=["given", "other"], help="given, other")
    parser.add_argument("--pairs", type=int, default=24_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the proxy")
    options = parser.parse_args()
    results = {
        which: study(which, labelled(options.tsv), options.work / which, options)
        for which in options.kinds
    }
    print(
        json.dumps(
            {
                "results": results,
                "pairs": options.pairs,
                "seeds": options.seeds,
                "keep": KEEP,
                "machine": platform.machine(),
                "torch": torch.__version__,
                "pycat": pycat.__version__,
            }
        )
    )


def labelled(path: Path) -> list[Pair]:
    """All pairs of the file."""
    rows = (raw.decode().rstrip("\n").split("\t") for (raw,) in ParallelText((path,)).rows())
    return [Pair(src, tgt, label) for src, tgt, _, label, *_ in rows]


def study(
    which: str, pairs: list[Pair], work: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Print the tables of one corpus; the share of clean and noise that each recipe keeps."""
    count: int = options.pairs
    if which == "given":
        pairs = pairs[:count]
    else:
        # From the other end, as far as there are enough: other pairs than those of "given".
        rest = [pair for pair in pairs[count:] + pairs[:count] if pair.label == "clean"]
        pairs = spoil(rest, count, 0.3)
    corpus = _corpus(pairs, work)
    rules = measure_rules(corpus)
    labels = _labels(pairs, corpus, rules)
    columns: dict[int, Mapping[str, NDArray[Any]]] = {}
    for seed in options.seeds:
        run = pycat.train(
            corpus,
            out=work / f"proxy-{seed}",
            preset="study",
            checkpoint_steps=STEPS,
            seed=seed,
            dtype="float32",
        )
        columns[seed] = _columns(corpus, run, work / f"scores-{seed}.npz")
    lexical = _lexical(corpus, work / "lexical.npz")
    signals = [_signals(table, lexical, corpus, rules) for table in columns.values()]
    kinds = ["clean", *sorted(set(labels.tolist()) - {"clean"})]
    print(f"\n### {which}: {len(labels):,} pairs, {np.mean(labels != 'clean'):.1%} noise\n")
    _print_rules(rules, labels, kinds)
    _print_signals(signals, labels, kinds, corpus)
    _print_guard(signals, labels, kinds, corpus, rules)
    return _print_recipes(signals, labels, kinds, corpus, rules)


def _corpus(pairs: list[Pair], work: Path) -> pycat.Corpus:
    work.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{pair.src}\t{pair.tgt}\t{pair.label}\n" for pair in pairs)
    tsv = work / "pairs.tsv"
    if not tsv.is_file() or tsv.read_bytes() != text.encode():
        with replacing(tsv) as temporary:
            temporary.write_bytes(text.encode())
    return pycat.tokenize(tsv=tsv, out=work / "corpus", languages=("en", "de"))


def _labels(pairs: list[Pair], corpus: pycat.Corpus, rules: RuleTable) -> NDArray[np.str_]:
    """Label (N,) of each pair of the corpus.

    Of equal pairs the first is clean and the others are duplicates, whichever was called so: their
    originals may stand behind them in the file, or not in this part of it at all.
    """
    labels = np.array([pair.label for pair in pairs])[corpus.lines]
    first = rules.columns["pair_group"] == np.arange(len(labels))
    either = np.isin(labels, ("clean", "duplicate"))
    named: NDArray[np.str_] = np.where(either, np.where(first, "clean", "duplicate"), labels)
    return named


@torch.inference_mode()
def _columns(corpus: pycat.Corpus, run: Run, path: Path) -> Mapping[str, NDArray[Any]]:
    """Sums (N, K) of every statistic; nll_shuffled (N,): at the end, beside another's source."""
    if path.is_file():
        return dict(np.load(path))
    models = load_adapters(run.checkpoints, corpus)
    heads = [pack_weight(model.head.weight[None]) for model in models]
    table: dict[str, Floats] = {name: np.empty((len(corpus), len(models))) for name in STAT_NAMES}
    table["nll_shuffled"] = np.empty(len(corpus))
    for batch in corpus.batches(4096, padded=True):
        rows, boundaries = batch.pair_ids.numpy(), batch.tgt_cu_seqlens
        targets = batch.tgt_tokens[length_mask(batch.tgt_tokens, boundaries)]
        for k, (model, head) in enumerate(zip(models, heads, strict=True)):
            hidden = model.hidden(batch)[None]
            stats = cat_linear_cross_entropy(hidden, head, targets, boundaries, stats="all")
            for name in STAT_NAMES:
                table[name][rows, k] = getattr(stats, name)[0].numpy()
        hidden = models[-1].hidden(_rolled(batch))[None]
        stats = cat_linear_cross_entropy(hidden, heads[-1], targets, boundaries)
        table["nll_shuffled"][rows] = stats.nll[0].numpy()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **table)
    return table


def _rolled(batch: Batch) -> Batch:
    """Each target beside the source of its neighbour, which has about its own source's length."""
    lengths = batch.src_cu_seqlens.diff().roll(1)
    boundaries = torch.cat((torch.zeros(1, dtype=torch.int32), lengths.cumsum(0).int()))
    return batch._replace(src_tokens=batch.src_tokens.roll(1, 0), src_cu_seqlens=boundaries)


def _lexical(corpus: pycat.Corpus, path: Path) -> NDArray[np.float32]:
    """The lower (N,) of both directions' lexical scores."""
    if not path.is_file():
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, lower=np.minimum(*lexical_scores(corpus)))
    lower: NDArray[np.float32] = np.load(path)["lower"]
    return lower


def _signals(
    table: Mapping[str, NDArray[Any]],
    lexical: NDArray[np.float32],
    corpus: pycat.Corpus,
    rules: RuleTable,
) -> dict[str, Floats]:
    """What may tell noise: (N,) each, the way round that its criterion keeps the highest."""
    num_tokens = corpus.num_tokens.astype(np.float64)
    mean = {name: table[name] / num_tokens[:, None] for name in STAT_NAMES}
    ppl = np.exp(mean["nll"])
    unexpected = surprise(table["nll"], table["entropy"], corpus.num_tokens)
    el2n = late_mean(table["el2n"], corpus.num_tokens)
    return {
        "cat_var": ppl.var(axis=1),
        "cat_diff": ppl[:, 0] - ppl[:, -1],
        "cat_var_log": mean["nll"].var(axis=1),
        "learnability": mean["nll"][:, 0] - mean["nll"][:, -1],
        "confidence": mean["p_target"].mean(axis=1),
        "-ppl": -ppl[:, -1],
        "-el2n": -el2n,
        "-entropy": -late_mean(table["entropy"], corpus.num_tokens),
        "margin": late_mean(table["margin"], corpus.num_tokens),
        "-surprise": -unexpected,
        "-grad_norm": -late_mean(table["grad_norm_bound"], corpus.num_tokens),
        "source gain": (table["nll_shuffled"] - table["nll"][:, -1]) / num_tokens,
        "-abs(length_z)": -np.abs(rules.columns["length_z"]).astype(np.float64),
        "lexical": lexical.astype(np.float64),
        "-noise_score": -noise_score([unexpected, el2n, -lexical], corpus.num_tokens),
    }


def _guard_signals(signals: Mapping[str, Floats]) -> list[Floats]:
    return [-signals[name] for name in ("-surprise", "-el2n", "lexical")]


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


def _print_rules(rules: RuleTable, labels: NDArray[np.str_], kinds: list[str]) -> None:
    hits = rules.hits()
    hits["any rule"] = ~rules.apply()[0]
    _print_table(
        "Share of each kind that each rule drops:",
        ["rule", *kinds],
        [
            [name, *(f"{hit[labels == kind].mean():.3f}" for kind in kinds)]
            for name, hit in hits.items()
        ],
    )


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
    corpus: pycat.Corpus,
    rules: RuleTable,
) -> None:
    rows = []
    for title, kept in (
        ("without rules", np.ones(len(labels), bool)),
        ("after rules", rules.apply()[0]),
    ):
        dropped = [
            kept & ~guard(_guard_signals(some), corpus.num_tokens, kept, KEEP) for some in signals
        ]
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
    signals: list[dict[str, Floats]],
    labels: NDArray[np.str_],
    kinds: list[str],
    corpus: pycat.Corpus,
    rules: RuleTable,
) -> dict[str, dict[str, Any]]:
    everything, by_rules = np.ones(len(labels), bool), rules.apply()[0]
    rng = np.random.default_rng(0)
    signals = [{**some, "random": rng.random(len(labels))} for some in signals]
    groups = {kind: labels == kind for kind in kinds} | {"all noise": labels != "clean"}
    rows: list[list[str]] = []
    results: dict[str, dict[str, Any]] = {}
    for name in ("random", "cat_var", "cat_var_log", "learnability"):
        for how, kept, guarded in (
            ("", everything, False),
            ("rules, ", by_rules, False),
            ("guard, ", everything, True),
            ("rules, guard, ", by_rules, True),
        ):
            chosen = []
            for some in signals:
                left = kept
                if guarded:
                    left = guard(_guard_signals(some), corpus.num_tokens, kept, KEEP)
                chosen.append(_highest(some[name], left, round(KEEP * len(labels))))
            rows.append([how + name, *_shares(chosen, groups, corpus)])
            results[how + name] = {
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
