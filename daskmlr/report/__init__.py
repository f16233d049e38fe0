"""What a store holds and what a model found: as facts, as tables for a terminal, as a page."""

from daskmlr.report.figures import check_plots
from daskmlr.report.page import check_html, report_page, write_report
from daskmlr.report.tables import (
    forecast_facts,
    forecast_table,
    interval_facts,
    interval_table,
    model_facts,
    model_table,
    model_tables,
    odd_facts,
    store_facts,
    store_tables,
)

__all__ = [
    "check_html",
    "check_plots",
    "forecast_facts",
    "forecast_table",
    "interval_facts",
    "interval_table",
    "model_facts",
    "model_table",
    "model_tables",
    "odd_facts",
    "report_page",
    "store_facts",
    "store_tables",
    "write_report",
]
