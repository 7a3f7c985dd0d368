"""Batch streams whose threads, processes and consumers come and go."""

import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pycat._core import BatchPlan, BatchStream, IndexedFile, IndexedWriter, PairOrder
from pycat.data.batches import Batch, from_capsules
from pycat.data.corpus import Corpus
from pycat.errors import CorpusError

NUM_PAIRS = 400
BAD = 250


def write(prefix: Path, *, bad: int | None = None) -> str:
    """Sequence i has i + 1 tokens: its own number, less 1 up to 3."""
    lengths = np.arange(1, NUM_PAIRS + 1, dtype=np.int32)
    tokens = np.repeat(lengths - 1, lengths)
    if bad is not None:
        tokens[lengths[:bad].sum()] = NUM_PAIRS
    with IndexedWriter(prefix, dtype="uint16") as writer:
        writer.append(tokens.astype(np.int32), lengths)
    return str(prefix)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write(tmp_path / "corpus")


def stream_of(prefix: str, **options: Any) -> BatchStream:
    """One pair a batch, from short to long: batch i is pair i."""
    file = IndexedFile(prefix, vocab_size=NUM_PAIRS)
    order = PairOrder(file, file, None, scratch_folder=".")
    return BatchStream(file, file, BatchPlan(order, batch_tokens=1, padded=False), **options)


def next_batch(stream: BatchStream) -> Batch | None:
    capsules = stream.next()
    return None if capsules is None else from_capsules(capsules)


def batches(stream: BatchStream) -> Iterator[Batch]:
    while (batch := next_batch(stream)) is not None:
        yield batch


def check(batch: Batch, pair: int) -> None:
    assert batch.pair_ids.tolist() == [pair]
    for tokens in (batch.src_tokens, batch.tgt_tokens):
        assert tokens.tolist() == [pair] * (pair + 1)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("prefetch", [1, 5])
def test_an_error_comes_when_it_is_its_batchs_turn_and_again(
    tmp_path: Path, num_threads: int, prefetch: int
) -> None:
    bad = write(tmp_path / "bad", bad=BAD)
    stream = stream_of(bad, num_threads=num_threads, prefetch=prefetch)
    for pair in range(BAD):
        batch = next_batch(stream)
        assert batch is not None
        check(batch, pair)
    for _ in range(3):
        with pytest.raises(CorpusError, match=f"token 0 of sequence {BAD} is 400, expected"):
            stream.next()
        assert stream.step == BAD


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_batches_are_held_as_long_as_anyone_likes(prefix: str, num_threads: int) -> None:
    stream = stream_of(prefix, num_threads=num_threads, prefetch=2)
    held = list(batches(stream))  # all at once, far more than are read ahead
    assert len(held) == NUM_PAIRS
    assert stream.next() is None
    sources = [batch.src_tokens for batch in held[::2]]
    stream.close()
    del stream
    gc.collect()
    for pair, batch in enumerate(held):
        check(batch, pair)
    del held, batch
    for i, tokens in enumerate(sources):
        assert tokens.tolist() == [2 * i] * (2 * i + 1)


def test_capsules_that_nobody_takes_are_freed(prefix: str) -> None:
    stream = stream_of(prefix)
    assert [stream.next() is None for _ in range(NUM_PAIRS + 1)] == [False] * NUM_PAIRS + [True]


def test_thousands_of_batches_are_held(toy_corpus: Corpus) -> None:
    held = [batch for epoch in range(10) for batch in toy_corpus.batches(1, epoch=epoch, seed=0)]
    assert len(held) == 3000
    for batch in held:
        assert batch.tgt_tokens.shape == (toy_corpus.num_tokens[int(batch.pair_ids.item())],)


@pytest.mark.parametrize("step", [-1, None, "3", 2.0])
def test_a_state_without_a_step_is_refused(toy_corpus: Corpus, step: object) -> None:
    state = {**toy_corpus.batches(64).state, "step": step}
    with pytest.raises(CorpusError, match=r"the state \{.*\} belongs to other batches; expected"):
        toy_corpus.batches(64, state=state)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_closed_stream_says_so(prefix: str, num_threads: int) -> None:
    stream = stream_of(prefix, num_threads=num_threads)
    batch = next_batch(stream)
    stream.close()
    stream.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the batch stream is closed; make another"):
            stream.next()
    assert stream.step == 1
    assert batch is not None
    check(batch, 0)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_consumers_on_several_threads_share_the_batches(prefix: str, num_threads: int) -> None:
    stream = stream_of(prefix, num_threads=num_threads, prefetch=2)
    seen: list[int] = []

    def consume() -> None:
        seen.extend(int(batch.pair_ids.item()) for batch in batches(stream))

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(NUM_PAIRS))


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_a_stream_closes_under_its_consumer(prefix: str, num_threads: int) -> None:
    for _ in range(20):
        stream = stream_of(prefix, num_threads=num_threads, prefetch=1)
        errors: list[str] = []

        def consume(stream: BatchStream = stream, errors: list[str] = errors) -> None:
            try:
                while stream.step < NUM_PAIRS:
                    stream.next()
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=consume)
        thread.start()
        while stream.step == 0:
            pass
        stream.close()
        thread.join(60)
        assert not thread.is_alive()
        assert errors in ([], ["the batch stream is closed; make another"])


def test_buffers_are_given_back_while_a_stream_ends(tmp_path: Path) -> None:
    """A failing thread frees buffers, which needs the lock that whoever joins it may hold."""
    bad = write(tmp_path / "bad", bad=BAD)
    for _ in range(30):
        buffers = [np.empty(2**9, np.uint64) for _ in range(8)]
        stream = stream_of(bad, num_threads=2, prefetch=4, buffers=buffers)
        held = [next_batch(stream) for _ in range(BAD - 2)]
        del held
        del stream


class Interrupt(Exception):
    pass


@contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_interrupts_the_wait_for_a_batch(tmp_path: Path) -> None:
    num_pairs = 4_000_000  # the same one again and again: a second's work, or a good part of it
    with IndexedWriter(tmp_path / "one", dtype="uint16") as writer:
        writer.append(np.array([7, 2], np.int32), np.array([2], np.int32))
    file = IndexedFile(tmp_path / "one")
    order = PairOrder(file, file, np.zeros(num_pairs, np.int64), scratch_folder=tmp_path)
    plan = BatchPlan(order, batch_tokens=2 * num_pairs, padded=False)
    stream = BatchStream(file, file, plan, seed=1, dtype="int32")
    with pytest.raises(Interrupt), interrupt_after(0.02):
        stream.next()
    assert stream.step == 0
    batch = next_batch(stream)  # nothing is lost
    assert batch is not None
    assert len(batch.pair_ids) == num_pairs
    assert stream.next() is None


FORKED = """
import gc, os, sys, threading, time
from pycat._core import BatchPlan, BatchStream, IndexedFile, PairOrder
from pycat.data.batches import from_capsules
def make():
    file = IndexedFile({prefix!r})
    order = PairOrder(file, file, None, scratch_folder=".")
    return BatchStream(file, file, BatchPlan(order, batch_tokens=1, padded=False), num_threads=2)
def count(stream):
    batches = 0
    while stream.next() is not None:  # torch, given them, may abort when the interpreter ends
        batches += 1
    return batches
stream = make()
held = from_capsules(stream.next())
time.sleep(0.2)  # its threads wait for room
child = os.fork()
if child == 0:
    try:
        stream.next()
    except RuntimeError as error:
        print(error)
    own = make()
    next_one = own.next()
    stream.close()
    del stream, held
    gc.collect()
    print(count(own), flush=True)
    sys.exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), count(stream))
"""


def run(code: str, prefix: str) -> subprocess.CompletedProcess[str]:
    """Start outside the repository: its sources would hide the installed package."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.format(prefix=prefix)],
        capture_output=True,
        text=True,
        cwd=Path(prefix).parent,
        timeout=60,
    )


def test_a_stream_is_of_no_use_in_a_forked_process_and_does_no_harm(prefix: str) -> None:
    done = run(FORKED, prefix)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "the batch stream was made in another process, whose threads are not in this one; make "
        "the stream after the process has forked",
        f"{NUM_PAIRS - 1}",
        f"5 {NUM_PAIRS - 1}",
    ]


@pytest.mark.parametrize(
    "ending",
    [
        "keep = make(); keep.next(); cycle = [keep]; cycle.append(cycle); del keep, cycle",
        "stream = make(); stream.next(); sys.exit(0)",
        "stream = make()\n"
        "def consume():\n"
        "    while True: count(make())\n"
        "for _ in range(3): threading.Thread(target=consume, daemon=True).start()\n"
        "time.sleep(0.3)",
    ],
    ids=["cycle", "global", "daemon"],
)
def test_the_interpreter_ends_while_threads_read_ahead(prefix: str, ending: str) -> None:
    done = run(FORKED[: FORKED.index("stream = make()")] + ending, prefix)
    assert (done.returncode, done.stderr) == (0, "")
