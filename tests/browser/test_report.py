"""The report of a fit in a browser: on a desk, on a phone, on paper."""

import numpy as np
import pandas as pd
import pytest

from daskmlr import MixedLinearRegression, ingest
from daskmlr.report import write_report

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
HOSTILE = "distance <script>alert(1)</script>"
LONG = "a_column_whose_name_somebody_has_made_of_very_many_words_without_any_space_between_them"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three kinds of driver, fitted with two components: there is something to warn of."""
    rng = np.random.default_rng(0)
    driver = np.repeat(np.arange(1200), rng.integers(1, 12, 1200))
    distance = rng.uniform(1, 30, len(driver))
    hour = rng.choice(["day", "night", "rush"], len(driver))
    slope, rush = np.array([1.0, 3.0, -0.5]), np.array([0.0, 5.0, 12.0])
    delay = slope[driver % 3] * distance + rush[driver % 3] * (hour == "rush")
    noise = rng.normal(0, 2, (2, len(driver)))
    table = {"driver": driver, HOSTILE: distance, "hour": hour, LONG: noise[0]}
    path = tmp_path_factory.mktemp("report")
    tasks = ingest(
        pd.DataFrame({**table, "delay": delay + noise[1]}), path / "tasks",
        task="driver", target="delay",
    )  # fmt: skip
    with pytest.warns():
        model = MixedLinearRegression(2, random_state=0).fit(tasks, client="sync").model_
    write_report(model, path / "report.html")
    return path / "report.html"


@pytest.fixture
def shown(page, report):
    """The report in the browser; a dialogue would be a script that runs."""
    dialogues = []
    page.on("dialog", lambda dialogue: dialogues.append(dialogue.message) or dialogue.dismiss())
    page.goto(report.as_uri())
    yield page
    assert dialogues == []


def drawn(page):
    """How wide each picture is that the browser could draw."""
    return page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth && i.width)")


def test_on_a_desk(shown, shoot):
    shown.set_viewport_size(DESK)
    assert "2 linear regressions of delay on 4 features" in shown.title()
    headings = shown.locator("h2").all_inner_texts()
    assert headings[:2] == ["Warnings", "What was fitted"]
    assert shown.locator(".warn").count() > 0
    assert shown.get_by_text("more than one regression").first.is_visible()
    assert f"for each unit of {HOSTILE}" in shown.locator("#components").inner_text()
    assert "where hour is rush than where it is day" in shown.locator("#components").inner_text()
    widths = drawn(shown)
    assert len(widths) == 6
    assert min(widths) > 300
    assert all(shown.locator("figure img").nth(i).get_attribute("alt") for i in range(6))
    shown.locator("nav a", has_text="Time").click()
    assert shown.locator("#time").is_visible()
    assert shoot("report-desk").stat().st_size > 50_000


def test_on_a_phone_only_tables_are_wider_than_the_screen(shown, shoot):
    shown.set_viewport_size(PHONE)
    assert shown.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert max(drawn(shown)) <= PHONE["width"]
    overflow = "[...document.querySelectorAll('.box')].filter(b => b.scrollWidth > b.clientWidth)"
    assert shown.evaluate(f"{overflow}.every(b => getComputedStyle(b).overflowX == 'auto')")
    assert shown.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 14
    shoot("report-phone")


def test_on_paper(shown):
    shown.emulate_media(media="print")
    assert not shown.locator("nav").is_visible()
    paper = shown.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert 3 <= paper.count(b"/Type /Page\n") <= 8
