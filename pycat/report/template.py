"""Templates of the pages, with the filters that they use."""

from pathlib import Path

import jinja2

from pycat.report.formatting import duration, number, option, percent, series, signed


def template(name: str) -> jinja2.Template:
    """The template of that file; a variable that is missing from it raises."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "number": number,
        "percent": percent,
        "duration": duration,
        "option": option,
        "signed": signed,
        "series": series,
    }
    environment.globals["zip"] = zip
    return environment.get_template(name)
