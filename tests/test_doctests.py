"""Every example in a docstring runs, and every public name but errors has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import daskmlr

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(daskmlr.__path__, "daskmlr.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


NAMES = [name for name in daskmlr.__all__ if not name.endswith(("Error", "Warning"))]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_show_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(daskmlr, name))
