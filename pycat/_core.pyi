import os
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

class IndexedFile:
    """A memory-mapped MMIDIDX pair of files, `prefix.idx` and `prefix.bin`.

    The whole index is verified before anything is read: on opening, or on the first use if that
    takes longer than a millisecond.

    Args:
        prefix: path without `.idx` and `.bin`.
        vocab_size: token ids must be below it.
        layout: "fairseq" or "megatron"; None recognises the layout by the file's size.
        checksums: file of the `block_checksums` of `prefix.bin`, as uint64; each block is compared
            before a token of it is first read.

    Raises:
        CorpusError: a file is missing, damaged, of another format, or has changed. The message
            names the file, and what was found and expected.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        *,
        vocab_size: int | None = None,
        layout: str | None = None,
        checksums: str | os.PathLike[str] | None = None,
    ) -> None: ...
    def __len__(self) -> int:
        """Number of sequences N."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all sequences."""

    @property
    def dtype(self) -> str:
        """NumPy's name of the stored type, such as "uint16"."""

    @property
    def prefix(self) -> str: ...
    @property
    def layout(self) -> str:
        """Layout of the index: "fairseq" or "megatron"."""

    def lengths(self) -> NDArray[np.int32]:
        """Tokens in each sequence, int32 (N,): a read-only view, not aligned in memory."""

    def sequence(self, id: int) -> NDArray[Any]:
        """Tokens of one sequence, of type `dtype`: a read-only view of the mapped file.

        Raises:
            IndexError: `id` lies outside [0, N).
        """

    def verify(self, *, eos_id: int | None = None) -> None:
        """Check the index, every block and every token, on all cores.

        Args:
            eos_id: token that every sequence must end with; None for any token.

        Raises:
            CorpusError: a check fails, or a file has changed since it was opened.
        """

    def gather(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Pack the sequences `ids`, in that order, repeats allowed.

        Args:
            ids: int64 (B,), C-contiguous, each in [0, N).

        Returns:
            tokens int32 (T,) and cu_seqlens int32 (B+1,), which starts with 0 and ends with T.

        Raises:
            IndexError: an id lies outside [0, N).
            ValueError: T would be 2**31 or more; gather fewer ids a call.
            CorpusError: a token is negative, or not below `vocab_size` (2**31 if not given).
            TypeError: `ids` is not a C-contiguous int64 array.
        """

BLOCK_BYTES: int
"""Bytes of a block that `block_checksums` takes together."""

def block_checksums(path: str | os.PathLike[str]) -> NDArray[np.uint64]:
    """Checksum of each block of `BLOCK_BYTES` of a file, the last of which may be shorter.

    Damage within four aligned bytes is always found, other damage but for a chance of 2**-32. They
    are not cryptographic.
    """

class IndexedWriter:
    """Writes `prefix.bin` and `prefix.idx` in fairseq's layout, complete or not at all.

    Both files are written under temporary names, and appear on close(). As a context manager, the
    writer closes on success and aborts on an exception. A failed append() or close() removes the
    temporary files, and nothing can be written after it.

    Args:
        prefix: path without `.idx` and `.bin`.
        dtype: "uint16" or "int32", the type of the stored tokens.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, dtype: str) -> None: ...
    def append(self, tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        """Append n packed sequences.

        Args:
            tokens: int32 (T,), C-contiguous, each from 0 to the largest number of `dtype`.
            lengths: int32 (n,), C-contiguous, each at least 1, with sum T.

        Raises:
            ValueError: an argument breaks the above. The message names sequence and position.
            OSError: a write failed. Its errno and filename say why and where.
        """

    def close(self) -> None:
        """Publish both files. A second call does nothing.

        Raises:
            ValueError: no sequence was appended, or an append failed before.
            OSError: as append(). Existing files of the same name stay as they were, unless
                renaming failed: then no corpus of that name can be opened.
        """

    def abort(self) -> None:
        """Remove the temporary files. After close() it does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class PairOrder:
    """Pairs sorted by target length, then by source length.

    Takes O(N) time, and 4 bytes a pair in a mapped file without a name.

    Args:
        src, tgt: files with equally many sequences.
        ids: int64 (M,), the pairs to sort, each once; None for all.
        scratch_folder: folder of the mapped file, if one is needed.

    Raises:
        CorpusError: the sides hold unequal numbers of sequences, are damaged, or have changed.
        IndexError: an id lies outside [0, N).
    """

    def __init__(
        self,
        src: IndexedFile,
        tgt: IndexedFile,
        ids: NDArray[np.int64] | None,
        *,
        scratch_folder: str | os.PathLike[str],
    ) -> None: ...
    def __len__(self) -> int: ...

class BatchPlan:
    """A plan that cuts sorted pairs into batches, and computes any batch of any epoch on demand.

    Args:
        order: the sorted pairs.
        batch_tokens: bound on the tokens computed on each side of a batch.
        padded: whether padding is computed, and counts.
        world_size: ranks that share the batches.

    Raises:
        ValueError: there are no pairs, or a number is out of range.
    """

    def __init__(
        self, order: PairOrder, *, batch_tokens: int, padded: bool, world_size: int = 1
    ) -> None: ...
    def __len__(self) -> int:
        """Number of batches in an epoch, of all ranks together."""

    @property
    def num_steps(self) -> int:
        """Number of steps in an epoch: the largest number of batches of any rank."""

    @property
    def fingerprint(self) -> int:
        """Hash of all that decides which batches the plan yields."""

    @property
    def max_bytes(self) -> int:
        """Upper bound on the bytes of a batch, except batches of one pair above `batch_tokens`."""

    def num_batches(self, rank: int) -> int:
        """Number of batches of one rank in an epoch."""

    def pairs(self, batch: int, *, seed: int | None = None, epoch: int = 0) -> NDArray[np.int64]:
        """Pair ids of a batch, int64 (B,); batches are numbered in the order of length."""

class BatchStream:
    """The batches of one rank in one epoch, read ahead by threads. Thread-safe.

    Args:
        src, tgt: the files that `plan` was made from.
        plan: the plan of the batches.
        seed: permutes batches, and pairs of equal lengths, in each epoch; None keeps their order.
        epoch: number of the epoch.
        rank: whose batches to read.
        first_step: number of steps to skip.
        pad_id: token that fills rows up, in a padded plan.
        dtype: "int64" or "int32", the type of tokens.
        prefetch: largest number of batches that are ready at a time.
        num_threads: threads that read; with 0, next() reads.
        buffers: writable memory to use first, C-contiguous and aligned to 8 bytes.

    Raises:
        CorpusError: the files are not those of the plan, or have changed.
        ValueError: a number is out of range, or a buffer is not writable, contiguous and aligned.
    """

    def __init__(
        self,
        src: IndexedFile,
        tgt: IndexedFile,
        plan: BatchPlan,
        *,
        seed: int | None = None,
        epoch: int = 0,
        rank: int = 0,
        first_step: int = 0,
        pad_id: int = 0,
        dtype: str = "int64",
        prefetch: int = 4,
        num_threads: int = 1,
        buffers: list[NDArray[Any]] = ...,
    ) -> None: ...
    def next(self) -> tuple[Any, ...] | None:
        """The next batch, or None at the end of the epoch.

        Returns:
            DLPack capsules of src_tokens, src_cu_seqlens, tgt_tokens, tgt_cu_seqlens, pair_ids.

        Raises:
            CorpusError: a file is damaged or has changed. Later calls raise it again.
            RuntimeError: the stream is closed, or was made before the process forked.
        """

    @property
    def step(self) -> int:
        """The `first_step` of a stream that continues after the last batch returned."""

    def close(self) -> None:
        """Stop the threads."""

def read_batch(
    src: IndexedFile,
    tgt: IndexedFile,
    ids: NDArray[np.int64],
    *,
    padded: bool = False,
    pad_id: int = 0,
    dtype: str = "int64",
) -> tuple[Any, ...]:
    """The batch of the pairs `ids`, in that order, as `BatchStream.next` returns it.

    Raises:
        CorpusError: the sides hold unequal numbers of sequences, are damaged, or have changed.
        IndexError: an id lies outside [0, N).
    """

# The CPU kernels of pycat.kernels.ops, which documents them. Arrays are C-contiguous and aligned,
# and hold float32, float16, or bfloat16 as the uint16 of its bits. Results are sums (S, K, B);
# num_tokens, ppl_mean and ppl_var (B,); nll_per_token (K, T), or (0, 0) if not asked for; and the
# first token whose target is out of range, or T.
_Floats = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]
_Results = tuple[
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float32],
    int,
]

def cross_entropy(
    logits: _Floats,
    targets: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    *,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
    num_threads: int,
) -> _Results: ...
def linear_cross_entropy(
    hidden: _Floats,
    weight: _Floats,
    bias: _Floats | None,
    targets: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    *,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
    num_threads: int,
) -> _Results: ...
def packed_linear_cross_entropy(
    hidden: _Floats,
    tiles: NDArray[np.uint32],
    isa: str,
    vocab_size: int,
    targets: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    *,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
    num_threads: int,
) -> _Results: ...
def packed_attention(
    queries: _Floats,
    keys: _Floats,
    values: _Floats,
    query_ends: NDArray[np.int32],
    key_ends: NDArray[np.int32],
    causal: bool,
    num_threads: int,
) -> tuple[_Floats, NDArray[np.float32]]:
    """softmax(queries keys^T / sqrt(width)) values of B packed sequences, head by head.

    Args:
        queries: (Tq, heads, width), float32, or uint16 for bfloat16; width a multiple of 16.
        keys, values: (Tk, heads, width), of the same type.
        query_ends, key_ends: (B + 1,), where sequences begin and end.
        causal: query i sees keys up to i of its sequence.

    Returns:
        (Tq, heads, width), and the logarithm of each query's sum of exp(score) (Tq, heads).
    """

def packed_attention_backward(
    queries: _Floats,
    keys: _Floats,
    values: _Floats,
    query_ends: NDArray[np.int32],
    key_ends: NDArray[np.int32],
    causal: bool,
    out: _Floats,
    log_sums: NDArray[np.float32],
    out_grad: _Floats,
    num_threads: int,
) -> tuple[_Floats, _Floats, _Floats]:
    """Gradients of queries, keys and values; `out` and `log_sums` are of `packed_attention`."""

def smoothed_cross_entropy(
    logits: _Floats,
    targets: NDArray[np.int64],
    weights: NDArray[np.float32],
    smoothing: float,
    num_threads: int,
) -> NDArray[np.float32]:
    """Losses (T,) of tokens in nats; logits (T, V) become the gradient of their weighted sum."""

def pack_weight(weight: _Floats, bias: _Floats | None) -> NDArray[np.uint32]:
    """Tiles (K, tiles, words) for `packed_linear_cross_entropy` on the instruction set in use.

    Args:
        weight: (K, V, H).
        bias: (K, V), or None.
    """

def cpu_isa() -> str:
    """The instruction set in use: the best supported one, or the one that PYCAT_CPU_ISA names.

    Raises:
        ValueError: PYCAT_CPU_ISA names an instruction set that is unknown or not supported.
    """

def supported_cpu_isas() -> list[str]:
    """The supported ones, weakest first: portable, then avx2, avx_vnni, avx512 and avx512_bf16 on
    x86-64, or neon and neon_dot on 64-bit Arm.
    """

class Transformer:
    """One checkpoint of a Transformer, packed for this processor.

    Q is the width of all heads of queries, and KV that of all heads of keys.

    Args:
        weights: float32 arrays, C-contiguous. A layer `<name>` has `<name>.weight`, and
            `<name>.bias`, which only norms must have (none with `rms_norm`). For each `<side>`,
            "source" and "target": `<side>.tokens` (vocabulary, D), `<side>.positions` (positions,
            D) unless `num_positions` is given, and optionally the layer `<side>.norm` (D). For
            each `<stack>`, "encoder" and "decoder", optionally the layer `<stack>.norm` (D); and
            as `<stack>.<i>.<name>` for each i the layers `self.query_key_value` (Q + 2 KV, D),
            `self.output` (D, Q), `self.norm` (D), `ff1` (F, D), `ff2` (D, F), `feed_forward.norm`
            (D), and in the decoder `cross.query` (Q, D), `cross.key_value` (2 KV, D),
            `cross.output` (D, Q), `cross.norm` (D). The output layer is `head` (V, D). A causal
            model has no source and no encoder, and its decoder no `cross`.
            Optional, for each layer: norms of outputs before they are added to the residual,
            `self.output_norm` and `feed_forward.output_norm` (D); norms of each head,
            `self.query_norm` and `self.key_norm` (head_width); `self.rotary` (positions,
            head_width), cosines of the angles by which queries and keys are rotated, then sines;
            `self.relative` (heads, 2 positions - 1), which adds [i - j + positions - 1] to the
            score of query i and key j. Arrays of several layers may be the same object.
        dtype: type of the products: "float32", "bfloat16" or "int8". With "int8", the output
            layer computes in bfloat16.
        num_heads: heads of every attention. Their width must be a multiple of 8.
        norm_first: whether norms come before the layers, otherwise after their residuals.
        activation: "relu", "silu", "gelu", "gelu_tanh"; or "gated_silu", "gated_gelu_tanh", whose
            `ff1` (2 F, D) has gate and value of a feature in turn.
        epsilon: what norms add to the variance.
        embedding_scale: factor of token embeddings.
        head_scale: factor of the last hidden states.
        num_threads: that pack the weights.
        uncounted_token: id of the token that takes no position and gets none; negative for none.
        num_kv_heads: heads of keys and values; 0 for `num_heads`.
        head_width: 0 for D / num_heads.
        attention_scale: of attention's scores; 0 for one over the root of the head's width.
        attention_softcap, head_softcap: c of c tanh(x / c) for scores and logits; 0 for none.
        rms_norm: whether norms take no mean off.
        num_positions: of a model that adds none to its embeddings; 0 where it has tables.
        windows: of each decoder layer, last tokens that a token sees, itself included; 0 for all.

    Raises:
        ValueError: an array is missing or has another shape, or the processor lacks the dtype.
    """

    def __init__(
        self,
        weights: dict[str, NDArray[np.float32]],
        *,
        dtype: str,
        num_heads: int,
        norm_first: bool,
        activation: str,
        epsilon: float,
        embedding_scale: float,
        head_scale: float,
        num_threads: int,
        uncounted_token: int = -1,
        num_kv_heads: int = 0,
        head_width: int = 0,
        attention_scale: float = 0.0,
        attention_softcap: float = 0.0,
        head_softcap: float = 0.0,
        rms_norm: bool = False,
        num_positions: int = 0,
        windows: tuple[int, ...] = (),
    ) -> None: ...
    def score(
        self,
        src_tokens: NDArray[np.int64],
        src_cu_seqlens: NDArray[np.int32],
        tgt_inputs: NDArray[np.int64],
        targets: NDArray[np.int64],
        tgt_cu_seqlens: NDArray[np.int32],
        *,
        ignore_index: int,
        all_stats: bool,
        per_token: bool,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32], int]:
        """Statistics of packed sequences. Runs on the calling thread, and releases the GIL.

        Args:
            src_tokens: int64 (Ts,), with boundaries `src_cu_seqlens` int32 (B + 1,). A causal
                model reads none: Ts = 0.
            tgt_inputs: int64 (T,), what the decoder reads, with `tgt_cu_seqlens` int32 (B + 1,).
            targets: int64 (T,), what it should predict at each place.
            ignore_index: target that is left out.
            all_stats: whether to compute all of `reference.STAT_NAMES`, or nll alone.
            per_token: whether to return the nll of each target.

        Returns:
            Sums (S, B) of each statistic over each sequence's targets; the nll of each target
            (T,), or (0,) if not asked for; and the first target out of range, or T.

        Raises:
            ValueError: sequences do not fit together, a token is outside of the vocabulary, or a
                sequence has more tokens than the model has positions.
        """

class LanguageModel:
    """The language classifier of `pycat.filters.language`: an automaton and naive Bayes.

    The arrays are kept, not copied.

    Args:
        moves: uint32 (R * 256,), the next state for each row and byte.
        rows: uint16 (S,), the row of `moves` for each state.
        features: int32 (S,), the feature that ends in each state, or -1.
        weights: uint16 (F * L,), log probabilities of each feature in each language, as bits of
            finite float16. L is a multiple of `LANGUAGE_BLOCK`.
        prior: float32 (L,), log probabilities; -inf for languages that only fill the last block.

    Raises:
        ValueError: the sizes do not fit together, or an entry leads out of its table.
    """

    def __init__(
        self,
        *,
        moves: NDArray[np.uint32],
        rows: NDArray[np.uint16],
        features: NDArray[np.int32],
        weights: NDArray[np.uint16],
        prior: NDArray[np.float32],
    ) -> None: ...
    def probability(self, lines: list[bytes], languages: list[int]) -> NDArray[np.float32]:
        """Probability (N,) that each line is in one of `languages`. Releases the GIL.

        Only the first 256 bytes of a line are read. The probability is 1 where they hold no
        feature.

        Raises:
            ValueError: a language is out of range.
        """

class NgramCoverage:
    """Greedy choice by feature decay; `pycat.ranking.coverage` has the formula.

    First `count` of all pairs, then `weigh`, then `choose` as often as wanted. Not thread-safe.
    Methods release the GIL. Pair i is `ids[i]`; `ids` is kept, not copied.

    Args:
        src, tgt: files with equally many sequences.
        ids: int64 (N,), the pairs to choose from, at least one and below 2**32.
        num_cells: cells for n-grams, 4 bytes each: a power of two from 16 to 2**31.
        decay: factor of an n-gram's weight for each chosen pair that has it, between 0 and 1.
        tolerance: share, from 0 to below 1, by which a chosen pair may gain less than the best.
        num_threads: threads to use. Results do not depend on it.

    Raises:
        CorpusError: the sides hold unequal numbers of sequences, or are damaged.
        IndexError: an id lies outside the files.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        src: IndexedFile,
        tgt: IndexedFile,
        ids: NDArray[np.int64],
        *,
        num_cells: int,
        decay: float,
        tolerance: float,
        num_threads: int,
    ) -> None: ...
    def count(self, begin: int, end: int) -> None:
        """Count the n-grams of pairs `begin` to `end`."""

    def weigh(self) -> None:
        """Make weights of the counts."""

    def measure(self, begin: int, end: int) -> NDArray[np.float32]:
        """Gains (end - begin,): those of chosen pairs at their choice, of the others now."""

    def choose(self, max_chosen: int) -> NDArray[np.int64]:
        """Choose up to so many further pairs; their rows, in the order of choice."""

class IbmModel1:
    """IBM Model 1 in both directions, over hashed cells; `pycat.filters.lexical` has the formulas.

    Not thread-safe. Methods release the GIL. Pair i is `ids[i]`; `ids` is kept, not copied.

    Args:
        src, tgt: files with equally many sequences, opened with their vocab_size.
        ids: int64 (N,), the pairs of the corpus; None for all.
        max_sample: largest number of pairs, spread evenly, that the model is estimated on, 1 to
            2**22.
        max_cells: largest number of cells for token pairs, 16 bytes each, 1024 to 2**31; rounded
            down to a power of two.
        num_threads: threads to use. Results do not depend on it.

    Raises:
        CorpusError: the sides hold unequal numbers of sequences, or are damaged.
        IndexError: an id lies outside the files.
        ValueError: an argument is out of range, or a file has no vocab_size.
    """

    def __init__(
        self,
        src: IndexedFile,
        tgt: IndexedFile,
        ids: NDArray[np.int64] | None,
        *,
        max_sample: int,
        max_cells: int,
        num_threads: int,
    ) -> None: ...
    @property
    def num_sampled(self) -> int:
        """Number of pairs in the sample. Its place i is pair i * N // num_sampled."""

    @property
    def num_cells(self) -> int:
        """Number of cells for token pairs."""

    def count(self, begin: int, end: int) -> None:
        """Add the expected counts of places [begin, end) of the sample."""

    def start_round(self) -> None:
        """Make the counts the probabilities of the next round. In the first, all are equal."""

    def score(self, begin: int, end: int) -> NDArray[np.float32]:
        """Mean and gap of the targets, then of the sources, of pairs [begin, end).

        Returns:
            float32 (2, end - begin, 2): side, pair, mean or gap.

        Raises:
            CorpusError: a token lies outside the vocabulary, or a file has changed.
        """

def radix_histogram(
    scores: NDArray[np.float64],
    groups: NDArray[np.int32],
    costs: NDArray[np.int64] | None,
    prefixes: NDArray[np.uint64],
    *,
    prefix_bits: int,
    digit_bits: int,
    histogram: NDArray[np.int64],
) -> None:
    """Add the costs of rows to the histogram of the next digit of their keys.

    The key of a score is a 64-bit unsigned number that orders as the scores do. Releases the GIL.

    Args:
        scores: (N,), none NaN.
        groups: (N,), 0 to G - 1, or negative for rows in no group.
        costs: (N,), or None: each row costs 1.
        prefixes: (G,), leading bits of a key: only rows of the group that share them count.
        prefix_bits: how many leading bits a prefix has.
        digit_bits: bits of the digit that follows the prefix, 1 to 16.
        histogram: (G << digit_bits,), changed in place.

    Raises:
        ValueError: sizes do not fit together, or a group or a number of bits is out of range.
    """

def select_above(
    scores: NDArray[np.float64],
    groups: NDArray[np.int32],
    costs: NDArray[np.int64] | None,
    keys: NDArray[np.uint64],
    *,
    take_all: NDArray[np.bool_],
    budgets: NDArray[np.int64],
    selected: NDArray[np.bool_],
) -> None:
    """Select the rows above their group's key, and at the key those that the budget pays for.

    Releases the GIL.

    Args:
        scores, groups, costs: as in `radix_histogram`.
        keys: (G,), all 64 bits of each group's threshold.
        take_all: (G,), whether to select all rows of the group.
        budgets: (G,), what may be spent on rows at the key, in order; changed in place.
        selected: (N,), written.

    Raises:
        ValueError: sizes do not fit together, or a group is out of range.
    """

LANGUAGE_BLOCK: int
"""The number of languages of a `LanguageModel` is a multiple of this."""

def measure_pairs(
    src: list[bytes],
    tgt: list[bytes],
    *,
    folded: NDArray[np.uint64],
    kinds: NDArray[np.uint8],
) -> dict[str, NDArray[Any]]:
    """Measures of N pairs of UTF-8 lines without line ends. Releases the GIL.

    Bytes that are not valid UTF-8 are measured as they are. docs/format.md defines the measures.

    Args:
        src, tgt: N lines each.
        folded, kinds: the tables of `pycat.filters.code_points`.

    Returns:
        Arrays (N,): int32 `src_chars`, `tgt_chars`; `src_letters`, `tgt_letters` (without markup,
        as far as both sides have it; an ideograph counts as three, kana and Hangul syllables as two
        unless both sides are in such letters); `num_damaged`; `num_grams`
        (of which `overlap` is a share); float32 `overlap`, `letters`, `number_mismatch`,
        `repetition`; `src_names`, `tgt_names` (shares of letters in words of ASCII with a capital,
        in lines of another script); uint8 `src_forms`, `tgt_forms` (sums of 1: all in capitals, 2:
        possibly not in NFC, or with invisible characters or unusual blanks, 4: with characters of
        placeholders, tags or addresses); uint64 `src_hash`, `tgt_hash`, `pair_hash`, `band_0` and
        `band_1`, the same in every process.

    Raises:
        ValueError: the lengths differ.
    """

def first_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first row (N,) that has the hash of each row. Uses 14 bytes of memory a row.

    Args:
        hashes: (N,), well mixed in their upper 32 bits.

    Raises:
        ValueError: N is above 2**31.
    """

def join_duplicates(hashes: NDArray[np.uint64], roots: NDArray[np.int64]) -> None:
    """Join the groups of rows that share a hash.

    Args:
        hashes: (N,), well mixed in their upper 32 bits.
        roots: (N,), the first row of each row's group, changed in place. It begins as `arange(N)`.

    Raises:
        ValueError: the lengths differ, a root lies behind its row, or N is above 2**31.
    """

def copies_before(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier rows (N,) have the same group. Uses 4 bytes of memory a group number.

    Raises:
        ValueError: a group is negative.
    """
