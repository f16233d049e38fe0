"""Dask graphs over task blocks, and the one place that computes them."""
