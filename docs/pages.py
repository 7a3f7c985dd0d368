"""The pages of the documentation site that are made, not written: a hook of mkdocs.

The README, the notes on the benches, the contributor's page and the list of changes stand elsewhere
in the repository. The command line is described by its own parsers, the Python interface by its
docstrings.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import pycat
from pycat.cli.main import argument_parser

_REPOSITORY = Path(__file__).parents[1]
_COPIED = {
    "README.md": "index.md",
    "bench/README.md": "bench.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_OUTSIDE_SCRIPT = re.compile(r'<script src="https://[^"]*"')
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {page: _copied(source) for source, page in _COPIED.items()}
    made["command-line.md"] = "\n".join(_command_line())
    made["python.md"] = "\n".join(_python())
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """In pages of docs/, lead links to files beside docs/ to their pages."""
    source = page.file.src_uri
    if source in _COPIED.values() or source in ("command-line.md", "python.md"):
        return markdown
    return _relinked(markdown, "docs")


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Load the search's stand-in for workers from the site, and nothing from outside."""
    return _from_inside(output, relpath("worker.js", PurePosixPath(page.url).parent))


def on_post_template(output: str, **_: object) -> str:
    """The same for pages that are no one's text, such as that of an unknown address."""
    return _from_inside(output, "/worker.js")


def _from_inside(output: str, worker: str) -> str:
    return _OUTSIDE_SCRIPT.sub(f'<script src="{worker}"', output)


def _copied(source: str) -> str:
    text = (_REPOSITORY / source).read_text("utf-8")
    return _relinked(text, str(PurePosixPath(source).parent))


def _relinked(text: str, folder: str) -> str:
    """The text with its links, which start in `folder` of the repository, as links of the site."""

    def relinked(link: re.Match[str]) -> str:
        found = normpath(f"{folder}/{link[1]}")
        anchor = link[2] or ""
        if found in _COPIED:
            return f"]({_COPIED[found]}{anchor})"
        if found.startswith("docs/"):
            return f"]({relpath(found, 'docs')}{anchor})"
        return f"](#) (`{found}`)" if (_REPOSITORY / found).exists() else link[0]

    return _LINK.sub(relinked, text)


def _command_line() -> Iterator[str]:
    """The verbs, and the options of each."""
    parser = argument_parser()
    yield f"# The command line\n\n{parser.description}\n"
    for verbs in parser._actions:
        if not isinstance(verbs, argparse._SubParsersAction):
            continue
        for name, verb in verbs.choices.items():
            yield f"## pycat {name}\n\n{_escaped(verb.description)}\n"
            yield f"```text\n{verb.format_usage().removeprefix('usage: ').rstrip()}\n```\n"
            for group in verb._action_groups:
                shown = [action for action in group._group_actions if action.dest != "help"]
                if not shown:
                    continue
                if group.title and group.title not in ("options", "positional arguments"):
                    yield f"**{group.title}**\n"
                if group.description:
                    yield f"{_escaped(group.description)}\n"
                yield "| option | |\n|---|---|"
                for action in shown:
                    yield f"| `{_option(action)}` | {_cell(action)} |"
                yield ""


def _option(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or action.dest.rpartition(".")[2]
    if action.nargs == 0 or not action.option_strings:
        return name
    return f"{name} {action.metavar or '…'}".replace("|", "\\|")


def _cell(action: argparse.Action) -> str:
    choices = f" One of {', '.join(map(str, action.choices))}." if action.choices else ""
    return _escaped((action.help or "").replace("%%", "%") + choices)


def _escaped(text: str | None) -> str:
    return re.sub(r"([|<>*_\[\]])", r"\\\1", text or "")


def _python() -> Iterator[str]:
    """Every public name, in the order of its kind: functions, then classes, then errors."""
    yield "# The Python interface\n\n`import pycat` loads nothing heavy: each name is imported"
    yield "when it is first used.\n"
    names = [name for name in pycat.__all__ if name.isidentifier()]
    functions = [name for name in names if name[0].islower()]
    errors = [name for name in names if name.endswith("Error")]
    classes = [name for name in names if name not in (*functions, *errors) and not name.isupper()]
    for title, group in (("Functions", functions), ("Classes", classes), ("Errors", errors)):
        yield f"## {title}\n"
        for name in group:
            yield f"::: {pycat._MODULES.get(name, 'pycat.errors')}.{name}\n"
