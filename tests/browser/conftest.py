"""A real browser: what a page shows, what it complains of, and whom it asks for what."""

import os
import shutil
from collections import namedtuple
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # a name that is not of this machine is not even looked up
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1",
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of these the browser asks nobody.
WITHIN = ("file", "data", "blob", "about", "chrome-extension")

Heard = namedtuple("Heard", ["errors", "requests"])


@pytest.fixture(scope="module")
def browser():
    """Chromium, without its window."""
    if CHROMIUM is None:
        pytest.skip("no browser: apt-get install chromium fonts-dejavu-core")
    driver = pytest.importorskip("playwright.sync_api", reason="pip install 'daskmlr[test]'")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def heard():
    """What the console of `page` said was wrong, and the addresses it asked."""
    return Heard([], [])


@pytest.fixture
def page(browser, heard):
    """An empty page; whatever it is made to show, it may neither complain nor ask outside."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    shown = context.new_page()
    shown.on("request", lambda request: heard.requests.append(request.url))
    shown.on("websocket", lambda socket: heard.requests.append(socket.url))
    shown.on("pageerror", lambda error: heard.errors.append(str(error)))
    shown.on(
        "console",
        lambda said: heard.errors.append(said.text) if said.type == "error" else None,
    )
    yield shown
    context.close()
    assert heard.errors == []
    assert [url for url in heard.requests if not is_near(url)] == []


def is_near(url):
    """Whether nobody but this machine is asked."""
    asked = urlsplit(url)
    return asked.scheme in WITHIN or asked.hostname in LOOPBACK


@pytest.fixture
def shoot(page, tmp_path):
    """Take a picture of the whole page: to the folder DASKMLR_SCREENSHOTS, if it is named."""
    folder = Path(os.environ.get("DASKMLR_SCREENSHOTS", tmp_path))

    def take(name):
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{name}.png"
        page.screenshot(path=picture, full_page=True)
        return picture

    return take
