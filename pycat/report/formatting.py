"""Formatting of numbers, durations and options for people to read."""

from collections.abc import Mapping, Sequence

import numpy as np


def number(value: float) -> str:
    """Format with three significant digits or all whole ones, and far from 1 by a power of ten."""
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
    """Format a share with a tenth of a percent."""
    return f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Format a time as milliseconds, seconds, minutes or hours, by its size."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole_seconds:02} s"


def signed(value: float, digits: int = 1) -> str:
    """Format a difference or a correlation with its sign; zero has none, and NaN is a dash."""
    if np.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", "−")


def series(steps: Sequence[int]) -> str:
    """List up to six numbers in full, and of more the first two and the last."""
    texts = [f"{step:,}" for step in steps]
    return ", ".join(texts) if len(texts) <= 6 else f"{texts[0]}, {texts[1]}, … {texts[-1]}"


def option(value: object) -> str:
    """Format an option's JSON value, without brackets."""
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {option(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(option(item) for item in value)
    return str(value)
