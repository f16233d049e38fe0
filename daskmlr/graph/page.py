"""The page ``/daskmlr`` on Dask's dashboard, and the same as JSON for who has no browser.

What of distributed is used here is not of its public interface: where it is not as it was, or
there is no bokeh, there is no page, and the runs go on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from distributed.http.utils import RequestHandler, get_handlers
from tornado.ioloop import IOLoop

from daskmlr.graph.board import NAME

if TYPE_CHECKING:
    from daskmlr.graph.board import Board

PAGE, JSON = f"/{NAME}", f"json/{NAME}.json"

logger = logging.getLogger(__name__)


class RunsJSON(RequestHandler):  # type: ignore[misc]
    """All that the board knows."""

    def get(self) -> None:
        """Answer."""
        self.write(self.server.plugins[NAME].told())


# As distributed's `get_handlers` wants them of a module.
routes: list[Any] = [(JSON, RunsJSON, {})]


def install(scheduler: Any, board: Board) -> bool:
    """Put page and JSON on a scheduler's dashboard; whether the page is there."""
    try:
        return _install(scheduler, board)
    except Exception:  # whatever it is: runs do not hang on it
        logger.warning("there will be no page %s on Dask's dashboard", PAGE, exc_info=True)
        return False


def _install(scheduler: Any, board: Board) -> bool:
    applications = [
        app for app in scheduler.http_application.applications if hasattr(app, "app_paths")
    ]
    prefix = applications[0].prefix if applications else ""
    scheduler.http_application.add_handlers(r".*", get_handlers(scheduler, [__name__], prefix))
    if not applications:  # no dashboard, or no bokeh
        return False
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    from daskmlr.graph.view import document

    variables = template_variables(scheduler)  # of all pages: they are told once, and shared
    if NAME not in variables["pages"]:
        variables["pages"].insert(1, NAME)
    page = BokehApplication(
        {PAGE: lambda _, extra, doc: document(board, extra, doc)},
        scheduler,
        prefix=prefix,
        template_variables=variables,
    )
    scheduler.http_application.add_application(page)
    page.initialize(IOLoop.current())
    page.start()
    return True
