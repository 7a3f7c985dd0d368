"""Imports run one way through the rooms of pycat, and never in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PYCAT = Path(__file__).parents[1] / "pycat"
KERNELS = PYCAT.parent / "kernels"  # installed as pycat.kernels

# Each room, and the rooms whose modules it may import; `errors` and `_core` are open to all.
BELOW: dict[str, set[str]] = {}
for rooms in (
    ("kernels",),
    ("runtime",),
    ("data", "scores"),
    ("ranking", "filters", "proxy"),
    ("selection", "scoring"),
    ("evaluation",),
    ("report",),
    ("earlier_work",),
    ("pruning", "verification"),
    ("cli", "integrations"),
    ("demo",),
):
    reachable = set(BELOW)
    for room in rooms:
        BELOW[room] = reachable if room not in ("kernels", "runtime") else set()
# A score table opens the corpus that it was made of.
BELOW["scores"] = BELOW["scores"] | {"data"}
OPEN_TO_ALL = {"errors", "_core"}
# A verb calls the public function of its name, which `pycat/__init__.py` gathers.
USES_PUBLIC_NAMES = {"cli"}


def modules() -> dict[str, Path]:
    """Every module of pycat by its dotted name; `pycat/__init__.py`, which gathers, left out."""
    found = {}
    for path in sorted(PYCAT.rglob("*.py")):
        name = ".".join(("pycat", *path.relative_to(PYCAT).with_suffix("").parts))
        if path.name != "__init__.py":
            found[name] = path
    return found | {f"pycat.kernels.{path.stem}": path for path in sorted(KERNELS.glob("*.py"))}


def imports(source: str, known: set[str]) -> set[str]:
    """Modules of pycat that a source imports, inside functions and for types too."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names if alias.name.split(".")[0] == "pycat"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pycat":
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                is_module = deeper in known or deeper == "pycat._core"
                named.add(deeper if is_module else str(node.module))
    return named


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def against_direction(importer: str, imported: str) -> bool:
    """Whether this import runs against the stated direction."""
    here, there = room_of(importer), room_of(imported)
    if here in ("", "__main__") or there in OPEN_TO_ALL or here == there:
        return False
    if there == "":
        return here not in USES_PUBLIC_NAMES
    return here in OPEN_TO_ALL or there not in BELOW[here]


def test_every_module_stands_in_a_room() -> None:
    assert {room_of(name) for name in modules()} <= {*BELOW, "errors", "__main__"}


def test_imports_run_one_way() -> None:
    known = modules()
    wrong = [
        f"{importer} imports {imported}"
        for importer, path in known.items()
        for imported in sorted(imports(path.read_text("utf-8"), set(known)))
        if against_direction(importer, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {
        name: imports(path.read_text("utf-8"), set(known)) & set(known)
        for name, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_rooms_gather_nothing() -> None:
    for init in PYCAT.glob("*/__init__.py"):
        assert not init.read_text("utf-8"), f"{init} is not empty"


@pytest.mark.parametrize(
    ("importer", "source", "is_wrong"),
    [
        ("pycat.data.corpus", "from pycat.errors import CorpusError", False),
        ("pycat.data.corpus", "def late():\n    from pycat.scores import merge", True),
        ("pycat.scores.score_table", "from pycat.data.corpus import Corpus", False),
        ("pycat.kernels.ops", "from pycat.runtime.device import choose_device", True),
        ("pycat.runtime.output", "import pycat.data.corpus", True),
        ("pycat.cli.main", "from pycat.pruning import prune", False),
        ("pycat.pruning", "if TYPE_CHECKING:\n    from pycat.cli.main import main", True),
        ("pycat.scoring.engine", "from pycat import _core", False),
        ("pycat.scoring.engine", "from pycat import Corpus", True),
        ("pycat.pruning", "import pycat", True),
        ("pycat.cli.report", "import pycat", False),
        ("pycat.selection.recipe", "from pycat.scoring.engine import score", True),
        ("pycat.errors", "from pycat.runtime.output import OutputFolder", True),
    ],
)
def test_the_check_sees(importer: str, source: str, is_wrong: bool) -> None:
    found = imports(source, set(modules()))
    assert any(against_direction(importer, name) for name in found) == is_wrong
