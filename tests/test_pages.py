"""README and documentation: their commands and Python run, and say what the pages show of them."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(python|sh|text)\n(.*?)^```", re.M | re.S)
# What a reader has done already, what takes hours, and what stands for something of the reader's.
NOT_HERE = re.compile(r"pip install|python -m (venv|tests\.)|\b(STORE|MODEL|OUT)\b")

# Pages that use the tutorial's files.
BUILD_ON_IT = ("ingest", "uncertainty", "store-format", "watching")


class Reader:
    """Types what pages say, page after page, in one folder and one session of Python."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = {"__name__": "__main__"}
        self.said = ""
        command = folder / "bin" / "daskmlr"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m daskmlr "$@"\n')
        command.chmod(0o755)
        path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "120"}

    def follow(self, page: str) -> list[str]:
        """Run a page's fences; return the commands that ran."""
        commands = []
        for kind, content in FENCE.findall((ROOT / page).read_text()):
            if kind == "text":
                assert [cell for cell in _cells(content) if cell not in self.said] == []
            elif kind == "python":
                self.said = self.run_python(content)
            else:
                lines = [line for line in content.splitlines() if not NOT_HERE.search(line)]
                self.said = "".join(map(self.run_command, lines))
                commands += lines
        return commands

    def run_python(self, code: str) -> str:
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(code, "page", "exec"), self.names)
        return said.getvalue()

    def run_command(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, cwd=self.folder,
            env=self.environment,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout


def _cells(shown: str) -> list[str]:
    """What is between the rules of tables; lines that are in none, whole."""
    return [cell for line in shown.splitlines() for cell in re.split("[│┃]", line)]


@pytest.mark.timeout(300)  # a process for every command
def test_readme(tmp_path):
    reader = Reader(tmp_path)
    commands = reader.follow("README.md")
    assert [command.split()[1] for command in commands] == [
        "ingest", "info", "fit", "assign", "intervals", "report", "predict",
    ]  # fmt: skip


@pytest.mark.parametrize("words", ["daskmlr demo", "pip install '.[test]' && pytest"])
def test_readme_gives_the_commands(words):
    assert words in (ROOT / "README.md").read_text()


@pytest.mark.timeout(300)  # a process for every command
def test_tutorial_and_what_builds_on_it(tmp_path):
    reader = Reader(tmp_path)
    assert len(reader.follow("docs/tutorial.md")) == 7
    for page in BUILD_ON_IT:
        assert reader.follow(f"docs/{page}.md") == []
    commands = reader.follow("docs/update.md")  # last, since it appends to the tutorial's store
    assert [line.split()[1] for line in commands if line] == [
        "ingest", "update", "assign", "append", "update",
    ]  # fmt: skip


def test_no_other_page_has_python():
    """The commands of other pages are their measurements, which take hours."""
    pages = {path.stem for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text()}
    assert pages == {"tutorial", "update", *BUILD_ON_IT}
