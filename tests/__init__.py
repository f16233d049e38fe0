"""The tests; a package so that its benchmarks run as `python -m tests.benchmarks.NAME`."""
