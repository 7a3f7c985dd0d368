import os
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

class IndexedFile:
    """One memory-mapped MMIDIDX pair `prefix.idx` + `prefix.bin`.

    The whole index is verified before anything is read: on opening, or, where that would take
    longer than a millisecond, on the first use. A missing, damaged, foreign or changed file is a
    CorpusError that names the file and what was found and expected.

    Args:
        prefix: path without `.idx` and `.bin`.
        vocab_size: token ids must lie below it.
        layout: "fairseq" or "megatron"; None tells them apart by the file's size.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        *,
        vocab_size: int | None = None,
        layout: str | None = None,
    ) -> None: ...
    def __len__(self) -> int:
        """Number of sequences N."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all sequences together."""

    @property
    def dtype(self) -> str:
        """Name in numpy of the stored type, such as "uint16"."""

    @property
    def prefix(self) -> str: ...
    @property
    def layout(self) -> str:
        """Of the index: fairseq or megatron."""

    def lengths(self) -> NDArray[np.int32]:
        """Tokens in each sequence, int32 (N,): a read-only view, not aligned in memory."""

    def sequence(self, id: int) -> NDArray[Any]:
        """Tokens of one sequence as stored: a read-only view of the mapped file.

        Raises:
            IndexError: `id` lies outside [0, N).
        """

    def verify(self, *, eos_id: int | None = None) -> None:
        """Check the index and every token, on all cores.

        Args:
            eos_id: with which every sequence must end; None: with any token.

        Raises:
            CorpusError: something is wrong, or has changed since the file was opened.
        """

    def gather(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Pack the sequences `ids`, in that order, repeats allowed.

        Args:
            ids: int64 (B,), C-contiguous, each in [0, N).

        Returns:
            tokens int32 (T,) and cu_seqlens int32 (B+1,), which starts with 0 and ends with T.

        Raises:
            IndexError: an id lies outside [0, N).
            ValueError: T would reach 2**31; gather fewer ids a call.
            CorpusError: a token is negative, or not below `vocab_size` (2**31 if not given).
            TypeError: `ids` is not a C-contiguous int64 array.
        """

class IndexedWriter:
    """Writes `prefix.bin` and `prefix.idx` in fairseq's layout, complete or not at all.

    Both grow under temporary names beside them and appear on close(). As a context manager it
    closes on success and aborts on an exception. A failed append() or close() removes the
    temporaries; nothing more can be written then.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, dtype: str) -> None: ...
    def append(self, tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        """Append n packed sequences.

        Args:
            tokens: int32 (T,), C-contiguous, each from 0 to what `dtype` holds.
            lengths: int32 (n,), C-contiguous, each at least 1, with sum T.

        Raises:
            ValueError: an argument breaks the above; the message names sequence and position.
            OSError: a write failed; errno and filename tell what and where.
        """

    def close(self) -> None:
        """Publish both files; again: nothing.

        Raises:
            ValueError: no sequence was appended, or an append failed before.
            OSError: as append(); files of the same name that existed before stay untouched,
                unless the renaming itself failed: then nothing of that name can be opened.
        """

    def abort(self) -> None:
        """Remove the temporaries; after close(): nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class PairOrder:
    """Pairs sorted by target and source length: O(N), 4 bytes a pair in a nameless mapped file.

    Args:
        src, tgt: files of equally many sequences.
        ids: int64 (M,), the pairs to sort, each once; None for all.
        scratch_folder: where the mapped file lies if it is large.

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
    """Cuts sorted pairs into batches; any batch of any epoch is computed when asked for.

    Args:
        batch_tokens: bounds the tokens computed on each side of a batch.
        padded: whether padding is computed.
        world_size: ranks that share the batches.
    """

    def __init__(
        self, order: PairOrder, *, batch_tokens: int, padded: bool, world_size: int = 1
    ) -> None: ...
    def __len__(self) -> int:
        """Batches of an epoch, of all ranks together."""

    @property
    def num_steps(self) -> int:
        """Most batches that any rank has in an epoch."""

    @property
    def fingerprint(self) -> int:
        """Differs between plans that do not yield the same batches."""

    @property
    def max_bytes(self) -> int:
        """Upper bound on the memory of a batch, longer pairs that stand alone excepted."""

    def num_batches(self, rank: int) -> int:
        """Batches of one rank in an epoch."""

    def pairs(self, batch: int, *, seed: int | None = None, epoch: int = 0) -> NDArray[np.int64]:
        """Pair ids of a batch, counted in order of length: int64 (B,)."""

class BatchStream:
    """Reads the batches of one rank in one epoch ahead; any thread may ask for the next.

    Args:
        src, tgt: the files that `plan` was made from, in the same state; else a CorpusError.
        first_step: steps to leave out.
        pad_id: fills rows up where the plan is a padded one.
        dtype: "int64" or "int32", of tokens.
        prefetch: batches that stand ready at most.
        num_threads: that read; 0 reads when asked.
        buffers: writable memory to use first, contiguous and aligned to 8 bytes.
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
        """DLPack capsules of src_tokens, src_cu_seqlens, tgt_tokens, tgt_cu_seqlens, pair_ids.

        None at the end.

        Raises:
            CorpusError: a file is damaged or has changed; this batch is not given, ever.
            RuntimeError: the stream is closed, or was made before the process forked.
        """

    @property
    def step(self) -> int:
        """Where a stream must begin to go on after the last batch returned."""

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
    """The pairs `ids` in that order, as `BatchStream.next` gives them.

    Raises:
        CorpusError: the sides hold unequal numbers of sequences, are damaged, or have changed.
        IndexError: an id lies outside [0, N).
    """

# The kernels of pycat.kernels.ops, which says what they compute. Arrays are C-contiguous and
# aligned; float32, float16, or uint16 for the bits of bfloat16. Results: sums (S, K, B),
# num_tokens, ppl_mean, ppl_var, nll_per_token (K, T) or (0, 0), the first bad target or T.
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
def pack_weight(weight: _Floats, bias: _Floats | None) -> NDArray[np.uint32]:
    """Tiles (K, tiles, words) for `packed_linear_cross_entropy` on the instruction set in use."""

def cpu_isa() -> str:
    """The instruction set in use: the best supported, or the one PYCAT_CPU_ISA names.

    Raises:
        ValueError: PYCAT_CPU_ISA names one that is unknown or not supported.
    """

def supported_cpu_isas() -> list[str]:
    """Of portable, avx2, avx512 and avx512_bf16, those that run here, weakest first."""

class Transformer:
    """One checkpoint of an encoder-decoder Transformer, packed for this processor.

    Args:
        weights: float32 arrays, C-contiguous. `<side>.tokens` (vocabulary, D) and
            `<side>.positions` (positions, D) of side "source" and "target"; of each layer i of
            "encoder" and "decoder", as `<stack>.<i>.<name>.weight` and, but for norms optional,
            `.bias`: `self.query_key_value` (3 D, D), `self.output` (D, D), `self.norm` (D), `up`
            (F, D), `down` (D, F), `feed_forward.norm`, and in the decoder `cross.query` (D, D),
            `cross.key_value` (2 D, D), `cross.output`, `cross.norm`; `head` (V, D). Where the model
            has them, the norms `<side>.norm` of embeddings and `<stack>.norm` behind the layers.
        dtype: of the products: "float32", "bfloat16", or "int8" (the head then in bfloat16).
        num_heads: of every attention; their width is a multiple of 8.
        norm_first: whether sublayers are normed before (else after the residual).
        activation: "relu", "silu" or "gelu".

    Raises:
        ValueError: an array is missing or of another shape, or the processor lacks the dtype.
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
        """Statistics of packed sequences, on the calling thread, without the GIL.

        Returns:
            Sums (S, B) over each sequence's targets, S as in `reference.STAT_NAMES` or nll alone;
            nll of each target (T,), or nothing; and the first target out of range, T if none.

        Raises:
            ValueError: sequences that do not fit together, a token outside of the vocabulary, or
                more tokens than positions.
        """

class LanguageModel:
    """How likely lines are in a language: the automaton and the classifier of `pycat.language`.

    The arrays are kept, not copied.

    Args:
        moves: uint32 (R * 256,), the next state for each row and byte.
        rows: uint16 (S,), the row of moves of each state.
        features: int32 (S,), the feature that a state has found, or -1.
        weights: uint16 (F * L,), the bits of float16: finite log probabilities of each feature in
            each language. L is a multiple of `LANGUAGE_BLOCK`.
        prior: float32 (L,), -inf of a language that there is not.

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
        """Probability (N,) that each line is in one of these languages, 1 where nothing tells.

        Of a line only the first 256 bytes count. Other threads run meanwhile.

        Raises:
            ValueError: a language is out of range.
        """

class IbmModel1:
    """IBM Model 1 in both directions, over hashed cells; pycat.lexical says what it measures.

    One caller at a time; other Python threads run meanwhile. Pairs are counted in the order of
    `ids`, which is kept, not copied.

    Args:
        src, tgt: files of equally many sequences, opened with their vocab_size.
        ids: int64 (N,), the pairs of the corpus; None for all.
        max_sample: pairs, 1 to 2**22, spread evenly, on which the model is estimated.
        max_cells: bound on cells of 16 bytes, at least 1024; taken as a power of two.
        num_threads: results do not depend on it.

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
        """Pairs in the sample: place i of it is pair i * N // num_sampled."""

    @property
    def num_cells(self) -> int: ...
    def count(self, begin: int, end: int) -> None:
        """Add the expected counts of the places [begin, end) of the sample."""

    def start_round(self) -> None:
        """Make what has been counted the probabilities of the next round; the first are equal."""

    def score(self, begin: int, end: int) -> NDArray[np.float32]:
        """Mean and gap (2, end - begin, 2) of the pairs [begin, end): of targets, then of sources.

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
"""Languages of a `LanguageModel` come by so many."""

def measure_pairs(
    src: list[bytes],
    tgt: list[bytes],
    *,
    folded: NDArray[np.uint64],
    kinds: NDArray[np.uint8],
) -> dict[str, NDArray[Any]]:
    """What the rules ask of N pairs of UTF-8 lines without line ends; other threads run meanwhile.

    Bytes that are no UTF-8 are measured as they are.

    Args:
        src, tgt: N lines each.
        folded, kinds: as `pycat.code_points` makes them.

    Returns:
        Arrays (N,): int32 `src_chars`, `tgt_chars`, `num_damaged`; float32 `overlap`, `letters`,
        `number_mismatch`, `repetition`; bool `src_unusual`, `tgt_unusual` (all in capitals, or
        maybe not in NFC); uint64 `src_hash`, `tgt_hash`, `pair_hash`, `band_0` to `band_3`, the
        same in every process.

    Raises:
        ValueError: the lengths differ.
    """

def first_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Row (N,) of the first element that equals each; holds 14 bytes an element meanwhile.

    Fast where the upper 32 bits are well mixed, as those of a hash are.

    Raises:
        ValueError: more than 2**31 elements.
    """

def join_duplicates(hashes: NDArray[np.uint64], roots: NDArray[np.int64]) -> None:
    """Join the groups of rows that share a hash.

    Args:
        hashes: (N,), well mixed in their upper 32 bits.
        roots: (N,), the first row of each row's group, changed in place; at first `arange(N)`.

    Raises:
        ValueError: the lengths differ, a root lies behind its row, or N is above 2**31.
    """

def copies_before(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier rows (N,) have the same group; holds 4 bytes a group number meanwhile.

    Raises:
        ValueError: a group is negative.
    """
