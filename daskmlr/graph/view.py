"""What the page shows: a run as bokeh draws it; what has changed is sent, and drawn again."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import UTC, datetime
from html import escape
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

from bokeh.layouts import column, row
from bokeh.models import (
    AdaptiveTicker,
    BasicTicker,
    ColumnDataSource,
    Div,
    NumeralTickFormatter,
    Select,
)
from bokeh.palettes import Colorblind8
from bokeh.plotting import figure
from dask.utils import format_bytes, format_time
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from daskmlr.graph.faults import Work

if TYPE_CHECKING:
    from bokeh.document import Document

    from daskmlr.graph.board import Board, Run

UPDATE_MILLISECONDS = 500
LATEST = "the latest"
# Stages and worker changes that are listed, the latest.
MOST_STAGES, MOST_CHANGES = 200, 5
# Facts of a pass that are not of what it found.
WORK = {fact.name for fact in fields(Work)}
COLORS = [color for color in Colorblind8 if color != "#F0E442"]  # yellow is faint on white
BLUE, ORANGE, GREEN = COLORS[:3]
STYLE = """
.head { font-size: 20px; margin: 0 0 6px 0; }
.bar { background: #ddd; border-radius: 4px; height: 14px; overflow: hidden; }
.bar div { background: %s; height: 14px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 32px; margin-top: 8px; }
.facts div { min-width: 120px; }
.facts b { display: block; font-size: 16px; }
.wrong { color: #a00000; font-weight: bold; }
ul { margin: 6px 0 0 0; padding-left: 18px; }
table { border-collapse: collapse; }
th, td { padding: 2px 14px 2px 0; text-align: right; font-variant-numeric: tabular-nums; }
th { border-bottom: 1px solid #888; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
.stages { max-height: 420px; max-width: calc(100vw - 30px); overflow: auto; }
.stages th, .stages td { white-space: nowrap; }
""" % (BLUE,)  # noqa: UP031 - braces are CSS's


def document(board: Board, extra: dict[str, Any], doc: Document) -> None:
    """Fill bokeh's document of one who looks."""
    view = View()
    view.show(board)
    doc.title = "Dask: daskmlr"
    doc.add_root(view.root)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME
    doc.add_periodic_callback(lambda: view.show(board), UPDATE_MILLISECONDS)


class View:
    """The parts of the page."""

    def __init__(self) -> None:
        self.choice = Select(title="Run", value=LATEST, options=[LATEST], visible=False, width=600)
        self.now, self.stages = (
            Div(sizing_mode="stretch_width", stylesheets=[STYLE]) for _ in range(2)
        )
        self.rates = _source("rates", "seconds", "decoded", "device")
        self.best = _source("best", "seconds", "rate")
        self.likelihoods = _source("likelihoods", "pass", "value")
        self.weights = _source("weights", "passes", "weights", "color")
        self.ends = _source("ends", "pass", "weight", "color")
        self.rate_figure = self._rate_figure()
        figures = [self.rate_figure, self._likelihood_figure(), self._weight_figure()]
        self.root = column(
            self.choice,
            self.now,
            row(*figures, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"}),
            self.stages,
            sizing_mode="stretch_width",
        )

    def _rate_figure(self) -> Any:
        fig = _figure("Throughput", "seconds since the run began", "bytes per second")
        fig.yaxis.formatter = NumeralTickFormatter(format="0 b")
        fig.yaxis.ticker = AdaptiveTicker(base=1024, mantissas=[2**i for i in range(10)])
        for name, color, label in (
            ("decoded", BLUE, "blocks, decoded"), ("device", ORANGE, "read by the hosts"),
        ):  # fmt: skip
            fig.line("seconds", name, source=self.rates, color=color, width=2, legend_label=label)
        fig.line(
            "seconds", "rate", source=self.best, color=GREEN, dash="dashed", width=2,
            legend_label="best pass",
        )  # fmt: skip
        fig.add_layout(fig.legend[0], "below")
        fig.legend.orientation = "horizontal"
        fig.legend.border_line_color = None
        fig.legend.background_fill_alpha = 0
        fig.y_range.start = 0
        return fig

    def _likelihood_figure(self) -> Any:
        fig = _figure("Log-likelihood of all tasks", "refinement pass", "log-likelihood")
        fig.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
        fig.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
        fig.line("pass", "value", source=self.likelihoods, color=BLUE, width=2)
        fig.scatter("pass", "value", source=self.likelihoods, color=BLUE, size=5)
        return fig

    def _weight_figure(self) -> Any:
        fig = _figure("Component sizes", "refinement pass", "share of the tasks")
        fig.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
        fig.y_range.start = 0
        fig.multi_line("passes", "weights", source=self.weights, color="color", width=2)
        fig.scatter("pass", "weight", source=self.ends, color="color", size=5)
        return fig

    def show(self, board: Board) -> None:
        """Draw the run that is asked for."""
        runs = list(board.runs.values())
        options = [LATEST, *((run.id, _label(run)) for run in reversed(runs))]
        if options != self.choice.options:
            self.choice.options, self.choice.visible = options, len(runs) > 1
        chosen = _chosen(runs, self.choice.value)
        if chosen is None:
            return
        run = {**chosen.told(), "workers": board.n_workers}
        self.now.text, self.stages.text = _now(run), _stages(run)
        self._show_rates(run)
        likelihoods = [math.nan if v is None else v for v in run["log_likelihoods"]]
        _set(self.likelihoods, {"pass": _count(likelihoods), "value": likelihoods})
        lines = [list(line) for line in zip(*run["weights"], strict=False)]
        colors = [color for _, color in zip(lines, cycle(COLORS), strict=False)]
        numbers = [_count(line) for line in lines]
        _set(self.weights, {"passes": numbers, "weights": lines, "color": colors})
        ends = [line[-1] for line in lines]
        lasts = [len(line) for line in lines]
        _set(self.ends, {"pass": lasts, "weight": ends, "color": colors})

    def _show_rates(self, run: dict[str, Any]) -> None:
        samples = run["samples"]
        decoded = [
            (later[1] - earlier[1]) / max(later[0] - earlier[0], 1e-9)
            for earlier, later in pairwise(samples)
        ]
        data = {
            "seconds": [sample[0] for sample in samples[1:]],
            "decoded": decoded,
            "device": [sample[2] for sample in samples[1:]],
        }
        _set(self.rates, data)
        best = run["best_pass_bytes_per_second"]
        ends = data["seconds"][:: max(len(samples) - 2, 1)] if best else []
        _set(self.best, {"seconds": ends, "rate": [best] * len(ends)})
        device = "disks" if run["device"] == "disk" else "network"
        self.rate_figure.title.text = f"Throughput of the blocks, and of the hosts' {device}"


def _figure(title: str, x: str, y: str) -> Any:
    return figure(
        title=title,
        x_axis_label=x,
        y_axis_label=y,
        height=280,
        min_width=340,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
    )


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=name)


def _set(source: ColumnDataSource, data: dict[str, Any]) -> None:
    """Send what has changed alone."""
    if data != dict(source.data):
        source.data = data


def _count(items: list[Any]) -> list[int]:
    return list(range(1, len(items) + 1))


def _chosen(runs: list[Run], asked: str) -> Run | None:
    """Return the run that is asked for; else the last one under way, else the last."""
    for run in runs:
        if run.id == asked:
            return run
    under_way = [run for run in runs if run.state == "running"]
    return next(reversed(under_way or runs), None)


def _label(run: Run) -> str:
    store = run.facts.get("store", "").rstrip("/").rpartition("/")[2]
    began = datetime.fromtimestamp(run.started, UTC)
    who = f"process {run.facts.get('process')} on {run.facts.get('host')}"
    return f"{store}, {who}, {began:%H:%M:%S} UTC, {run.state}"


def _now(run: dict[str, Any]) -> str:
    """Say in HTML what the run is at."""
    share = 100 * run["graph_tasks_done"] / max(run["graph_tasks"], 1)
    number = f", pass {run['pass']}" if run["pass"] > 1 or run["graph_tasks"] > 1 else ""
    if run["state"] == "running":
        head = f"{escape(run['stage'])}{number}"
    else:
        wrong = f": <span class='wrong'>{escape(run['error'])}</span>" if run["error"] else ""
        head = f"{run['state']} after {format_time(run['seconds'])}{wrong}"
    changed = f"{run['workers_lost']} lost, {run['workers_joined']} joined"
    facts = {
        "graph tasks of the pass": f"{run['graph_tasks_done']:,} of {run['graph_tasks']:,}",
        **_rates(run),
        **_fit(run),
        "workers": f"{run['workers']} now, {changed}",
        "store": escape(run["store"]),
        "run by": escape(f"process {run['process']} on {run['host']}"),
    }
    cells = "".join(f"<div>{name}<b>{said}</b></div>" for name, said in facts.items())
    changes = "".join(
        f"<li>{escape(said)} at {format_time(at)}</li>"
        for at, said in run["worker_changes"][-MOST_CHANGES:]
    )
    return (
        f"<div class='head'>{head}</div><div class='bar'><div style='width: {share:.1f}%'></div>"
        f"</div><div class='facts'>{cells}</div>" + (f"<ul>{changes}</ul>" if changes else "")
    )


def _rates(run: dict[str, Any]) -> dict[str, str]:
    best = run["best_pass_bytes_per_second"]
    if run["state"] != "running":
        return {"blocks decoded, best pass": _rate(best)} if best else {}
    found = {"blocks decoded": _rate(run["bytes_per_second"])}
    if best:
        found["best pass so far"] = _rate(best)
    found[f"read from the {run['device']} just now"] = _rate(run["device_bytes_per_second"])
    left = run["seconds_left"]
    if left:
        found["left of the pass"] = format_time(left) if left >= 1 else "under 1 s"
    return found


def _fit(run: dict[str, Any]) -> dict[str, str]:
    found = {} if run["n_components"] is None else {"components": str(run["n_components"])}
    known = [value for value in run["log_likelihoods"] if value is not None]
    if known:
        gain = f" ({known[-1] - known[-2]:+,.4g} by the last pass)" if len(known) > 1 else ""
        found["log-likelihood"] = f"{known[-1]:,.2f}{gain}"
    if run["weights"] and run["weights"][-1]:
        found["component sizes"] = ", ".join(f"{share:.3f}" for share in run["weights"][-1][:12])
    return found


def _stages(run: dict[str, Any]) -> str:
    """List the stages done in HTML, the latest first."""
    names = ("stage", "components", "pass", "seconds", "data", "per second", "reading", "found")
    rows = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in _cells(stage)) + "</tr>"
        for stage in reversed(run["stages"][-MOST_STAGES:])
    )
    heads = "".join(f"<th>{name}</th>" for name in names)
    return f"<div class='stages'><table><tr>{heads}</tr>{rows}</table></div>"


def _cells(stage: dict[str, Any]) -> list[str]:
    n_bytes, seconds = stage.get("bytes", 0), stage["seconds"]
    facts = stage.get("found", {})
    found = [
        f"{name.replace('_', ' ')} {value:,.10g}"
        for name, value in facts.items()
        if isinstance(value, int | float) and name not in WORK
    ]
    if stage.get("kept"):
        found.append("kept from the run before")
    threads = facts.get("thread_seconds")
    return [
        escape(stage["stage"]),
        str(stage.get("n_components", "")),
        str(stage["pass"]) if n_bytes else "",
        f"{seconds:,.3g}",
        format_bytes(n_bytes) if n_bytes else "",
        _rate(n_bytes / seconds) if n_bytes and seconds else "",
        f"{facts['reading_seconds'] / threads:.0%}" if threads else "",
        escape("; ".join(found)),
    ]


def _rate(bytes_per_second: float) -> str:
    return f"{format_bytes(int(bytes_per_second))}/s"
