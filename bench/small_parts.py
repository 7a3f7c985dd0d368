"""Stages that cut text and corpora into small parts, so that a short run has several of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch


@contextmanager
def small_parts(num_pairs: int) -> Iterator[None]:
    """Cut text into parts of so many lines, and corpora into parts of so many pairs."""
    from pycat.data import text_parts
    from pycat.filters import measure_steps, measures, rule_measures
    from pycat.scores import score_table
    from pycat.scoring import engine

    named = [(text_parts, "PART_LINES")]
    named += [
        (module, "PART_PAIRS")
        for module in (measure_steps, measures, rule_measures, engine, score_table)
    ]
    with ExitStack() as stack:
        for module, name in named:
            stack.enter_context(patch.object(module, name, num_pairs))
        yield
