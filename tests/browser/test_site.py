"""The documentation site in a browser: every page, its formulas, its search."""


def test_every_page(site, page):
    """Read from a folder, without any server; the fixture refuses complaints and requests."""
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 20
    for path in pages:
        page.goto(path.as_uri())
        assert "daskmlr" in page.title()


def test_formulas_and_search(site, page, shoot):
    page.goto((site / "method.html").as_uri())
    formula = page.locator("math[display=block]").nth(1).bounding_box()
    assert formula["height"] > 30  # a fraction and sums, drawn and not spelt
    shoot("method")
    page.get_by_placeholder("Search").fill("noise edge")
    page.get_by_placeholder("Search").press("Enter")
    page.locator("#search-results a").first.wait_for()
    assert "The method" in page.locator("#search-results").inner_text()
