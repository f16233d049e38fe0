"""What the package promises of itself: its public names, its map, its README."""

import re
import runpy
from pathlib import Path

import pytest

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
FENCES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


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


def test_readme_runs(tmp_path, monkeypatch, capsys):
    """The Python of the README, top to bottom in one namespace, as a reader would type it."""
    assert len(FENCES) == 3
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(FENCES))
    runpy.run_path(str(script))
    shown = capsys.readouterr().out
    assert shown.splitlines()[2] == "[4.] [0.3]"


@pytest.mark.parametrize("words", ["daskmlr demo", "pip install '.[test]' && pytest"])
def test_readme_gives_the_commands(words):
    assert words in (ROOT / "README.md").read_text()
