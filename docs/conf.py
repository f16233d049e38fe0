"""The documentation site: ``sphinx-build -W docs site``. It asks nothing of any network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "daskmlr"
author = "The daskmlr developers"
copyright = author  # noqa: A001 - Sphinx calls it so

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # names in single backquotes, as numpydoc has it
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, with shapes and units
suppress_warnings = ["ref.python"]  # words of those types that happen to be names
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"  # fonts of the reader's system
html_title = "daskmlr"
html_copy_source = False
html_show_search_summary = False  # would fetch pages, which browsers refuse to those of a folder
html_show_sphinx = False
html_math_renderer = "mathml"


def _mathml(display: str) -> Any:
    """Write a formula as MathML, which browsers show without a script."""

    def visit(writer: Any, node: nodes.math | nodes.math_block) -> None:
        writer.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit


def setup(app: Sphinx) -> None:
    """Register the renderer of formulas."""
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))
