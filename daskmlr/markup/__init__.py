"""HTML from plain facts: templates that escape whatever they show, and how numbers are written."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jinja2 import Environment


def render(template: str, **facts: Any) -> str:
    """Fill in a template of this folder; every fact is escaped."""
    return _environment().get_template(template).render(facts)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("daskmlr", "markup"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "size": size, "some": some}
    return environment


def number(value: float) -> str:
    """Write a number with four digits, or all before the point.

    Examples
    --------
    >>> number(0.123456), number(1234567.8), number(-2.0), number(1e-7)
    ('0.1235', '1,234,568', '-2', '1e-07')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def size(n_bytes: float) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> size(0), size(123_456_789), size(2.5e15)
    ('0 B', '123 MB', '2,500 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.0f} TB" if n_bytes >= 100 else f"{n_bytes:.3g} TB"


def some(names: Sequence[str], most: int = 8) -> str:
    """List names, the first few if they are many.

    Examples
    --------
    >>> some(["a", "b", "c"], 2)
    'a, b, ... 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... {len(names) - most:,} more"


def listed(items: Iterable[object]) -> str:
    """Write ``a, b and c``.

    Examples
    --------
    >>> listed([1, 2, 4]), listed(["a"]), listed([])
    ('1, 2 and 4', 'a', '')
    """
    *most, last = [*map(str, items)] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows of text out in columns, for a terminal.

    Examples
    --------
    >>> print(aligned([["a", "b"], ["long", "c"]]))
    a     b
    long  c
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
