"""What the package promises of itself: its public names, its map, its README."""

import re
import runpy
import subprocess
import sys
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
README = (ROOT / "README.md").read_text()
FENCES = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


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
    assert len(FENCES) == 4
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(FENCES))
    runpy.run_path(str(script))
    shown = capsys.readouterr().out
    assert shown.splitlines()[2] == "[4.] [0.3]"


def test_readme_commands_run(tmp_path, monkeypatch):
    """The commands for a table, after the Python that makes it; what `fit` shows is in the text."""
    monkeypatch.chdir(tmp_path)
    exec(FENCES[0], {})
    commands = re.findall(r"^daskmlr .*trips.*$", README, re.M)
    assert len(commands) == 6
    shown = {}
    for command in commands:
        line = f"{sys.executable} -m {command}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shown[command.split()[1]] = done.stdout
    promised = [line for line in README.splitlines() if line.startswith("│")]
    assert len(promised) == 6
    for line in promised:
        assert [cell for cell in line.split("│") if cell not in shown["fit"]] == []


@pytest.mark.parametrize("words", ["daskmlr demo", "pip install '.[test]' && pytest"])
def test_readme_gives_the_commands(words):
    assert words in README
