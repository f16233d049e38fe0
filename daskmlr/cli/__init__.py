"""The `daskmlr` command."""

from __future__ import annotations

from daskmlr.cli import models, planning, stores
from daskmlr.cli.base import main

__all__ = ["main", "models", "planning", "stores"]
