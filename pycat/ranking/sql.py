"""Criteria in SQL: expressions over the columns of a score table, evaluated by DuckDB.

An expression comes from the command line or from a call, never from a file. DuckDB parses it, what
it parsed is looked through, and only that is put into the query. The database has no access to
files, network or extensions, and its settings are locked.
"""

import json
import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.scores.score_table import ScoreTable

if TYPE_CHECKING:
    import duckdb

_ROW = "pycat_row"
_QUERY = f"SELECT {_ROW}, CAST(0 AS DOUBLE) AS value FROM scores"

# Kinds of nodes in DuckDB's syntax tree that a scalar expression is made of. Subqueries, stars,
# parameters and positions are not among them.
_ALLOWED = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "LAMBDA",
    "OPERATOR",
    "TYPE",
    "WINDOW",
}

# DuckDB holds what window functions need in memory: at most this share of the machine's.
_MEMORY_SHARE = 0.5
_MAX_THREADS = 8


def evaluate(table: ScoreTable, expression: str) -> NDArray[np.float64]:
    """Values (N,) of an expression such as `nll_0 / num_tokens - ln(num_src_tokens)`.

    Columns stream through DuckDB a chunk at a time. Window functions (`… OVER ()`) see all rows;
    DuckDB holds what they need in memory.

    Args:
        table: N pairs.
        expression: one scalar expression over its columns, of functions that give the same value
            each time.

    Raises:
        PycatError: DuckDB is missing or refuses the expression, it is more than one scalar
            expression, or a value is NULL.
    """
    try:
        import duckdb
    except ModuleNotFoundError:
        raise PycatError(
            f"criterion 'sql: {expression}' needs DuckDB; pip install 'pycat-nmt[sql]'"
        ) from None
    values = np.full(len(table), np.nan)
    try:
        with _connect() as connection:
            tree = _expression(connection, expression)
            # Read only the columns that the expression mentions.
            mentioned = {name.casefold() for node in _nodes(tree) for name in _columns(node)}
            used = [name for name in table.names if name.casefold() in mentioned]
            batches = _batches(table, used)
            first = next(batches)
            stream = pa.RecordBatchReader.from_batches(first.schema, chain([first], batches))
            connection.register("scores", stream)
            rows = connection.sql(_query(connection, tree))
            for batch in rows.to_arrow_reader(1 << 16):
                values[batch[_ROW].to_numpy()] = batch["value"].to_numpy(zero_copy_only=False)
    except duckdb.Error as error:
        raise _refused(
            expression, f"{error}; expected an expression over the columns {', '.join(table.names)}"
        ) from None
    return values


def check_expression(expression: str) -> None:
    """Refuse what is not one scalar expression, before any work; passes without DuckDB.

    Raises:
        PycatError: says what was found.
    """
    try:
        import duckdb
    except ModuleNotFoundError:  # `evaluate` says so
        return
    try:
        with _connect() as connection:
            _expression(connection, expression)
    except duckdb.Error as error:
        raise _refused(expression, str(error)) from None


def _connect() -> "duckdb.DuckDBPyConnection":
    """An empty database in memory that reaches nothing outside of it."""
    import duckdb

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _MEMORY_SHARE
    return duckdb.connect(
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
            "threads": str(min(len(os.sched_getaffinity(0)), _MAX_THREADS)),
            "memory_limit": f"{int(memory) >> 20}MiB",
            "lock_configuration": "true",
        }
    )


def _expression(connection: "duckdb.DuckDBPyConnection", expression: str) -> dict[str, Any]:
    """The syntax tree of one scalar expression.

    Raises:
        PycatError: it is something else.
    """
    statements = _parsed(connection, f"SELECT {expression}\n", expression)
    node = statements[0]["node"]
    # Whatever belongs to a query around the expression is empty.
    plain = {"type", "select_list", "from_table", "cte_map", "aggregate_handling"}
    clauses = [name for name, value in node.items() if value and name not in plain]
    found = node.get("select_list", [])
    if (
        len(statements) != 1
        or node["type"] != "SELECT_NODE"
        or node["from_table"]["type"] != "EMPTY"
        or node["cte_map"]["map"]
        or clauses
        or len(found) != 1
        or found[0]["alias"]
    ):
        raise _refused(expression, "expected one scalar expression, such as nll_0 / num_tokens")
    tree: dict[str, Any] = found[0]
    kinds = {node["class"] for node in _nodes(tree)}
    if others := kinds - _ALLOWED:
        raise _refused(
            expression, f"found {', '.join(sorted(others))}, expected one scalar expression"
        )
    names = {node["function_name"].casefold() for node in _nodes(tree) if "function_name" in node}
    unstable = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE list_contains(?, "
        "lower(function_name)) AND stability <> 'CONSISTENT' ORDER BY function_name",
        [sorted(names)],
    ).fetchall()
    if unstable:
        raise _refused(
            expression,
            f"{', '.join(name for (name,) in unstable)} does not give the same value each time, "
            "so the selection could not be made again",
        )
    return tree


def _query(connection: "duckdb.DuckDBPyConnection", tree: dict[str, Any]) -> str:
    """The query that evaluates the expression, written out by DuckDB."""
    statements = _parsed(connection, _QUERY, _QUERY)
    statements[0]["node"]["select_list"][1]["child"] = tree
    whole = json.dumps({"error": False, "statements": statements})
    [(query,)] = connection.execute("SELECT json_deserialize_sql(?::JSON)", [whole]).fetchall()
    return str(query)


def _parsed(
    connection: "duckdb.DuckDBPyConnection", query: str, expression: str
) -> list[dict[str, Any]]:
    [(text,)] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed = json.loads(text)
    if parsed["error"]:
        raise _refused(
            expression, f"{parsed['error_message']}; expected one scalar expression over columns"
        )
    statements: list[dict[str, Any]] = parsed["statements"]
    return statements


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)


def _columns(node: dict[str, Any]) -> list[str]:
    """Names in a reference to a column: its own, and maybe that of the table before it."""
    names: list[str] = node.get("column_names", [])
    return names


def _refused(expression: str, why: str) -> PycatError:
    return PycatError(f"criterion 'sql: {expression}': {' '.join(why.split())}")


def _batches(table: ScoreTable, names: list[str]) -> Iterator[pa.RecordBatch]:
    for rows, chunk in table.chunks():
        columns = {name: pa.array(chunk.column(name)) for name in names}
        columns[_ROW] = pa.array(np.arange(rows.start, rows.stop))
        yield pa.RecordBatch.from_pydict(columns)
