"""Values as people read them."""

from collections.abc import Mapping, Sequence

import numpy as np


def number(value: float) -> str:
    """Three significant digits, or all before the point; powers of ten far from 1."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.2e}".split("e")
        digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        mantissa = mantissa.rstrip("0").rstrip(".")
        text = f"10{digits}" if mantissa == "1" else f"{mantissa}×10{digits}"
    else:
        whole = abs(value) >= 1000 or value == round(value)
        text = f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def percent(value: float) -> str:
    """A share, to a tenth of a percent."""
    return f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Milliseconds, seconds, minutes or hours, whichever fits."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def signed(value: float, digits: int = 1) -> str:
    """A difference or correlation, plus sign included; a dash for NaN."""
    if np.isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−")


def series(steps: Sequence[int]) -> str:
    """All of a few numbers, the ends of many."""
    texts = [f"{step:,}" for step in steps]
    return ", ".join(texts) if len(texts) <= 6 else f"{texts[0]}, {texts[1]}, … {texts[-1]}"


def option(value: object) -> str:
    """An option's JSON value without its brackets."""
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {option(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(option(item) for item in value)
    return str(value)
