"""What the page says of a run, as bokeh is given it."""

import math

from daskmlr.graph.board import Board
from daskmlr.graph.view import LATEST, View

RUN = {"event": "run", "client": "c", "host": "<host>", "process": 1}


def begin(stage, store="/data/<i>trips</i>", n_bytes=1000):
    return {
        "event": "begin", "at": 0.0, "stage": stage, "number": 1, "total": 4, "n_bytes": n_bytes,
        "store": store,
    }  # fmt: skip


def found(stage, *, kept=False, **facts):
    entry = {"stage": stage, "seconds": 2.0, **facts}
    return {"event": "found", "at": 0.0, "entry": entry, "kept": kept}


def shown(board, *events, run="a"):
    view = View()
    board.take({"run": run, "now": 5.0, "events": [RUN, *events]})
    view.show(board)
    return view


def test_nothing_yet():
    view = View()
    view.show(Board())
    assert view.now.text == ""


def test_an_error_and_names_cannot_write_on_the_page():
    over = {"event": "over", "at": 1.0, "seconds": 1.0}
    end = {"event": "end", "at": 65.0, "error": "<script>task & co</script>"}
    view = shown(Board(), begin("<b>mine</b>"), over, end)
    html = view.now.text + view.stages.text
    assert "failed after 65.00 s" in html
    assert "&lt;script&gt;task &amp; co" in html
    for tag in ("<script>", "<b>mine", "<i>", "<host>"):
        assert tag not in html


def test_a_stage_kept_and_a_likelihood_without_bound():
    view = shown(
        Board(),
        found("refine", kept=True, log_likelihood=-7.5, weights=[0.75, 0.25]),
        found("refine", log_likelihood=math.inf, weights=[0.5, 0.5]),
    )
    assert "kept from the run before" in view.stages.text
    assert view.likelihoods.data["value"][0] == -7.5
    assert math.isnan(view.likelihoods.data["value"][1])
    assert view.weights.data["weights"] == [[0.75, 0.5], [0.25, 0.5]]
    assert "-7.50" in view.now.text


def test_work_of_a_pass_is_a_share_and_no_finding():
    work = {"graph_tasks": 4, "bytes_read": 1000, "thread_seconds": 8.0, "reading_seconds": 2.0}
    view = shown(Board(), found("moments", tasks=3, **work))
    assert "<td>25%</td><td>tasks 3</td>" in view.stages.text


def test_the_latest_under_way_is_shown_unless_another_is_asked_for():
    board = Board()
    shown(board, begin("first", store="s3://bucket/one"), run="a")
    end = {"event": "end", "at": 1.0, "error": ""}
    view = shown(board, begin("second"), end, run="b")
    assert view.choice.visible
    assert "first" in view.now.text
    assert "read from the network just now" in view.now.text
    (latest, (last, label), (first, _)) = view.choice.options
    assert (latest, last, first) == (LATEST, "b", "a")
    assert ", process 1 on <host>" in label
    view.choice.value = "b"
    view.show(board)
    assert "done after" in view.now.text


def test_what_has_not_changed_is_not_sent_again():
    board = Board()
    end = {"event": "end", "at": 1.0, "error": ""}
    view = shown(board, found("refine", log_likelihood=-1.0, weights=[1.0]), end)
    sent = set()

    def note(attr, old, new):
        sent.add(attr)

    view.rates.on_change("data", note)
    view.now.on_change("text", note)
    view.show(board)
    assert sent == set()
    more = found("refine", log_likelihood=-0.5, weights=[1.0])
    board.take({"run": "a", "now": 5.0, "events": [more]})
    view.show(board)
    assert sent == {"text"}
    assert view.likelihoods.data["value"] == [-1.0, -0.5]
