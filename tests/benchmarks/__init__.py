"""Measurements behind the figures of docs/accuracy.md; each prints a Markdown table."""
