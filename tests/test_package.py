"""What the package promises of itself: its public names, its map."""

import re
from pathlib import Path

import daskmlr

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "ComponentWarning",
    "DaskmlrError",
    "InputError",
    "MixedLinearRegression",
    "Model",
    "StoreError",
    "StructureWarning",
    "TaskBlock",
    "TaskStore",
    "append_tasks",
    "create_tasks",
    "ingest",
    "load_truth",
    "map_tasks",
    "odd_tasks",
    "open_tasks",
    "reduce_tasks",
    "simulate",
]


def test_public_names_are_these():
    assert sorted(daskmlr.__all__) == PUBLIC
    assert all(getattr(daskmlr, name).__doc__ for name in PUBLIC)


def test_architecture_lists_every_module_and_no_other():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = re.findall(r"^\| `(daskmlr/\S+\.py)` \|", text, re.M)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "daskmlr").rglob("*.py")}
    bare = {name for name in sources if len((ROOT / name).read_text().splitlines()) <= 3}
    empty = {name for name in bare if name.endswith("__init__.py")} | {"daskmlr/__init__.py"}
    assert sorted(listed) == sorted(sources - empty)


def test_no_module_is_a_book():
    lengths = {
        path: len(path.read_text().splitlines()) for path in (ROOT / "daskmlr").rglob("*.py")
    }
    assert {path.name: n for path, n in lengths.items() if n > 400} == {}
