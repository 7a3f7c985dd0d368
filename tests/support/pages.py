"""The pages of the repository, and the commands and Python that they show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
# Those whose examples go on with what the one before made, in reading order.
RUN_IN_ORDER = (
    README,
    *(ROOT / "docs" / f"{name}.md" for name in ("stages", "criteria", "selection")),
    ROOT / "docs" / "external-scorers.md",
)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of this language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of shell blocks that call pycat."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("pycat ")]
