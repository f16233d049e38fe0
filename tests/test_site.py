"""The documentation site builds without a warning, and asks nothing of the network."""

import re
from html.parser import HTMLParser
from pathlib import Path

import daskmlr
from daskmlr import plot
from daskmlr.cli import main

DOCS = Path(__file__).parents[1] / "docs"


class Loads(HTMLParser):
    """What a browser loads with a page: not where its links lead."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attrs):
        if tag != "a":
            self.urls += [value for name, value in attrs if name in ("src", "href", "action")]


def test_every_page_is_in_the_navigation(site):
    shown = (site / "index.html").read_text()
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert {page for page in pages if f'href="{page}.html"' not in shown} == {"index"}


def test_the_reference_has_every_public_name_and_command(site):
    python, command = ((site / f"{page}.html").read_text() for page in ("python", "command"))
    names = re.findall(r'id="daskmlr\.(?:\w+\.)*(\w+)"', python)
    assert {*daskmlr.__all__, *plot.__all__} - set(names) == set()
    assert [name for name in main.commands if f'id="daskmlr-{name}"' not in command] == []


def test_nothing_is_loaded_from_elsewhere(site):
    loads = {}
    for page in site.glob("*.html"):
        parser = Loads()
        parser.feed(page.read_text())
        loads[page.name] = parser.urls
    assert all("_static/pygments.css" in "".join(urls) for urls in loads.values())
    assert {url for urls in loads.values() for url in urls if "//" in url} == set()
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()) == []


def test_formulas_are_mathml(site):
    text = (site / "method.html").read_text()
    assert text.count("<math ") > 20
    assert "\\(" not in text
