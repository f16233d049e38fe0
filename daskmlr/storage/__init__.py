"""Task stores and tables on disk; zarr, pyarrow and numpy, no dask."""
