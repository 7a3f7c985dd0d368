"""One selection from a score table, by pycat or by a data frame, in a process of its own.

python bench/selection_runs.py pycat|duckdb|polars|numpy SCORES OUT JSON

Each keeps the pairs of highest variance of perplexity, among equals the lowest ids, and writes
their ids in rising order as a Parquet file. JSON holds `keep`, and for pycat any argument of
`select`. Prints seconds and those that cores were busy, both without imports, and the peak of
memory beyond what imports take; files mapped into memory count too.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from harness import resident_mb


def pycat_run() -> Callable[..., None]:
    import pycat

    def run(scores: Path, out: Path, **options: Any) -> None:
        if "cap" in options:
            options["cap"] = tuple(options["cap"])
        pycat.select(scores, out=out, rules="none", guard=0.0, **options)

    return run


def duckdb_run() -> Callable[..., None]:
    import duckdb

    def run(scores: Path, out: Path, keep: float) -> None:
        names, num_pairs = _columns(scores)
        ppl = ", ".join(f"exp({name} / num_tokens) AS p{k}" for k, name in enumerate(names))
        mean = f"({' + '.join(f'p{k}' for k in range(len(names)))}) / {len(names)}"
        # Faster than list_var_pop of a list, which is made for each pair.
        squares = " + ".join(f"(p{k} - mean) * (p{k} - mean)" for k in range(len(names)))
        with duckdb.connect() as connection:
            connection.sql(
                f"""
                COPY (SELECT pair FROM (
                    SELECT pair, ({squares}) / {len(names)} AS score
                    FROM (SELECT *, {mean} AS mean
                          FROM (SELECT pair, {ppl} FROM '{scores}/part-*.parquet'))
                    ORDER BY score DESC, pair LIMIT {round(keep * num_pairs)}
                ) ORDER BY pair) TO '{out}' (FORMAT parquet)
                """
            )

    return run


def polars_run() -> Callable[..., None]:
    import polars as pl

    def run(scores: Path, out: Path, keep: float) -> None:
        names, num_pairs = _columns(scores)
        ppl = [(pl.col(name) / pl.col("num_tokens")).exp().alias(name) for name in names]
        mean = pl.sum_horizontal(names) / len(names)
        variance = pl.sum_horizontal([(pl.col(name) - mean) ** 2 for name in names]) / len(names)
        scored = pl.scan_parquet(scores / "part-*.parquet").select("pair", *ppl)
        # Polars 2.1 sorts ten times as slowly when that streams too.
        ranked = (
            scored.select("pair", variance.alias("score"))
            .collect(engine="streaming")
            .sort("score", descending=True, maintain_order=True)
        )
        ranked.head(round(keep * num_pairs)).select("pair").sort("pair").write_parquet(out)

    return run


def numpy_run() -> Callable[..., None]:
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    def run(scores: Path, out: Path, keep: float) -> None:
        names, num_pairs = _columns(scores)
        files = ds.dataset(sorted(map(str, scores.glob("part-*.parquet"))))
        variance, pairs = np.empty(num_pairs), np.empty(num_pairs, np.int64)
        first = 0
        for batch in files.to_batches(columns=["pair", "num_tokens", *names]):
            nll = np.stack([batch[name].to_numpy() for name in names], axis=1)
            ppl = np.exp(nll / batch["num_tokens"].to_numpy()[:, None])
            variance[first : first + len(batch)] = ppl.var(axis=1)
            pairs[first : first + len(batch)] = batch["pair"].to_numpy()
            first += len(batch)
        count = round(keep * num_pairs)
        cut = np.partition(variance, num_pairs - count)[num_pairs - count]
        kept = variance > cut
        kept[np.flatnonzero(variance == cut)[: count - np.count_nonzero(kept)]] = True
        pq.write_table(pa.table({"pair": pairs[kept]}), out)

    return run


RUNS = {"pycat": pycat_run, "duckdb": duckdb_run, "polars": polars_run, "numpy": numpy_run}


def _columns(scores: Path) -> tuple[list[str], int]:
    manifest = json.loads((scores / "scores.json").read_text())
    return [f"nll_{k}" for k in range(len(manifest["steps"]))], manifest["num_pairs"]


def main() -> None:
    name, scores, out, options = sys.argv[1:]
    run = RUNS[name]()
    pa.array(np.zeros(1))  # Arrow imports pandas, where it is installed, at the first array
    before, start, busy = resident_mb("VmHWM"), time.perf_counter(), time.process_time()
    run(Path(scores), Path(out), **json.loads(options))
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - busy
    found = {"seconds": seconds, "core_seconds": core_seconds, "mb": resident_mb("VmHWM") - before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
