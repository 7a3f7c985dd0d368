"""Time causal models in `pycat.score`'s forward pass against Hugging Face and CTranslate2.

python bench/bench_causal.py [--shape gpt2|llama] [--lines N] [--checkpoints K] [--rounds N]
                             [--layers N] [--prompt N] [--ours] [--json FILE]

One thread, processor time, in turns. Each line follows one token, as monolingual text does, or with
--prompt so many tokens that all lines share.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from copy import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import (
    processor_flags,
    processor_name,
    ratio,
    spread,
    time_in_turn,
    torch_multiplies_bfloat16,
)
from numpy.typing import NDArray
from proxies import EOS_ID, PAD_ID, translation_lengths, write_corpus
from scoring_variants import TOLERANCE, TUNED, relative
from torch.nn.utils.rnn import pad_sequence

from pycat import _core
from pycat.data.corpus import Corpus
from pycat.scoring.adapter import Adapter
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.loading import load_adapters
from pycat.scoring.sums import batch_sums, make_forward
from pycat.scoring.truncation import KeptLengths

# 125 million weights, the output layer tied to the embedding.
_IDS = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, **_IDS},
    ),
    "llama": (
        "LlamaForCausalLM",
        {
            "vocab_size": 49_152,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            **_IDS,
        },
    ),
}
BUDGETS = (512, 1024, 2048)  # tokens of a batch, of which each rival gets its best
SQUARE = 2048
UNSHARED = ", nothing shared"

Nll = NDArray[np.float64]


def make_checkpoints(folder: Path, shape: str, count: int, layers: int | None) -> list[Path]:
    """Random models, and a tokenizer of words that are ids, which CTranslate2 wants."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers.logging.set_verbosity_error()
    name, settings = SHAPES[shape]
    if layers is not None:
        settings = {**settings, "n_layer" if shape == "gpt2" else "num_hidden_layers": layers}
    kind = getattr(transformers, name)
    config = kind.config_class(**settings)
    rules = Tokenizer(models.WordLevel({str(i): i for i in range(config.vocab_size)}, "0"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules, bos_token=str(EOS_ID), eos_token=str(EOS_ID), unk_token="0"
    )
    paths = []
    for k in range(count):
        torch.manual_seed(k)
        path = folder / f"checkpoint-{k + 1}"
        kind(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        paths.append(path)
    return paths


def forward_flops(model: Any, tgt: NDArray[Any], prompt: int, vocab_size: int) -> float:
    """Operations in the matrix products of one pass: two a weight and token, and attention.

    A prompt of so many tokens is computed for each line; it takes no part in the output layer.
    """
    config, t = model.config, tgt.astype(np.float64) + prompt - 1
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    weights = sum(
        value.numel()
        for value in model.parameters()
        if value.dim() == 2 and id(value) not in embeddings
    )
    attention = config.num_hidden_layers * config.hidden_size * t * (t + 1)
    return float(2 * (weights * t + vocab_size * config.hidden_size * tgt + attention).sum())


class Ours:
    """The forward pass that `pycat.score` makes of the checkpoints, in a type."""

    def __init__(self, corpus: Corpus, adapters: list[Adapter], dtype: str) -> None:
        self._corpus, self._adapters = corpus, adapters
        self._lengths = KeptLengths.of(corpus, adapters, "refuse")
        start = time.process_time()
        self._forward = make_forward(
            adapters, self._lengths, torch.device("cpu"), getattr(torch, dtype), stats="all"
        )
        self.prepare_s = time.process_time() - start
        assert isinstance(self._forward, CpuForward)

    def of(self, corpus: Corpus) -> "Ours":
        """The same checkpoints on other lines of the same lengths."""
        other = copy(self)
        other._corpus = corpus
        return other

    def __call__(self) -> Nll:
        """Nll (N, K)."""
        nll = np.empty((len(self._corpus), len(self._adapters)))
        for rows, scored in batch_sums(
            self._corpus, self._adapters, self._lengths, self._forward, None, lambda _: None
        ):
            nll[rows] = scored.sums[0].T
        return nll


class HuggingFace:
    """A model of transformers with SDPA, on lines sorted by length, padded, with all logits."""

    def __init__(self, corpus: Corpus, model: Any, budget: int) -> None:
        self._model, self._budget = model, budget
        self._rows = [torch.from_numpy(corpus[i][1].astype(np.int64)) for i in range(len(corpus))]
        self._prompt = torch.from_numpy(corpus[0][0].astype(np.int64))

    @torch.inference_mode()
    def __call__(self) -> Nll:
        """Nll (N,)."""
        nll = np.empty(len(self._rows))
        order = np.argsort([len(row) for row in self._rows], kind="stable")
        first, before = 0, len(self._prompt) - 1
        for i in range(1, len(order) + 1):
            longest = before + len(self._rows[order[min(i, len(order) - 1)]])
            if i < len(order) and longest * (i + 1 - first) <= self._budget:
                continue
            rows, first = order[first:i], i
            tgt = pad_sequence([self._rows[row] for row in rows], True, PAD_ID)
            ids = torch.cat([self._prompt.expand(len(tgt), -1), tgt[:, :-1]], dim=1)
            logits = self._model(input_ids=ids, use_cache=False).logits[:, before:]
            tokens = F.cross_entropy(
                logits.float().flatten(0, 1), tgt.flatten(), reduction="none", ignore_index=PAD_ID
            )
            nll[rows] = tokens.view(tgt.shape).double().sum(1).numpy()
        return nll


class CTranslate2:
    """`Generator.score_batch` of one converted checkpoint."""

    def __init__(self, corpus: Corpus, folder: Path, dtype: str, budget: int) -> None:
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(folder), compute_type=dtype, inter_threads=1, intra_threads=1
        )
        self._budget = budget
        pairs = [corpus[i] for i in range(len(corpus))]
        self._tokens = [[str(token) for side in pair for token in side] for pair in pairs]
        self._before = len(pairs[0][0]) - 1

    def __call__(self) -> Nll:
        """Nll (N,)."""
        found = self._generator.score_batch(
            self._tokens, max_batch_size=self._budget, batch_type="tokens"
        )
        return np.array([-sum(result.log_probs[self._before :]) for result in found])


def converted(path: Path, out: Path) -> Path | None:
    """The checkpoint as CTranslate2's, None where that is not installed."""
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        print("left out: CTranslate2 (not installed)")
        return None
    return Path(TransformersConverter(str(path)).convert(str(out)))


def best(made: Callable[[int], Callable[[], Nll]]) -> tuple[Callable[[], Nll], int]:
    """A rival with the budget that it is fastest with."""
    tried = []
    for budget in BUDGETS:
        work = made(budget)
        work()
        start = time.process_time()
        work()
        tried.append((time.process_time() - start, budget, work))
    _, budget, work = min(tried, key=lambda found: found[0])
    return work, budget


def product(dtype: str) -> Callable[[], object]:
    a = torch.randn(SQUARE, SQUARE).to(getattr(torch, dtype))
    return lambda: torch.mm(a, a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--lines", type=int, default=64)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="of the model, in place of 12")
    parser.add_argument("--prompt", type=int, default=1, help="tokens that all lines share")
    parser.add_argument("--ours", action="store_true", help="without rivals")
    parser.add_argument("--json", type=Path, help="the result, as on the last line")
    parser.add_argument("--quick", action="store_true", help="16 lines, 1 layer, 1 round")
    options = parser.parse_args()
    if options.quick:
        options.lines, options.layers, options.rounds = 16, 1, 1
    if "MALLOC_ARENA_MAX" not in os.environ:  # what CTranslate2 is fastest with, for all
        avx512 = {"CT2_FORCE_CPU_ISA": "AVX512"} if "avx512f" in processor_flags() else {}
        environment = {**os.environ, **TUNED, **avx512, "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        result = run(Path(name), options)
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    print(json.dumps(result))


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    paths = make_checkpoints(folder, options.shape, options.checkpoints, options.layers)
    lengths = translation_lengths(options.lines)
    vocab_size = SHAPES[options.shape][1]["vocab_size"]
    prompt = np.random.default_rng(1).choice(vocab_size, options.prompt)
    prompt[-1] = EOS_ID
    prompts = np.tile(prompt.astype(np.int32), (options.lines, 1))
    corpus = write_corpus(folder / "text", lengths, vocab_size, src=prompts)
    adapters = load_adapters(paths, corpus)
    model: Any = adapters[0].module

    dtypes = ["float32"]
    if _core.cpu_isa().endswith("_bf16"):
        dtypes.append("bfloat16")
    if _core.cpu_isa() not in ("portable", "neon"):
        dtypes.append("int8")
    ours = {f"pycat {dtype}": Ours(corpus, adapters, dtype) for dtype in dtypes}
    # Prompts that differ in their first token, which leaves nothing to share.
    unshared = {}
    if options.prompt > 1:
        prompts[:, 0] = np.arange(options.lines)
        unlike = write_corpus(folder / "unlike", lengths, vocab_size, src=prompts)
        unshared = {f"{name}{UNSHARED}": work.of(unlike) for name, work in ours.items()}
    # Rivals do the same for each checkpoint, and are timed on one.
    rivals: dict[str, tuple[Callable[[], Nll], int]] = {}
    if not options.ours:
        rivals["Hugging Face sorted float32"] = best(lambda n: HuggingFace(corpus, model, n))
    products = {"float32": product("float32")}
    has_bfloat16 = torch_multiplies_bfloat16("cpu")
    if has_bfloat16:
        products["bfloat16"] = product("bfloat16")
    if has_bfloat16 and not options.ours:
        small = type(model)(model.config).eval()
        small.load_state_dict(model.state_dict())
        small = small.to(torch.bfloat16)
        rivals["Hugging Face sorted bfloat16"] = best(lambda n: HuggingFace(corpus, small, n))
    if not options.ours and (theirs := converted(paths[0], folder / "ct2")) is not None:
        for dtype in ("float32", "int8"):
            rivals[f"CTranslate2 {dtype}"] = best(
                lambda n, dtype=dtype: CTranslate2(corpus, theirs, dtype, n)  # type: ignore[misc]
            )
    exact = ours["pycat float32"]()
    off = {name: relative(work()[:, :1], exact) for name, work in ours.items()}
    off |= {name: relative(work()[:, None], exact) for name, (work, _) in rivals.items()}
    for name, errors in off.items():
        if "float32" in name and not errors.max() <= TOLERANCE:
            sys.exit(f"{name}: the nll of a line is {errors.max():.1e} off")

    works: dict[str, Callable[[], object]] = {
        **ours,
        **unshared,
        **{name: work for name, (work, _) in rivals.items()},
        **{f"product {dtype}": work for dtype, work in products.items()},
    }
    seconds = {name: spent[1] for name, spent in time_in_turn(works, options.rounds).items()}
    for name in rivals:
        seconds[name] = seconds[name] * options.checkpoints
    return report(options, corpus, model, ours, rivals, seconds, off)


def report(
    options: argparse.Namespace,
    corpus: Corpus,
    model: Any,
    ours: dict[str, Ours],
    rivals: dict[str, tuple[Callable[[], Nll], int]],
    seconds: dict[str, Nll],
    off: dict[str, Nll],
) -> dict[str, Any]:
    """Print the table, and return what the last line says."""
    tokens = int(corpus.num_tokens.sum()) * options.checkpoints
    vocab_size = SHAPES[options.shape][1]["vocab_size"]
    flops = options.checkpoints * forward_flops(
        model, corpus.num_tokens, options.prompt, vocab_size
    )
    rates = {
        name.removeprefix("product "): 2 * SQUARE**3 / float(np.median(spent))
        for name, spent in seconds.items()
        if name.startswith("product")
    }
    floors = {dtype: flops / rate for dtype, rate in rates.items()}
    print(
        f"{processor_name()}, one thread, processor time; {options.shape}, "
        f"{model.config.num_hidden_layers} layers; {options.lines} lines behind {options.prompt} "
        f"tokens, {options.checkpoints} checkpoints, {tokens:,} tokens in all; "
        f"medians of {options.rounds} rounds\n"
        + "large products at "
        + ", ".join(f"{rate / 1e9:.0f} GFLOP/s ({dtype})" for dtype, rate in rates.items())
        + f"; the forward's are {flops / 1e9:.0f} GFLOP\n"
        f"{'':30}{'seconds':>9}{'p10':>8}{'p90':>8}{'tokens/s':>10}{'x sorted':>10}"
        + "".join(f"{f'of {dtype}':>12}" for dtype in floors)
        + f"{'max off':>9}"
    )
    base = seconds.get("Hugging Face sorted float32", np.array(np.nan))
    medians = {name: float(np.median(seconds[name])) for name in off}
    for name, errors in off.items():
        p10, median, p90 = spread(seconds[name])
        budget = f"  {rivals[name][1]} tokens" if name in rivals else ""
        print(
            f"{name:30}{median:9.3f}{p10:8.3f}{p90:8.3f}{tokens / median:10,.0f}"
            f"{ratio(base, seconds[name]):10.2f}"
            + "".join(f"{floor / median:12.3f}" for floor in floors.values())
            + f"{errors.max():9.1e}{budget}"
        )
    over_unshared = {
        name: ratio(seconds[name + UNSHARED], seconds[name])
        for name in ours
        if name + UNSHARED in seconds
    }
    for name, over in over_unshared.items():
        median = float(np.median(seconds[name + UNSHARED]))
        print(
            f"{name} of prompts that share nothing: {median:.3f} s, {tokens / median:,.0f} "
            f"tokens/s, {over} times as long"
        )
    prepared = {name: round(work.prepare_s, 3) for name, work in ours.items()}
    print(f"before that, converting, verifying and packing weights: {prepared} s")
    return {
        "bench": "causal",
        "shape": options.shape,
        "lines": options.lines,
        "prompt": options.prompt,
        "checkpoints": options.checkpoints,
        "seconds": {name: round(median, 4) for name, median in medians.items()},
        "over_hf_sorted": {name: ratio(base, seconds[name]) for name in ours if not options.ours},
        "over_unshared": over_unshared,
        **{
            f"over_ct2_{dtype}": ratio(seconds[f"CTranslate2 {dtype}"], seconds[f"pycat {dtype}"])
            for dtype in ("float32", "int8")
            if f"CTranslate2 {dtype}" in rivals and f"pycat {dtype}" in ours
        },
        "prepare_s": prepared,
        "gflop_per_s": {dtype: round(rate / 1e9) for dtype, rate in rates.items()},
        "machine": processor_name(),
        "versions": {name: version(name) for name in ("pycat-nmt", "torch", "transformers")},
    }


if __name__ == "__main__":
    main()
