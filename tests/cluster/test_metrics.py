"""Dask's own metrics know the passes by their names."""

import re
from urllib.request import urlopen

from daskmlr import MixedLinearRegression


def test_the_scheduler_counts_seconds_of_each_pass(store, process_client):
    MixedLinearRegression(3, random_state=0).fit(store, client=process_client)
    address = process_client.dashboard_link.removesuffix("/status")
    with urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    seconds = dict(re.findall(r'compute_seconds_total{task_prefix_name="([\w-]+)"} (\S+)', text))
    assert all(float(seconds[name]) > 0 for name in ("moments", "project", "refine", "diagnose"))
