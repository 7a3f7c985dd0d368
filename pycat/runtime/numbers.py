"""Numbers that are given as options: one check for all of them."""

import math
from typing import Any

from pycat.errors import PycatError


def check_number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
    whole: bool = True,
) -> None:
    """Refuse what is not a finite number between two bounds.

    Args:
        name: of the option, for the message.
        value: what was given.
        low, high: the bounds.
        above, below: the number must not equal `low`, or `high`.
        whole: it must be a whole number; numpy's are taken too.

    Raises:
        PycatError: says what was expected.
    """
    kinds = (int,) if whole else (int, float)
    number = value.item() if type(value).__module__ == "numpy" and value.ndim == 0 else value
    if isinstance(number, kinds) and not isinstance(number, bool) and math.isfinite(number):
        if low < number < high:
            return
        if (number == low and not above) or (number == high and not below):
            return
    words = []
    if low > -math.inf:
        words.append(f"{'above' if above else 'at least'} {low:,}")
    if high < math.inf:
        words.append(f"{'below' if below else 'at most'} {high:,}")
    expected = " and ".join(words) or ("a whole number" if whole else "a finite number")
    if words and not isinstance(number, kinds):
        expected = f"a {'whole ' if whole else ''}number, {expected}"
    raise PycatError(f"{name} is {value!r}; expected {expected}")
