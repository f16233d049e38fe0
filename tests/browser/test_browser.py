"""The browser itself: a page that complains, or asks outside, must be caught."""

import pytest

from tests.browser.conftest import is_near


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:8787/daskmlr", True),
        ("ws://localhost:1/ws", True),
        ("file:///tmp/report.html", True),
        ("data:text/html,hello", True),
        ("https://cdn.bokeh.org/bokeh.js", False),
        ("http://127.0.0.1.example.org/", False),
    ],
)
def test_what_is_near(url, near):
    assert is_near(url) is near


def test_complaints_and_requests_are_heard(page, heard, shoot, tmp_path):
    document = tmp_path / "odd.html"
    document.write_text(
        "<p>hello</p><script>console.error('odd')</script>"
        "<img src='https://nowhere.example/a.png'><script>undefined.x</script>"
    )
    page.goto(document.as_uri())
    page.wait_for_selector("p")
    assert page.inner_text("p") == "hello"
    assert shoot("hello").stat().st_size > 1000
    assert "odd" in heard.errors
    assert any("undefined" in said for said in heard.errors)
    assert [url for url in heard.requests if not is_near(url)] == ["https://nowhere.example/a.png"]
    heard.errors.clear()  # seen: the end of the page would find them
    heard.requests.clear()
