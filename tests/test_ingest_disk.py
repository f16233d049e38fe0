"""Ingest onto a disk that is full, at the start or meanwhile."""

import importlib
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from daskmlr.errors import NoSpaceError
from daskmlr.ingestion import ingest

OPTIONS = {"task": "who", "target": "y"}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def wide(path, n_rows):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((n_rows, 20))).add_prefix("x")
    frame = frame.assign(who=rng.integers(0, n_rows // 10, n_rows), y=0.0)
    frame.to_parquet(path, row_group_size=1 << 16)
    return path


def test_a_disk_too_small_is_seen_first(tmp_path, small_disk):
    path = wide(tmp_path / "in.parquet", 200_000)
    message = r"MiB of disk are needed in .*disk \(.*32\.04 MiB for the store.*24\.00 MiB are free"
    with pytest.raises(NoSpaceError, match=message):
        ingest(path, small_disk / "out", **OPTIONS)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("full", ["store", "temporary_directory"])
def test_a_disk_that_fills_up_meanwhile(tmp_path, small_disk, monkeypatch, full):
    """As when another program writes too: what was free at first is not."""
    path = wide(tmp_path / "in.parquet", 700_000)
    tables = importlib.import_module("daskmlr.ingestion.tables")
    monkeypatch.setattr(tables, "check_space", lambda needs: None)
    big = tmp_path / "big"
    big.mkdir()
    folders = {"store": big, "temporary_directory": big} | {full: small_disk}
    message = {
        "store": r"no space left on the disk while writing .*disk/out",
        "temporary_directory": r"the disk of temporary_directory is full",
    }
    with pytest.raises(NoSpaceError, match=message[full]):
        ingest(
            path,
            folders["store"] / "out",
            temporary_directory=folders["temporary_directory"],
            memory_limit="400MB",
            **OPTIONS,
        )
    assert list(small_disk.iterdir()) == list(big.iterdir()) == []
